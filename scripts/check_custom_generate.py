"""Compares the texts of custom_generate/generate.py with those of stock `generate`. check-custom-generate.sh calls it.

Every prompt of PROMPTS (JSONL with "prompt") is decoded greedily by both; then one prompt with many combinations of
arguments, each against stock `generate` with the same arguments.
"""

import argparse
import json
import shutil
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache, GenerationConfig, TextIteratorStreamer

FAILED = []


def say(good, name, more=""):
    print(f"{'PASS' if good else 'FAIL'}  {name}{more and ': '}{more}", flush=True)
    if not good:
        FAILED.append(name)


def same(ours, theirs):
    """Whether two results have the same tokens, and the same scores up to the rounding of wider products."""
    if torch.is_tensor(ours):
        return torch.equal(ours, theirs)
    scores = [(a, b) for key in ("scores", "logits") for a, b in zip(ours.get(key) or (), theirs.get(key) or ())]
    finite = [(a.nan_to_num(0, 0, 0), b.nan_to_num(0, 0, 0)) for a, b in scores]
    lengths = [len(result.get("scores") or ()) for result in (ours, theirs)]
    cached = [result.past_key_values.get_seq_length() for result in (ours, theirs)]
    near = all(torch.allclose(a, b, atol=1e-3) for a, b in finite)
    return torch.equal(ours.sequences, theirs.sequences) and near and len(set(lengths)) == len(set(cached)) == 1


