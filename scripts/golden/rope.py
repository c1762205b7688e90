"""The rotary frequencies that transformers computes from config.json, for every scaling that we read.

Writes a list of {"config": fields of config.json, "frequencies": inverse frequencies as fp32, "attention_factor": what
cosines and sines are multiplied by}. The fields are in both forms: `rope_theta` with `rope_scaling`, and `rope_parameters`.

Made with: transformers 5.23.0 (4.57.6 gives the same where it reads the setting), torch 2.13.0, Python 3.11.
Usage: rope.py OUTPUT_FILE
"""

import argparse
import json
from pathlib import Path

import torch
import transformers
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

BASE = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "vocab_size": 8,
    "hidden_size": 128,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "max_position_embeddings": 32768,
}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


def old(theta=1000000.0, **scaling):
    return {"rope_theta": theta, "rope_scaling": scaling}


def new(theta=1000000.0, **parameters):
    return {"rope_parameters": {"rope_theta": theta, **parameters}}


def yarn(**fields):
    return {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8192, **fields}


CASES = [
    {"rope_theta": 10000.0, "rope_scaling": None},
    new(10000.0, rope_type="default", partial_rotary_factor=1.0),
    old(type="linear", factor=2),
    old(500000.0, **LLAMA3, original_max_position_embeddings=8192),
    # The settings in the README files of Qwen2.5 and Qwen3: without and with a longer max_position_embeddings.
    old(type="yarn", factor=4.0, original_max_position_embeddings=32768),
    {**old(rope_type="yarn", factor=4.0, original_max_position_embeddings=32768), "max_position_embeddings": 131072},
    new(**yarn()),
    old(**yarn(attention_factor=1.5)),
    old(**yarn(attention_factor=0.0, mscale=0.7, mscale_all_dim=1.2)),
    new(**yarn(mscale=0.7, mscale_all_dim=1.2)),
    new(**yarn(mscale=0.7)),
    old(**yarn(beta_fast=8, beta_slow=0.25)),
    old(**yarn(beta_fast=0, beta_slow=None)),
    old(**yarn(truncate=False)),
    new(**yarn(truncate=None, attention_factor=None)),
    old(**yarn(truncate=False, beta_fast=2.0, beta_slow=2.0)),
    old(10000.0, rope_type="yarn", factor=2),
    old(10000.0, **{**yarn(), "factor": 0.5}),
    new(100.0, **yarn()),
    new(1000000000.0, **yarn()),
    {**new(**yarn(factor=None)), "max_position_embeddings": 65536},
    {**old(20000.0, type="yarn", factor=8.0), "rope_parameters": {"rope_type": "linear", "factor": 3.0}},
    {**new(20000.0, rope_type="linear", factor=3.0), "rope_scaling": {}},
]


def frequencies(fields):
    config = transformers.Qwen2Config.from_dict({**BASE, **json.loads(json.dumps(fields))})
    rope_type = config.rope_parameters["rope_type"]
    if rope_type == "default":
        model = transformers.AutoModelForCausalLM.from_config(config)
        return model.model.rotary_emb.inv_freq, model.model.rotary_emb.attention_scaling
    return ROPE_INIT_FUNCTIONS[rope_type](config, "cpu")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    rows = []
    for fields in CASES:
        found, factor = frequencies(fields)
        assert found.dtype == torch.float32
        rows.append({"config": {**BASE, **fields}, "attention_factor": factor, "frequencies": found.tolist()})
    lines = ",\n".join(json.dumps(row) for row in rows)
    arguments.output.write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
