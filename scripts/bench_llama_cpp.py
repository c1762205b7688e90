"""Greedy decoding by llama.cpp on the CPU, with which bench-decode.sh compares our speed.

Converts the model to GGUF, to F16 and from that to Q8_0, and decodes with both, plain and with prompt lookup. Writes a
JSON object: {"versions", "threads", "system", "prompt_ids", "decoded", "rounded", "golden": {"texts", "equal",
"tokens", "agreeing"}, "rows": [{"format", "lookup", "tokens_per_second", "tokens"}]}. `tokens_per_second` has one figure
per round, of decoding alone: the time from the first to the last of 1 + `decoded` tokens. `tokens` is the response. The
ways take turns within a round. `rounded` is the share of the weights that F16 does not hold exactly. `golden` compares
F16, plain, with the responses in the prompt file if they are the model's: equal texts, and tokens before a difference.
"""

import argparse
import json
import logging
import sys
import tempfile
import time
from importlib.metadata import version
from itertools import islice
from pathlib import Path

# "2 performs better for cpu-only machines", says the documentation of llama-cpp-python, whose default is 10.
LOOKUP_TOKENS = 2
# A wrong conversion differs at once; rounding to F16 turns a near-tie here and there.
LEAST_AGREEMENT = 0.5
WAY_OUT = "or leave llama.cpp out with --no-llama-cpp"


def fail(message):
    sys.exit(f"bench_llama_cpp: {message}")


try:
    import gguf
    import llama_cpp
    import ml_dtypes  # noqa: F401  With it safetensors reads bf16 into numpy.
    import numpy as np
    from llama_cpp.llama_speculative import LlamaPromptLookupDecoding
    from safetensors.numpy import load_file
except (ImportError, RuntimeError, OSError) as error:
    fail(f"{error}: {sys.executable} needs the packages in scripts/llama-cpp-env.sh, which installs them if"
         f" LLAMA_PYTHON is not set; {WAY_OUT}")  # fmt: skip


def check_instructions(isa):
    """Refuses a llama.cpp that was compiled for other instructions than those compared."""
    system = llama_cpp.llama_print_system_info().decode()
    cpu_info = Path("/proc/cpuinfo")
    wanted = isa == "native" and cpu_info.is_file() and " avx512f " in cpu_info.read_text(encoding="utf-8")
    if ("AVX512 = 1" in system) != wanted:
        uses, with_or_without = ("does not use", "with") if wanted else ("uses", "without")
        fail(f"the llama.cpp of {sys.executable} {uses} AVX-512, but --isa {isa} needs one compiled {with_or_without} it:"
             f" unset LLAMA_PYTHON or point it at one; {WAY_OUT}")  # fmt: skip
    return system


def read_config(directory):
    """The config, of a model that `convert` can convert."""
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    for field, needed in {
        "model_type": "llama", "rope_scaling": None, "attention_bias": False, "mlp_bias": False, "tie_word_embeddings": True,
    }.items():  # fmt: skip
        if config.get(field) != needed:
            fail(f"{directory}/config.json: {field} is {config.get(field)!r}, and this benchmark converts only"
                 f" models with {needed!r} to GGUF: take another --model, {WAY_OUT}")  # fmt: skip
    return config