class Bench:
    def __init__(self, directory):
        self.directory = str(directory)
        self.model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(directory)
        if "token_type_ids" in self.tokenizer.model_input_names:
            print("note: tokenizer_config.json lacks model_input_names, and transformers 4.57 refuses token_type_ids: "
                  "export it again")
            self.tokenizer.model_input_names = ["input_ids", "attention_mask"]
        self.stock = type(self.model).generate

    def inputs(self, prompt, **kwargs):
        messages = [{"role": "user", "content": prompt}]
        if self.tokenizer.chat_template is None:
            return self.tokenizer(prompt, return_tensors="pt", **kwargs)
        return self.tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True, **kwargs)

    def ours(self, *args, **kwargs):
        return self.model.generate(*args, custom_generate=self.directory, trust_remote_code=True, **kwargs)

    def texts(self, prompts, tokens):
        """Decodes all prompts both ways and compares."""
        inputs = [self.inputs(prompt) for prompt in prompts]
        options = {"do_sample": False, "max_new_tokens": tokens}
        start = time.process_time()
        theirs = [self.stock(self.model, **one, **options) for one in inputs]
        plain = time.process_time() - start
        made = sum(text.shape[1] - one["input_ids"].shape[1] for text, one in zip(theirs, inputs))
        print(f"stock generate: {made} tokens, {plain:.1f} CPU seconds")
        for name, setting in [("15 drafts, sliding", (15, "sliding")), ("15 drafts, block", (15, "block")),
                              ("7 drafts, sliding", (7, "sliding")), ("as jacobi.json says", (None, None))]:
            chosen = {"jacobi_block_length": setting[0], "jacobi_window": setting[1]}
            start, passes, equal = time.process_time(), 0, 0
            for one, text in zip(inputs, theirs):
                equal += torch.equal(self.ours(**one, **options, **chosen), text)
                passes += self.model.jacobi_passes
            seconds, decoding = time.process_time() - start, (made - len(inputs)) / max(passes - len(inputs), 1)
            say(equal == len(inputs), name, f"{equal} of {len(inputs)} texts equal, {passes} passes, {made / passes:.2f} "
                f"tokens per pass ({decoding:.2f} behind the prompt's), {seconds:.1f} CPU seconds, {plain / seconds:.2f} x")

    def case(self, name, is_jacobi, *args, jacobi={}, **kwargs):
        """Compares one call with stock `generate`; `is_jacobi` says whether Jacobi decoding must have run."""
        fresh = lambda: {key: DynamicCache() if key == "past_key_values" else value for key, value in kwargs.items()}
        torch.manual_seed(0)
        ours = self.ours(*args, **fresh(), **jacobi)
        torch.manual_seed(0)
        results = ours, self.stock(self.model, *args, **fresh())
        good = same(*results) and (self.model.jacobi_passes is not None) == is_jacobi
        say(good, name, f"{self.model.jacobi_passes} passes" if is_jacobi else "stock generate")

    def cases(self, prompt, tokens):
        inputs, greedy = self.inputs(prompt), {"do_sample": False, "max_new_tokens": tokens}
        one = {**inputs, **greedy}
        text = self.tokenizer.decode(self.stock(self.model, **one)[0, inputs["input_ids"].shape[1]:])
        middle = text[len(text) // 3 : len(text) // 3 + 4]
        for length in (1, 2, 3, 7):
            self.case(f"max_new_tokens {length}", True, **{**one, "max_new_tokens": length})
        self.case("128 drafts", True, **one, jacobi={"jacobi_block_length": 128})
        self.case("stop_strings", True, **one, stop_strings=[middle], tokenizer=self.tokenizer)
        seen = lambda ids, scores: torch.tensor([ids.shape[1] % 11 == 0])
        self.case("stopping_criteria", True, **one, stopping_criteria=[seen])
        self.case("min_new_tokens", True, **one, min_new_tokens=min(60, tokens))
        self.case("eos_token_id, several", True, **one, eos_token_id=[int(self.first(text)), 2])
        self.case("repetition_penalty", True, **one, repetition_penalty=1.3)
        self.case("no_repeat_ngram_size", True, **one, no_repeat_ngram_size=3)
        self.case("bad_words_ids", True, **one, bad_words_ids=[[int(self.first(text))]])
        scores = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}
        self.case("scores and logits", True, **one, **scores)
        self.case("generation_config", True, **inputs, generation_config=GenerationConfig(**greedy))
        self.case("ids as the first argument", True, inputs["input_ids"], **greedy)
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        padding = torch.zeros(1, 3, dtype=ids.dtype)
        padded = {"input_ids": torch.cat([padding, ids], 1), "attention_mask": torch.cat([padding, mask], 1)}
        self.case("padding on the left", True, **padded, **greedy)

        two = {"input_ids": ids.repeat(2, 1), "attention_mask": mask.repeat(2, 1)}
        self.case("two prompts", False, **two, **greedy)
        self.case("sampling", False, **{**one, "do_sample": True})
        self.case("beams", False, **one, num_beams=3)
        self.case("several sequences", False, **{**one, "do_sample": True}, num_return_sequences=2)
        self.case("another drafter", False, **one, prompt_lookup_num_tokens=3)
        self.case("no cache", False, **one, use_cache=False)
        self.case("a static cache", False, **one, cache_implementation="static", disable_compile=True)
        self.case("a cache of the caller", False, **one, past_key_values=True)
        embeddings = self.model.get_input_embeddings()(ids)
        self.case("embeddings", False, **greedy, inputs_embeds=embeddings, attention_mask=mask)
        allowed = lambda batch, ids: list(range(10, 60))
        self.case("prefix_allowed_tokens_fn", False, **one, prefix_allowed_tokens_fn=allowed)
        halved = lambda ids, scores: scores * 0.5 + ids.shape[1] % 2
        self.case("logits_processor", False, **one, logits_processor=[halved])
        self.case("guidance", False, **one, guidance_scale=1.5)
        self.case("hidden states", False, **one, return_dict_in_generate=True, output_hidden_states=True)

    def first(self, text):
        """A token from the middle of a text."""
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids[len(ids) // 2]

    def streaming(self, prompt, tokens):
        options = {**self.inputs(prompt), "do_sample": False, "max_new_tokens": tokens}
        whole = self.tokenizer.decode(self.ours(**options)[0, options["input_ids"].shape[1]:], skip_special_tokens=True)
        streamer = TextIteratorStreamer(self.tokenizer, skip_prompt=True, skip_special_tokens=True)
        thread = threading.Thread(target=self.ours, kwargs={**options, "streamer": streamer})
        thread.start()
        parts = list(streamer)
        thread.join()
        say("".join(parts) == whole, "streamer", f"{len(parts)} parts")

    def threads(self, prompts, tokens):
        """Several calls at once; each must return its own text."""
        inputs = [{**self.inputs(prompt), "do_sample": False, "max_new_tokens": tokens} for prompt in prompts]
        theirs, ours = [self.stock(self.model, **one) for one in inputs], [None] * len(inputs)
        work = lambda at: ours.__setitem__(at, self.ours(**inputs[at]))
        threads = [threading.Thread(target=work, args=(at,)) for at in range(len(inputs))]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        say(all(map(torch.equal, ours, theirs)), "calls at once", f"{len(inputs)} threads")

    def pipeline(self, prompt, tokens):
        inputs = self.inputs(prompt)["input_ids"]
        theirs = self.stock(self.model, inputs, do_sample=False, max_new_tokens=tokens)
        text = self.tokenizer.decode(theirs[0, inputs.shape[1]:], skip_special_tokens=True)
        pipe = transformers.pipeline("text-generation", model=self.model, tokenizer=self.tokenizer)
        chat = self.tokenizer.chat_template is not None
        asked = [{"role": "user", "content": prompt}] if chat else prompt
        self.model.jacobi_passes = None
        answer = pipe(asked, do_sample=False, max_new_tokens=tokens, return_full_text=False,
                      custom_generate=self.directory, trust_remote_code=True)[0]["generated_text"]
        say(answer == text and self.model.jacobi_passes is not None, "pipeline", f"{self.model.jacobi_passes} passes")

    def warnings(self, prompt):
        """The fallback to stock `generate` warns once."""
        batch = self.inputs(prompt)["input_ids"].repeat(2, 1)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(3):
                self.ours(batch, max_new_tokens=2, do_sample=False)
        said = [str(one.message) for one in caught if "Jacobi" in str(one.message)]
        say(len(said) == 1, "one warning", f"{len(said)} in 3 calls")

    def files(self, prompt):
        """A copy without jacobi.json, one with a broken jacobi.json, and one saved by transformers."""
        inputs = {**self.inputs(prompt), "do_sample": False, "max_new_tokens": 24}
        expected = self.stock(self.model, **inputs)
        with tempfile.TemporaryDirectory() as work:
            copy, saved = Path(work) / "copy", Path(work) / "saved"
            shutil.copytree(self.directory, copy)
            (copy / "jacobi.json").unlink(missing_ok=True)
            ask = lambda path: Bench(path).ours(**inputs)
            say(torch.equal(ask(copy), expected), "no jacobi.json")
            broken = Path(work) / "broken"
            shutil.copytree(copy, broken)
            (broken / "jacobi.json").write_text("{", encoding="utf-8")
            try:
                ask(broken)
                say(False, "a broken jacobi.json is refused")
            except ValueError as error:
                say(str(broken / "jacobi.json") in str(error), "a broken jacobi.json is refused", str(error)[-80:])
            self.model.save_pretrained(saved)
            plain = AutoModelForCausalLM.from_pretrained(saved, dtype=torch.float32)
            say(torch.equal(plain.generate(**inputs), expected), "save_pretrained and plain transformers")
        loaded = AutoModelForCausalLM.from_pretrained(self.directory, dtype=torch.float32)
        say(torch.equal(loaded.generate(**inputs), expected), "from_pretrained and plain generate",
            f"{getattr(loaded, 'jacobi_passes', None) or 'no'} Jacobi passes")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("prompts", type=Path)
    parser.add_argument("--limit", type=int, default=50)
    parser.add_argument("--max-new-tokens", type=int, default=256)
    arguments = parser.parse_args()

    torch.set_grad_enabled(False)
    lines = arguments.prompts.read_text(encoding="utf-8").splitlines()[: arguments.limit]
    prompts = [json.loads(line)["prompt"] for line in lines]
    print(f"transformers {transformers.__version__}, torch {torch.__version__}")
    bench, tokens = Bench(arguments.model), arguments.max_new_tokens
    bench.warnings(prompts[0])
    bench.texts(prompts, tokens)
    bench.cases(prompts[0], tokens)
    bench.streaming(prompts[0], tokens)
    bench.threads(prompts[:6], tokens)
    bench.pipeline(prompts[0], tokens)
    bench.files(prompts[0])
    print(f"FAIL: {', '.join(FAILED)}" if FAILED else "PASS")
    sys.exit(1 if FAILED else 0)


if __name__ == "__main__":
    main()
