"""Writes the tokens of the cases of `decode` in tests/cases: what transformers generates, greedily in fp32, with the models of
the cases, which the test leaves in a folder:

    JACOBI_KEEP_CASES=/tmp/cases cargo test --workspace --test cli every_case
    python scripts/golden/cases.py /tmp/cases

Run with torch 2.13.0 (CPU) and transformers 5.23.0.
"""

import json
import pathlib
import re
import sys

import torch
import transformers

CASES = pathlib.Path(__file__).resolve().parents[2] / "tests/cases"
# The least distance between the two largest logits: rounding decides no token.
GAP = 1e-3


def decode(model_dir, prompt, raw, new_tokens):
    """The ids of the prompt and of the answer."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_dir)
    model = transformers.AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    chat = [{"role": "user", "content": prompt}]
    ids = tokenizer(prompt)["input_ids"] if raw else tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
    # Greedy, whatever config.json says of sampling.
    model.generation_config = transformers.GenerationConfig(eos_token_id=257, pad_token_id=257)
    options = dict(max_new_tokens=new_tokens, do_sample=False, output_logits=True, return_dict_in_generate=True)
    made = model.generate(torch.tensor([ids]), **options)
    for logits in made.logits:
        first, second = logits[0].topk(2).values.tolist()
        assert first - second > GAP, f"{model_dir}: {first} and {second} are nearly equal"
    return ids, made.sequences[0, len(ids):].tolist()


def replaced(text, name, key, ids):
    """case.json with the `ids` under `key` of the case `name`."""
    pattern = rf'("name": "{re.escape(name)}".*?"{key}": )\[[^\]]*\]'
    text, count = re.subn(pattern, lambda found: found[1] + json.dumps(ids), text, count=1, flags=re.DOTALL)
    assert count == 1, (name, key)
    return text


def main(models):
    for path in sorted(CASES.glob("*/case.json")):
        text = path.read_text(encoding="utf-8")
        folder = json.loads(text)
        for case in folder["cases"]:
            asked = {**folder.get("input", {}), **case.get("input", {})}
            if "response_tokens" not in case["right"]:
                continue
            model_dir = models / path.parent.name / case["name"] / "model"
            prompt_ids, ids = decode(model_dir, asked["prompt"], asked.get("raw", False), asked["new_tokens"])
            text = replaced(text, case["name"], "response_tokens", ids)
            if "prompt_tokens" in case["right"]:
                text = replaced(text, case["name"], "prompt_tokens", prompt_ids)
            print(path.parent.name, case["name"], ids)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(pathlib.Path(sys.argv[1]))
