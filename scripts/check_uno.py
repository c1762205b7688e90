"""Plays UNO's cycle with transformers and PEFT, and compares it with `jacobi decode --passes two`. check-uno.sh calls it.

A cycle has two passes (arXiv 2609.04010). The first has the known token through the base and noise behind it through base +
adapter; the second verifies the drafted tokens through the base. Keys and values of the adapter are forgotten.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

import torch
import transformers
from peft import PeftModel
from transformers import AutoModelForCausalLM, DynamicCache


def forget(cache, length):
    """Removes the keys and values of `cache` from index `length` on."""
    if cache.get_seq_length() > length:
        cache.crop(length - cache.get_seq_length())


class Uno:
    """A model with its adapter, and the cycle."""

    def __init__(self, base, adapter, block_size, seed):
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
        ends = model.generation_config.eos_token_id
        self.ends = set(ends) if isinstance(ends, list) else {ends}
        self.model = PeftModel.from_pretrained(model, adapter).eval()
        self.block_size = block_size
        self.generator = torch.Generator().manual_seed(seed)

    def best(self, tokens, cache, adapted=False):
        """The most likely token behind each of `tokens`, whose keys and values are added to `cache`."""
        ids = torch.tensor([tokens])
        if adapted:
            logits = self.model(ids, past_key_values=cache, use_cache=True).logits
        else:
            with self.model.disable_adapter():
                logits = self.model(ids, past_key_values=cache, use_cache=True).logits
        return logits[0].argmax(-1).tolist()

    def noise(self):
        vocabulary = self.model.config.vocab_size
        return torch.randint(vocabulary, (self.block_size - 1,), generator=self.generator).tolist()

    def is_over(self, response, limit):
        return len(response) >= limit or response[-1] in self.ends

    def greedy(self, prompt, limit):
        cache = DynamicCache()
        response = [self.best(prompt, cache)[-1]]
        while not self.is_over(response, limit):
            response.append(self.best(response[-1:], cache)[0])
        return response

    def decode(self, prompt, limit):
        """The response and the number of cycles."""
        cache, cycles = DynamicCache(), 0
        response = [self.best(prompt, cache)[-1]]
        while not self.is_over(response, limit):
            cycles += 1
            known = self.best(response[-1:], cache)[0]
            kept = cache.get_seq_length()
            draft = self.best(self.noise(), cache, adapted=True)
            forget(cache, kept)
            response.append(known)
            if self.is_over(response, limit):
                break
            verified = [known, *draft]
            best = self.best(verified, cache)
            accepted = 1
            while accepted < len(verified) and verified[accepted] == best[accepted - 1]:
                accepted += 1
            forget(cache, kept + accepted)
            for token in best[:accepted]:
                response.append(token)
                if self.is_over(response, limit):
                    break
        return response, cycles


def jacobi(arguments, prompt):
    command = [arguments.jacobi, "decode", "--model", arguments.base, "--adapter", arguments.adapter, "--json"]
    command += ["--decoder", "multi-block", "--passes", "two", "--window", "sliding", "--pool-size", "0"]
    command += ["--filler", "vocabulary", "--block-size", str(arguments.block_size), "--dtype", "float32"]
    command += ["--max-new-tokens", str(arguments.max_new_tokens), "--prompt", prompt]
    found = subprocess.run(command, capture_output=True, text=True)
    if found.returncode:
        sys.exit(found.stderr)
    return json.loads(found.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapter")
    parser.add_argument("base")
    parser.add_argument("prompts", type=Path)
    parser.add_argument("--jacobi", required=True)
    parser.add_argument("--limit", type=int, required=True)
    parser.add_argument("--block-size", type=int, required=True)
    parser.add_argument("--max-new-tokens", type=int, required=True)
    arguments = parser.parse_args()

    torch.set_grad_enabled(False)
    transformers.utils.logging.disable_progress_bar()
    uno = Uno(arguments.base, arguments.adapter, arguments.block_size, seed=0)
    limit = arguments.max_new_tokens
    lines = arguments.prompts.read_text(encoding="utf-8").splitlines()[: arguments.limit]
    # Tokens and cycles of each prompt; the first token is the prefill's.
    theirs, ours, unequal = [], [], 0
    for line in lines:
        decoded = jacobi(arguments, json.loads(line)["prompt"])
        prompt = decoded["prompt_tokens"]
        response, cycles = uno.decode(prompt, limit)
        greedy = uno.greedy(prompt, limit)
        unequal += not (response == greedy == decoded["response_tokens"])
        theirs.append((len(response) - 1, cycles))
        ours.append((decoded["stats"]["tokens"], decoded["stats"]["cycles"]))

    per_cycle = [sum(tokens for tokens, _ in rows) / max(sum(cycles for _, cycles in rows), 1) for rows in (theirs, ours)]
    # Both draw noise of their own: the standard error of the difference, by prompt.
    ratios = [statistics.stdev(t / c - rate for t, c in rows if c) for rows, rate in zip((theirs, ours), per_cycle)]
    error = (sum(ratio**2 for ratio in ratios) / len(lines)) ** 0.5
    print(f"{len(lines)} prompts: {unequal} texts differ from greedy text")
    print(f"tokens per cycle: transformers + PEFT {per_cycle[0]:.3f}, jacobi {per_cycle[1]:.3f}, standard error {error:.3f}")
    good = unequal == 0 and abs(per_cycle[0] - per_cycle[1]) <= max(0.02 * per_cycle[0], 2 * error)
    print("PASS" if good else "FAIL")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
