"""What scripts/check-slurm.sh, check-torchrun.sh and check-kubernetes.sh share: a small recipe, and a comparison of runs.

    check_runs.py recipe WORK                    prints the recipe, with its output in WORK/one
    check_runs.py compare ONE OTHER [--trained]  exit code 0 if the runs have as many trajectories and the same weights to 1e-5:
                                                 those of the export, or of the checkpoint
"""

import json
import struct
import sys
from pathlib import Path

TOLERANCE = 1e-5
RECIPE = """output_dir = "{work}/one"
[model]
path = "{data}/model"
dtype = "float32"
[prompts]
path = "{data}/prompts-train.jsonl"
id_column = "id"
limit = 200
[generate]
max_new_tokens = 24
[train]
max_steps = 20
batch_size = 8
learning_rate = 1e-4
lr_schedule = "constant"
warmup_ratio = 0.0
tokens_per_row = 200
save_steps = 6
dist_timeout = 60
[tune]
enabled = false
[eval]
max_new_tokens = 8
[eval.prompts]
path = "{data}/prompts-test.jsonl"
limit = 1
"""


def recipe(work):
    return RECIPE.format(work=work, data=Path(__file__).resolve().parent.parent / "datasets/default")


def weights(path):
    data = path.read_bytes()
    start = 8 + struct.unpack("<Q", data[:8])[0]
    tensors = json.loads(data[8:start])
    for name in sorted(tensors.keys() - {"__metadata__"}):
        begin, end = tensors[name]["data_offsets"]
        yield name, struct.unpack(f"<{(end - begin) // 4}f", data[start + begin : start + end])


def compare(one, other, *, trained=False):
    """Whether the runs agree; prints by how much they differ."""
    manifests = [json.loads((run / "round-1/trajectories/manifest.json").read_text()) for run in (one, other)]
    rows, others = (manifest["written"] for manifest in manifests)
    file = "round-1/checkpoints/latest/model.safetensors" if trained else "export/model.safetensors"
    off = 0.0
    for (name, a), (same, b) in zip(weights(one / file), weights(other / file), strict=True):
        assert name == same, f"{file}: {name} in one, {same} in the other"
        off = max(off, *(abs(x - y) for x, y in zip(a, b, strict=True)))
    has_report = trained or (other / "report/report.md").is_file()
    print(f"{other.name}: {others} trajectories; weights differ from one process by at most {off:.1e}")
    return rows == others > 0 and off <= TOLERANCE and has_report


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["recipe", work]:
            print(recipe(work))
        case ["compare", one, other, *options]:
            sys.exit(not compare(Path(one), Path(other), trained=options == ["--trained"]))
        case _:
            sys.exit(__doc__)
