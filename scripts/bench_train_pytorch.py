"""The dual loss by PyTorch and transformers on the CPU, with which bench-train.sh compares our training.

The model of transformers in bf16 with SDPA under a dense mask over the whole row, logits of every position, autograd,
PyTorch's fused AdamW. One row size per process, so that peak memory is measured for each. Results are merged into one
file: {"versions", "settings", "rows": {"<tokens per row>": {"tokens", "seconds": [..], "peak_bytes"}}}. A size that the
file already has under the same settings is not measured again.
"""

import argparse
import json
import os
import time
from pathlib import Path

import torch
import torch.nn.functional as F
import transformers


def make_rows(samples, per_row):
    """Rows of `per_row` samples: token ids, positions, boolean mask, and the positions of each loss."""
    for start in range(0, len(samples), per_row):
        tokens, positions, ar, pc, seen = [], [], [], [], []
        for sample in samples[start : start + per_row]:
            offset = len(tokens)
            tokens += sample["tokens"]
            positions += sample["positions"]
            ar += [(offset + row, token) for row, token in sample["ar"]]
            pc += [(offset + student, offset + teacher) for student, teacher in sample["pc"]]
            seen += [[(offset + a, offset + b) for a, b in runs] for runs in sample["seen"]]
        mask = torch.zeros(len(tokens), len(tokens), dtype=torch.bool)
        for query, runs in enumerate(seen):
            for a, b in runs:
                mask[query, a:b] = True
        yield torch.tensor([tokens]), torch.tensor([positions]), mask[None, None], torch.tensor(ar), torch.tensor(pc)


def dual_loss(logits, ar, pc, counts):
    loss_ar = F.cross_entropy(logits[ar[:, 0]].float(), ar[:, 1], reduction="sum") / counts[0]
    teacher = logits[pc[:, 1]].detach().float().softmax(-1)
    student = logits[pc[:, 0]].float().log_softmax(-1)
    return loss_ar - (teacher * student).sum() / counts[1]


def step(model, optimizer, rows, counts):
    for tokens, positions, mask, ar, pc in rows:
        logits = model(input_ids=tokens, position_ids=positions, attention_mask=mask, use_cache=False).logits[0]
        dual_loss(logits, ar, pc, counts).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


def peak_bytes():
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("samples", type=Path, help="file that the benchmark wrote with --samples")
    parser.add_argument("output", type=Path, help="merged with its present content")
    parser.add_argument("--row", type=int, required=True, help="tokens per row")
    parser.add_argument("--tokens", type=int, required=True, help="tokens of a step if a row has fewer")
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    result = {
        "versions": {"transformers": transformers.__version__, "torch": torch.__version__.split("+")[0]},
        "settings": {
            "model": str(arguments.model),
            "tokens": arguments.tokens,
            "threads": arguments.threads,
            "dtype": arguments.dtype,
            "instructions": os.environ.get("ATEN_CPU_CAPABILITY", "native"),
        },
        "rows": {},
    }
    if arguments.output.is_file():
        found = json.loads(arguments.output.read_text(encoding="utf-8"))
        if all(found.get(key) == result[key] for key in ("versions", "settings")):
            result = found
    if str(arguments.row) in result["rows"]:
        return
    given = json.loads(arguments.samples.read_text(encoding="utf-8"))
    size = given["sample_tokens"]
    samples = given["samples"][: max(arguments.row, arguments.tokens) // size]
    load = transformers.AutoModelForCausalLM.from_pretrained
    model = load(arguments.model, dtype=getattr(torch, arguments.dtype), attn_implementation="sdpa").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    counts = [sum(len(sample[loss]) for sample in samples) for loss in ("ar", "pc")]
    step(model, optimizer, list(make_rows(samples[:1], 1)), counts)
    rows = list(make_rows(samples, max(arguments.row // size, 1)))
    seconds = []
    for _ in range(arguments.rounds):
        start = time.perf_counter()
        step(model, optimizer, rows, counts)
        seconds.append(time.perf_counter() - start)
    row = {"tokens": len(samples) * size, "seconds": seconds, "peak_bytes": peak_bytes()}
    result["rows"][str(arguments.row)] = row
    arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
