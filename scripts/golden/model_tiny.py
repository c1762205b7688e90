"""Tiny random models and what transformers computes with them in fp32: the goldens of our forward pass.

Writes OUTPUT/<case>/{config.json, model.safetensors, expected.safetensors}. expected.safetensors holds
  input_ids  i64 [2, 24]     embed, layers.0, layers.1, .., norm  f32 [2, 24, H]     logits  f32 [2, 24, V]
where layers.i is the residual stream after layer i and norm is the output of the final RMSNorm. Every weight,
norms and biases included, is random, so that none is without effect. The Llama and Mistral cases and tiny_qwen2_yarn carry
config.json in the form that the hub is full of (rope_theta, rope_scaling, torch_dtype), the other Qwen cases in the form
that transformers 5 writes (rope_parameters, dtype).

Made with: transformers 5.23.0, torch 2.11.0 (tiny_llama_dynamic and the yarn cases: 2.13.0), safetensors 0.8.0, Python 3.11.
Usage: model_tiny.py OUTPUT_DIR
"""

import argparse
import json
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file

SEED = 20251216
ROWS, LENGTH = 2, 24
SHAPE = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "attention_dropout": 0.0,
}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}


def llama(**fields):
    return transformers.LlamaConfig(**{**SHAPE, "tie_word_embeddings": False, "rms_norm_eps": 1e-5, **fields})


def qwen2(**fields):
    return transformers.Qwen2Config(**{**SHAPE, "tie_word_embeddings": True, "rms_norm_eps": 1e-6, **fields})


def qwen3(**fields):
    return transformers.Qwen3Config(**{**SHAPE, "tie_word_embeddings": False, "rms_norm_eps": 1e-6, **fields})


def mistral(**fields):
    return transformers.MistralConfig(**{**SHAPE, "tie_word_embeddings": False, "rms_norm_eps": 1e-5, **fields})


def rope(theta=10000.0, **scaling):
    return {"rope_type": "default", "rope_theta": theta, **scaling}


# A head of 8 has four rotary frequencies, wavelengths 6, 63, 628 and 6283 positions: llama3 with an original context
# of 64 keeps the first, blends the second and scales the last two. The positions of the dynamic case and the sliding
# window of the Mistral case are exactly as many as the tokens of a row: up to there they change nothing. The yarn cases
# have 16 original positions, so the rows of 24 go beyond them; their bases put a frequency between the two bounds.
CASES = {
    "tiny_llama": lambda: llama(num_hidden_layers=3, head_dim=16, rope_parameters=rope(100000.0)),
    "tiny_llama_llama3": lambda: llama(
        num_hidden_layers=2, rope_parameters=rope(**LLAMA3, original_max_position_embeddings=64)
    ),
    "tiny_llama_linear": lambda: llama(num_hidden_layers=2, rope_parameters=rope(rope_type="linear", factor=4.0)),
    "tiny_llama_dynamic": lambda: llama(
        num_hidden_layers=2, max_position_embeddings=LENGTH, rope_parameters=rope(rope_type="dynamic", factor=2.0)
    ),
    "tiny_qwen2": lambda: qwen2(num_hidden_layers=3, rope_parameters=rope(1000000.0)),
    "tiny_qwen3": lambda: qwen3(num_hidden_layers=3, head_dim=16, rope_parameters=rope(1000000.0)),
    "tiny_qwen2_yarn": lambda: qwen2(
        num_hidden_layers=2, max_position_embeddings=16, rope_parameters=rope(20.0, **YARN)
    ),
    "tiny_qwen3_yarn": lambda: qwen3(
        num_hidden_layers=2,
        head_dim=16,
        max_position_embeddings=64,
        rope_parameters=rope(100.0, **YARN, beta_fast=4.0, beta_slow=0.5, truncate=False, mscale=1.3, mscale_all_dim=0.4),
    ),
    "tiny_mistral": lambda: mistral(
        num_hidden_layers=2, head_dim=16, sliding_window=LENGTH, rope_parameters=rope(10000.0)
    ),
}


def randomise(model, generator):
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if "norm" in name:
            parameter.copy_(1.0 + 0.2 * noise)
        elif name.endswith("bias"):
            parameter.copy_(0.5 * noise)
        else:
            parameter.copy_(noise * parameter.shape[-1] ** -0.5)


def observed(model, input_ids):
    """One forward pass; the output of every part of the residual stream, by name."""
    seen = {"input_ids": input_ids}
    parts = {"embed": model.model.embed_tokens, "norm": model.model.norm}
    parts |= {f"layers.{i}": layer for i, layer in enumerate(model.model.layers)}

    def keep(name):
        def hook(_module, _inputs, output):
            seen[name] = (output[0] if isinstance(output, tuple) else output).clone()

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in parts.items()]
    seen["logits"] = model(input_ids).logits.clone()
    for handle in handles:
        handle.remove()
    return seen


def hub_form(config):
    """The config.json fields of transformers 5 in the form of transformers 4."""
    parameters = dict(config.pop("rope_parameters"))
    config["rope_theta"] = parameters.pop("rope_theta")
    config["rope_scaling"] = parameters if parameters["rope_type"] != "default" else None
    config["torch_dtype"] = config.pop("dtype")
    return config


def write_case(folder, config, generator):
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager")
    model = model.eval()
    randomise(model, generator)
    input_ids = torch.randint(0, config.vocab_size, (ROWS, LENGTH), generator=generator)
    expected = observed(model, input_ids)

    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    path = folder / "config.json"
    fields = json.loads(path.read_text())
    if fields["model_type"] in ("llama", "mistral") or folder.name == "tiny_qwen2_yarn":
        fields = hub_form(fields)
    path.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n")
    save_file(expected, folder / "expected.safetensors")

    again = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    difference = float((again.eval()(input_ids).logits - expected["logits"]).abs().max())
    if difference > 1e-5:
        raise SystemExit(f"{folder}: read back, the logits differ by {difference:.1e}")
    for file in folder.glob("*.safetensors"):
        file.chmod(0o644)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    torch.set_grad_enabled(False)
    for name, config in CASES.items():
        write_case(arguments.output / name, config(), torch.Generator().manual_seed(SEED))


if __name__ == "__main__":
    main()
