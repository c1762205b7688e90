"""Greedy chat answers of SmolLM2-135M-Instruct by transformers, in fp32: what our decoder must reproduce.

Writes a JSON object: {"model", "versions", "max_new_tokens", "cases": [{"prompt", "prompt_ids", "response_ids",
"smallest_margin"}]}. The response ends with EOS, or at max_new_tokens. `smallest_margin` is the least distance
between the best and the second-best logit over the response: a prompt where it is under MARGIN is refused, because
two correct implementations could then disagree by rounding alone.

Made with: transformers 5.23.0, torch 2.11.0, Python 3.11.
Usage: smollm2_greedy.py MODEL_DIR OUTPUT.json     (MODEL_DIR as scripts/fetch_smollm2.py makes it)
"""

import argparse
import json
from pathlib import Path

import torch
import transformers

MAX_NEW_TOKENS = 128
MARGIN = 1e-3
PROMPTS = [
    "What is the capital of France?",
    "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. "
    "How many clips did Natalia sell altogether in April and May?",
    "Write a Python function that returns the n-th Fibonacci number.",
    "Explain in two sentences why the sky is blue.",
    "Tell a long story about a dragon and a knight.",
    "Explain how photosynthesis works, step by step.",
    "A train travels 60 km in 1.5 hours. What is its average speed in km/h?",
    "Plan a week of healthy dinners, with a recipe for each day.",
]


def answer(model, tokenizer, prompt):
    encoded = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    out = model.generate(
        **encoded, do_sample=False, max_new_tokens=MAX_NEW_TOKENS, return_dict_in_generate=True, output_logits=True
    )
    prompt_ids = encoded["input_ids"][0].tolist()
    margins = [float(top[0] - top[1]) for top in (step[0].topk(2).values for step in out.logits)]
    if min(margins) < MARGIN:
        raise SystemExit(f"{prompt!r}: a near-tie, margin {min(margins):.1e} < {MARGIN:.0e}; choose another prompt")
    return {
        "prompt": prompt,
        "prompt_ids": prompt_ids,
        "response_ids": out.sequences[0].tolist()[len(prompt_ids) :],
        "smallest_margin": round(min(margins), 6),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model_dir", type=Path)
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()

    model = transformers.AutoModelForCausalLM.from_pretrained(arguments.model_dir, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(arguments.model_dir)
    golden = {
        "model": "smollm2-135m-instruct",
        "versions": {"transformers": transformers.__version__, "torch": torch.__version__.split("+")[0]},
        "max_new_tokens": MAX_NEW_TOKENS,
        "cases": [answer(model, tokenizer, prompt) for prompt in PROMPTS],
    }
    lines = ",\n".join("  " + json.dumps(case, ensure_ascii=False) for case in golden.pop("cases"))
    head = json.dumps(golden, indent=1)[:-2]
    arguments.output.write_text(f'{head},\n "cases": [\n{lines}\n ]\n}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
