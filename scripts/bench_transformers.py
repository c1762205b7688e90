"""Greedy decoding by transformers on the CPU, with which bench-decode.sh compares our speed.

Writes a JSON object: {"versions", "threads", "prompt_ids", "decoded", "rows": [{"dtype", "tokens_per_second",
"tokens"}]}. `tokens_per_second` has one figure per round, of decoding alone: the time of one token (the prompt's pass)
is subtracted from that of 1 + `decoded` tokens. `tokens` is the response. The dtypes take turns within a round.
"""

import argparse
import json
import time
from pathlib import Path

import torch
import transformers

DTYPES = ["float32", "bfloat16"]


def generate(model, prompt_ids, count):
    """A response of exactly `count` tokens, and its time in seconds."""
    start = time.perf_counter()
    out = model.generate(
        prompt_ids,
        attention_mask=torch.ones_like(prompt_ids),
        do_sample=False,
        use_cache=True,
        min_new_tokens=count,
        max_new_tokens=count,
    )
    return out[0, prompt_ids.shape[1] :].tolist(), time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("prompt", type=Path, help="JSON file with {'cases': [{'prompt_ids'}]}")
    parser.add_argument("output", type=Path)
    parser.add_argument("--case", type=int, required=True)
    parser.add_argument("--tokens", type=int, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    arguments = parser.parse_args()

    torch.set_grad_enabled(False)
    torch.set_num_threads(arguments.threads)
    load = transformers.AutoModelForCausalLM.from_pretrained
    models = {name: load(arguments.model, dtype=getattr(torch, name)).eval() for name in DTYPES}
    prompt_ids = json.loads(arguments.prompt.read_text(encoding="utf-8"))["cases"][arguments.case]["prompt_ids"]
    prompt = torch.tensor([prompt_ids])
    rows = {name: {"dtype": name, "tokens_per_second": [], "tokens": []} for name in DTYPES}
    for name in DTYPES:
        generate(models[name], prompt, 8)
    for _ in range(arguments.rounds):
        for name in DTYPES:
            _, first = generate(models[name], prompt, 1)
            tokens, whole = generate(models[name], prompt, 1 + arguments.tokens)
            rows[name]["tokens_per_second"].append(arguments.tokens / (whole - first))
            rows[name]["tokens"] = tokens
    result = {
        "versions": {"transformers": transformers.__version__, "torch": torch.__version__.split("+")[0]},
        "threads": torch.get_num_threads(),
        "prompt_ids": prompt_ids,
        "decoded": arguments.tokens,
        "rows": list(rows.values()),
    }
    arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
