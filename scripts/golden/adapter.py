"""Random LoRA adapters as PEFT writes them, and the logits of the adapted models: the goldens of our adapters.

Writes OUTPUT/<case>/{adapter_config.json, adapter_model.safetensors, expected.safetensors} for models/<case> of
model_tiny.py. expected.safetensors holds input_ids i64 [2, 24] and logits f32 [2, 24, V]. B is random too, so that every
matrix has an effect.

Made with: peft 0.21.2, transformers 5.23.0, torch 2.13.0, safetensors 0.8.0, Python 3.11.
Usage: adapter.py MODELS_DIR OUTPUT_DIR
"""

import argparse
from pathlib import Path

import peft
import torch
import transformers
from safetensors.torch import load_file, save_file

SEED = 20261130
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CASES = {
    "tiny_llama": {"r": 4, "lora_alpha": 8, "target_modules": ALL},
    "tiny_qwen2": {"r": 3, "lora_alpha": 7, "target_modules": ["q_proj", "v_proj", "down_proj"]},
}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("models", type=Path)
    parser.add_argument("output", type=Path)
    args = parser.parse_args()
    for case, settings in CASES.items():
        torch.manual_seed(SEED)
        base = transformers.AutoModelForCausalLM.from_pretrained(args.models / case, dtype=torch.float32)
        base.config._name_or_path = f"models/{case}"
        model = peft.get_peft_model(base, peft.LoraConfig(task_type="CAUSAL_LM", **settings)).eval()
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.3)
        directory = args.output / case
        model.save_pretrained(directory)
        (directory / "README.md").unlink(missing_ok=True)
        input_ids = load_file(args.models / case / "expected.safetensors")["input_ids"]
        with torch.no_grad():
            logits = model(input_ids=input_ids).logits
        save_file({"input_ids": input_ids, "logits": logits.contiguous()}, directory / "expected.safetensors")


main()