def convert(directory, output):
    """Writes the model as GGUF in F16, as llama.cpp's convert_hf_to_gguf.py does, and returns the share of weights that
    were rounded. The file has no vocabulary: token ids go in and come out."""
    config = read_config(directory)
    heads, layers = config["num_attention_heads"], config["num_hidden_layers"]
    kv_heads = config.get("num_key_value_heads", heads)
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    writer = gguf.GGUFWriter(output, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(layers)
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_tokenizer_model("no_vocab")

    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, layers)
    rounded = total = 0
    for file in sorted(directory.glob("*.safetensors")):
        for name, values in load_file(file).items():
            values = values.astype(np.float32)
            # llama.cpp interleaves the rotary pairs of q and k; transformers has them as halves of each head.
            for part, count in {"q_proj": heads, "k_proj": kv_heads}.items():
                if f".{part}." in name:
                    values = values.reshape(count, 2, -1, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
            if values.ndim > 1:
                half = values.astype(np.float16)
                if not np.isfinite(half).all():
                    fail(f"{file}: {name} is not finite in F16: take another --model, {WAY_OUT}")
                rounded += np.count_nonzero(half != values)
                values = half
            total += values.size
            theirs = names.get_name(name, try_suffixes=(".weight",))
            if theirs is None:
                fail(f"{file}: llama.cpp's llama has no tensor for {name}: take another --model, {WAY_OUT}")
            writer.add_tensor(theirs, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return rounded / total


def quantize(source, output, threads):
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0
    parameters.nthread = threads
    if llama_cpp.llama_model_quantize(str(source).encode(), str(output).encode(), parameters):
        fail("llama.cpp could not quantize the model to Q8_0; its message is above")


def load(path, lookup, tokens, threads):
    draft = LlamaPromptLookupDecoding(num_pred_tokens=LOOKUP_TOKENS) if lookup else None
    room = tokens + LOOKUP_TOKENS
    return llama_cpp.Llama(
        str(path), n_ctx=room, n_batch=room, n_threads=threads, n_threads_batch=threads, draft_model=draft,
        logits_all=lookup, verbose=False,
    )  # fmt: skip


def generate(model, prompt_ids, count):
    """A response of exactly `count` tokens, and the seconds from its first to its last."""
    model.reset()
    stream = model.generate(prompt_ids, temp=0.0)
    tokens = [next(stream)]
    start = time.perf_counter()
    tokens.extend(islice(stream, count - 1))
    return tokens, time.perf_counter() - start


def compare(model, cases):
    """How far the responses agree with those of `cases`."""
    found = {"texts": len(cases), "equal": 0, "tokens": 0, "agreeing": 0}
    for case in cases:
        golden = case["response_ids"]
        tokens, _ = generate(model, case["prompt_ids"], len(golden))
        same = next((i for i, pair in enumerate(zip(tokens, golden)) if pair[0] != pair[1]), len(golden))
        found["equal"] += same == len(golden)
        found["tokens"] += len(golden)
        found["agreeing"] += same
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("prompt", type=Path, help="JSON file with {'model', 'cases': [{'prompt_ids', 'response_ids'}]}")
    parser.add_argument("output", type=Path)
    parser.add_argument("--case", type=int, required=True)
    parser.add_argument("--tokens", type=int, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--isa", choices=["native", "avx2"], required=True)
    arguments = parser.parse_args()

    # llama.cpp prints a line per tensor; its errors are still shown.
    logging.getLogger("llama-cpp-python").setLevel(logging.ERROR)
    system = check_instructions(arguments.isa)
    prompts = json.loads(arguments.prompt.read_text(encoding="utf-8"))
    prompt_ids = prompts["cases"][arguments.case]["prompt_ids"]
    cases = prompts["cases"] if arguments.model.name == prompts["model"] else []
    longest = [len(case["prompt_ids"]) + len(case["response_ids"]) for case in cases]
    room = max([len(prompt_ids) + 1 + arguments.tokens, *longest])
    with tempfile.TemporaryDirectory(prefix="bench-llama-cpp-") as folder:
        files = {name: Path(folder, f"{name}.gguf") for name in ["F16", "Q8_0"]}
        rounded = convert(arguments.model, files["F16"])
        quantize(files["F16"], files["Q8_0"], arguments.threads)
        ways = [(name, lookup) for name in files for lookup in [False, True]]
        models = {way: load(files[way[0]], way[1], room, arguments.threads) for way in ways}
        golden = compare(models["F16", False], cases)
        if golden["agreeing"] < LEAST_AGREEMENT * golden["tokens"]:
            fail(f"llama.cpp's F16 agrees on only {golden['agreeing']} of the {golden['tokens']} tokens in"
                 f" {arguments.prompt}: {arguments.model} is another model of that name, or the conversion is wrong;"
                 f" {WAY_OUT}")  # fmt: skip
        rows = {way: {"format": way[0], "lookup": way[1], "tokens_per_second": [], "tokens": []} for way in ways}
        for way in ways:
            generate(models[way], prompt_ids, 8)
        for _ in range(arguments.rounds):
            for way in ways:
                tokens, seconds = generate(models[way], prompt_ids, 1 + arguments.tokens)
                rows[way]["tokens_per_second"].append(arguments.tokens / seconds)
                rows[way]["tokens"] = tokens
    result = {
        "versions": {"llama-cpp-python": version("llama-cpp-python"), "gguf": version("gguf")},
        "threads": arguments.threads,
        "system": system,
        "prompt_ids": prompt_ids,
        "decoded": arguments.tokens,
        "rounded": rounded,
        "golden": golden,
        "rows": list(rows.values()),
    }
    arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
