#!/usr/bin/env python3
"""Trains the tokenizer of the default model and writes its model directory, except the weights.

    make_tokenizer.py [--corpus runs/default-model/corpus/base.jsonl] [--out datasets/default/model] [--vocab-size 1024]

Byte-level BPE with a token for every digit, in the file format of Hugging Face `tokenizers`: tokenizer.json,
tokenizer_config.json (with the chat template), generation_config.json, config.json. Standard library only; merges are
chosen by count, then by text, so the same corpus gives the same bytes.
"""

import argparse
import json
import re
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
END_OF_TEXT, IM_START, IM_END = range(3)

# What tokenizer.json says, and the same for the ASCII text that we train on, which is what Python's `re` can express.
PIECES = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s*[\r\n]+|\s+(?!\S)|\s+"
ASCII_PIECES = re.compile(r"[^\r\nA-Za-z0-9]?[A-Za-z]+|[0-9]| ?[^\sA-Za-z0-9]+|\s*[\r\n]+|\s+(?!\S)|\s+")

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def byte_alphabet():
    """GPT-2's printable stand-in of each byte, in the order in which its vocabularies list them."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(rest)}


def count_words(texts, alphabet):
    words = Counter()
    for text in texts:
        if not text.isascii():
            raise SystemExit(f"make_tokenizer.py: the corpus must be ASCII, but holds {text!r}")
        words.update(ASCII_PIECES.findall(text))
    return {tuple(alphabet[byte] for byte in word.encode()): count for word, count in sorted(words.items())}


def merge_word(word, pair):
    merged, i = [], 0
    while i < len(word):
        if tuple(word[i:i + 2]) == pair:
            merged.append(word[i] + word[i + 1])
            i += 2
        else:
            merged.append(word[i])
            i += 1
    return tuple(merged)


def learn_merges(words, limit):
    """The `limit` most useful merges, fewer when the corpus has no more pairs."""
    merges = []
    while len(merges) < limit:
        pairs = Counter()
        for word, count in words.items():
            for pair in zip(word, word[1:]):
                pairs[pair] += count
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        words = {merge_word(word, best): count for word, count in words.items()}
    return merges


def tokenizer_json(alphabet, merges):
    tokens = SPECIAL + list(alphabet.values()) + [left + right for left, right in merges]
    specials = [
        {"id": i, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
         "special": True} for i, token in enumerate(SPECIAL)
    ]
    split = {"type": "Split", "pattern": {"Regex": PIECES}, "behavior": "Isolated", "invert": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": specials, "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": None, "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "",
            "end_of_word_suffix": "", "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": [f"{left} {right}" for left, right in merges],
        },
    }


def tokenizer_config(context):
    return {
        "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": context, "bos_token": None,
        "eos_token": SPECIAL[IM_END], "pad_token": SPECIAL[END_OF_TEXT], "unk_token": None,
        "add_bos_token": False, "clean_up_tokenization_spaces": False, "chat_template": CHAT_TEMPLATE,
        "model_input_names": ["input_ids", "attention_mask"],
    }


def model_config(vocab_size, args):
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": vocab_size,
        "hidden_size": args.hidden, "intermediate_size": args.intermediate, "num_hidden_layers": args.layers,
        "num_attention_heads": args.heads, "num_key_value_heads": args.heads, "head_dim": args.hidden // args.heads,
        "hidden_act": "silu", "max_position_embeddings": args.context, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "rope_scaling": None, "attention_bias": False, "mlp_bias": False, "attention_dropout": 0.0,
        "initializer_range": 0.05, "tie_word_embeddings": True, "bos_token_id": None, "eos_token_id": IM_END,
        "pad_token_id": END_OF_TEXT, "torch_dtype": "float32", "use_cache": True,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, default=ROOT / "runs/default-model/corpus/base.jsonl")
    parser.add_argument("--out", type=Path, default=ROOT / "datasets/default/model")
    parser.add_argument("--vocab-size", type=int, default=1024, help="at most; rounded down to what the corpus needs")
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--intermediate", type=int, default=384)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--context", type=int, default=512)
    args = parser.parse_args()

    alphabet = byte_alphabet()
    with open(args.corpus, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    texts = [text for row in rows for text in (row["prompt"], row["response"])] + ["user\n", "assistant\n", "system\n"]
    merges = learn_merges(count_words(texts, alphabet), args.vocab_size - len(SPECIAL) - len(alphabet))
    tokenizer = tokenizer_json(alphabet, merges)
    vocab_size = len(tokenizer["model"]["vocab"])

    args.out.mkdir(parents=True, exist_ok=True)
    for name, value in [
        ("tokenizer.json", tokenizer),
        ("tokenizer_config.json", tokenizer_config(args.context)),
        ("generation_config.json", {"do_sample": False, "eos_token_id": IM_END, "pad_token_id": END_OF_TEXT}),
        ("config.json", model_config(vocab_size, args)),
    ]:
        with open(args.out / name, "w", encoding="utf-8", newline="\n") as file:
            json.dump(value, file, ensure_ascii=False, indent=2)
            file.write("\n")
    print(f"{args.out}: {vocab_size} tokens, {len(merges)} merges")


if __name__ == "__main__":
    main()
