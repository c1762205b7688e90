"""The shape of results of lm-evaluation-harness: lm_eval_schema.json, its keys and the metrics of the tasks we follow.

Reads its package without importing it, so that nothing else has to be installed. Versions: lm-eval 0.4.13.

    pip download --no-deps lm-eval==0.4.13 && python -m zipfile -e lm_eval-*.whl unpacked
    python scripts/golden/lm_eval_schema.py unpacked tests/golden/lm_eval_schema.json
"""

import importlib.util
import json
import pathlib
import sys

import yaml

TASKS = {
    "gsm8k": "tasks/gsm8k/gsm8k-cot-zeroshot.yaml",
    "humaneval": "tasks/humaneval/humaneval_instruct.yaml",
    "mbpp": "tasks/mbpp/mbpp_instruct.yaml",
}


class Loader(yaml.SafeLoader):
    pass


Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))


def task(path):
    own = yaml.load(path.read_text(), Loader)
    included = own.pop("include", None)
    return {**(task(path.parent / included) if included else {}), **own}


def metrics(config):
    """`METRIC,FILTER` as results name them; a function goes by its own name, but for one of several k."""
    own = lambda metric: [metric["metric"].rsplit(".", 1)[-1]]
    of_k = lambda metric: [f"pass@{k}" for k in metric["k"]]
    names = [name for metric in config["metric_list"] for name in (of_k if "k" in metric else own)(metric)]
    filters = [kind["name"] for kind in config.get("filter_list", [{"name": "none"}])]
    return [f"{name},{kind}" for name in names for kind in filters]


def main():
    root = pathlib.Path(sys.argv[1]) / "lm_eval"
    spec = importlib.util.spec_from_file_location("result_schema", root / "result_schema.py")
    schema = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(schema)
    keys = lambda name: sorted(getattr(schema, name).__annotations__)
    shape = {name.strip("_"): keys(name) for name in ["EvalResults", "_TaskMetrics", "_SampleCount", "_EvalConfig"]}
    shape["metrics"] = {name: metrics(task(root / path)) for name, path in TASKS.items()}
    pathlib.Path(sys.argv[2]).write_text(json.dumps(shape, indent=1) + "\n")


main()
