"""Compares our fp32 logits with those of transformers. check-transformers.sh calls it.

For every WORK/<n>.txt, a text, and WORK/<n>.safetensors, {"input_ids" i64 [L], "logits" f32 [L, V]} as written by
`jacobi inspect MODEL --logits TEXT --output FILE`. Ids must be equal, logits equal within the tolerance.
"""

import argparse
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer


def difference(model, tokenizer, text, ours):
    """The largest |difference| of logits, or None if the ids differ."""
    input_ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids[0]
    if input_ids.tolist() != ours["input_ids"].tolist():
        print(f"ids differ\n  ours         {ours['input_ids'].tolist()}\n  transformers {input_ids.tolist()}")
        return None
    theirs = model(input_ids[None]).logits[0].float()
    if theirs.shape != ours["logits"].shape:
        print(f"shapes differ: ours {list(ours['logits'].shape)}, transformers {list(theirs.shape)}")
        return None
    return float((theirs - ours["logits"]).abs().max())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--tolerance", type=float, required=True)
    arguments = parser.parse_args()

    torch.set_grad_enabled(False)
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    passed = True
    for file in sorted(arguments.work.glob("*.txt")):
        text = file.read_text(encoding="utf-8")
        found = difference(model, tokenizer, text, load_file(file.with_suffix(".safetensors")))
        # Written so that NaN fails.
        good = found is not None and found <= arguments.tolerance
        passed &= good
        shown = "not comparable" if found is None else f"max |difference| {found:.2e}"
        print(f"{'PASS' if good else 'FAIL'}  {shown} (tolerance {arguments.tolerance:.0e})  {text[:40]!r}")
    print("PASS" if passed else "FAIL")
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
