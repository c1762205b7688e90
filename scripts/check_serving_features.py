"""Tests which request features of vLLM work with Jacobi drafts: each on vLLM without and with them, in a table.

    scripts/check-serving.sh MODEL --features [--adapter DIR]

Works: the same tokens as without drafts. Falls back: the same tokens, one per step. Refused: an error that says so, and
the engine continues. Anything else is WRONG, and the exit code 1.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import serving_engines

LONGEST = 64  # tokens of a response
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
REGEX = {"structured": {"regex": "[0-9]{9}"}}
MIXED = {}, {"stop": ["####"]}, {"logprobs": 2}, {"repetition_penalty": 1.3}, REGEX, {"bad_words": ["After"]}
# Name, engine arguments, and per request sampling parameters over greedy ones. A tuple gives each prompt its own;
# "prefix" puts that many tokens, the same ones, in front of every prompt.
CASES = [
    ("batching, 16 requests", {}, {}),
    ("chunked prefill, 32 tokens per step", {"max_num_batched_tokens": 32, "max_num_seqs": 1}, {}),
    ("prefix caching", {"max_num_seqs": 1}, {"prefix": 270}),
    ("no prefix caching", {"enable_prefix_caching": False}, {}),
    ("prompts in pieces beside drafts", {"max_num_batched_tokens": 96, "max_num_seqs": 4}, {}),
    ("too little memory, requests wait", {"max_model_len": 256, "block_size": 32, "num_gpu_blocks_override": 10}, {}),
    ("stop strings", {}, {"stop": ["####", "there are"]}),
    ("stop strings kept in the text", {}, {"stop": ["are "], "include_stop_str_in_output": True}),
    ("stop token ids", {}, {"stop_token_ids": [16, 365]}),
    ("max_tokens in the middle of a draft", {}, {"max_tokens": 7}),
    ("min_tokens", {}, {"min_tokens": 60}),
    ("ignore_eos, to the end of the context", {"max_model_len": 128}, {"ignore_eos": True, "max_tokens": 128}),
    ("logprobs", {}, {"logprobs": 5}),
    ("prompt_logprobs", {}, {"prompt_logprobs": 1}),
    ("penalties", {}, {"repetition_penalty": 1.3, "frequency_penalty": 0.5, "presence_penalty": 0.5}),
    ("bad_words", {}, {"bad_words": ["After", "="]}),
    ("allowed_token_ids", {}, {"allowed_token_ids": list(range(10, 400))}),
    ("structured output, regex", {}, {"structured": {"regex": r"[0-9]{3} [a-z]{10,30}\."}}),
    ("structured output, JSON schema", {}, {"structured": {"json": SCHEMA}}),
    ("structured output, choice", {}, {"structured": {"choice": ["yes it is", "no it is not"]}}),
    ("a batch of these", {}, MIXED),
    ("sampling, temperature 0.7", {}, {"temperature": 0.7, "seed": 1}),
    ("logit_bias", {}, {"logit_bias": {5: 1.0}}),
]
WITH_ADAPTER = [
    ("requests of the base between those of the adapter", {}, ({}, {"base": True})),
    ("two adapters and the base in a batch", {"max_loras": 2}, ({}, {"lora": 1}, {"base": True})),
]


class Requests(serving_engines.Vllm):
    """An engine for the cases that share its arguments."""

    def parameters(self, case):
        """The sampling parameters of a case, as vLLM's objects."""
        case = {"temperature": 0, "max_tokens": LONGEST} | case
        structured = case.pop("structured", None)
        if "logit_bias" in case:
            case["logit_bias"] = {int(token): bias for token, bias in case["logit_bias"].items()}
        if structured is not None:
            from vllm.sampling_params import StructuredOutputsParams

            case["structured_outputs"] = StructuredOutputsParams(**structured)
        return self.vllm.SamplingParams(**case)

    def answer(self, prompts, case):
        """{"outputs": ids, logprobs, cached tokens and steps by prompt} or {"error"}."""
        steps, outputs = [0] * len(prompts), [None] * len(prompts)
        if isinstance(case, dict) and "prefix" in case:
            shared = [token for prompt in prompts for token in prompt][: case["prefix"]]
            case = {key: value for key, value in case.items() if key != "prefix"}
            prompts = [shared + prompt for prompt in prompts]
        for at, prompt in enumerate(prompts):
            own = dict(case[at % len(case)] if isinstance(case, (list, tuple)) else case)
            is_base, number = own.pop("base", False), own.pop("lora", 0)
            lora = self.loras[number] if self.loras and not is_base else None
            try:
                self.engine.add_request(str(at), {"prompt_token_ids": prompt}, self.parameters(own), lora_request=lora)
            except (ValueError, self.vllm.exceptions.VLLMValidationError) as error:
                self.engine.abort_request([str(earlier) for earlier in range(at)])
                return {"error": str(error)}
        while self.engine.has_unfinished_requests():
            for output in self.engine.step():
                at, best = int(output.request_id), output.outputs[0]
                steps[at] += 1
                if output.finished:
                    chosen = zip(best.token_ids, best.logprobs or [])
                    outputs[at] = {
                        "ids": list(best.token_ids),
                        "text": best.text,
                        "logprobs": [step[token].logprob for token, step in chosen],
                        "cached": output.num_cached_tokens,
                        "steps": steps[at] - 1,
                    }
        return {"outputs": outputs}


def child(model, request):
    """Answers cases of one engine: {"options", "prompts", "cases"} in, a list of answers to the file "output"."""
    engine = Requests(model, request["options"])
    answers = [engine.answer(request["prompts"], case) for case in request["cases"]]
    Path(request["output"]).write_text(json.dumps(answers), encoding="utf-8")


def ask(model, work, options, prompts=(), cases=()):
    """The answers of an engine in a separate process, or the end of its log if it does not start."""
    request = {"options": options, "prompts": prompts, "cases": cases, "output": str(work / "answers.json")}
    file = work / "request.json"
    file.write_text(json.dumps(request), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, __file__, str(model), "--child", str(file)], capture_output=True, text=True
    )
    log = done.stdout + done.stderr
    return (json.loads(Path(request["output"]).read_text()) if done.returncode == 0 else None), log


def verdict(plain, drafts):
    """The result of a case, and a remark."""
    if "error" in drafts:
        return "refused", drafts["error"].splitlines()[0]
    if "error" in plain:
        return "WRONG", f"refused without drafts only: {plain['error']}"
    pairs = list(zip(plain["outputs"], drafts["outputs"], strict=True))
    wrong = sum(a["ids"] != b["ids"] or a["text"] != b["text"] for a, b in pairs)
    if wrong:
        return "WRONG", f"{wrong} of {len(pairs)} texts differ"
    remarks = []
    probabilities = [abs(x - y) for a, b in pairs for x, y in zip(a["logprobs"], b["logprobs"], strict=True)]
    if probabilities:
        remarks.append(f"largest difference of log-probabilities {max(probabilities):.0e}")
        if max(probabilities) > 1e-3:
            return "WRONG", remarks[0]
    if any(b["cached"] for _, b in pairs):
        remarks.append(f"{sum(b['cached'] or 0 for _, b in pairs)} prompt tokens from the cache")
    steps = sum(b["steps"] for _, b in pairs)
    rate = sum(len(b["ids"]) - 1 for _, b in pairs) / max(1, steps)
    remarks.insert(0, f"{rate:.2f} tokens per step")
    return ("works" if rate > 1.01 else "falls back"), "; ".join(remarks)


def ids_of(model, file):
    """The first 16 prompts as chats in ids."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    texts = [json.loads(line)["prompt"] for line in file.read_text(encoding="utf-8").splitlines()[:16]]
    chats = [[{"role": "user", "content": text}] for text in texts]
    rendered = tokenizer.apply_chat_template(chats, add_generation_prompt=True, return_dict=True)
    return rendered["input_ids"]


def requests(model, adapter, work, prompts):
    """Every case on an engine without and one with drafts, loaded once for the cases that share its arguments: name,
    result, remark."""
    found, rows = {}, CASES + (WITH_ADAPTER if adapter else [])
    engines = [own for _, own, _ in rows]
    for options in [own for at, own in enumerate(engines) if own not in engines[:at]]:
        names = [name for name, own, _ in rows if own == options]
        cases = [case for _, own, case in rows if own == options]
        base = {"arguments": {"max_model_len": 512} | options}
        answers = []
        for drafts in ({}, {"drafts": 15, "jacobi": {}, "adapter": adapter}):
            got, log = ask(model, work, base | drafts, prompts, cases)
            if got is None:
                sys.exit(f"check-serving: an engine ended:\n{log[-3000:]}")
            answers.append(got)
        found |= {name: verdict(plain, drafted) for name, plain, drafted in zip(names, *answers)}
    return [(name, *found[name]) for name, _, _ in rows]


def startups(model, work):
    """Engines that must not start, or must start with a warning: name, result, line of the log."""
    broken, bare = work / "broken", work / "bare"
    for copy in (broken, bare):
        shutil.copytree(model, copy, ignore=shutil.ignore_patterns("jacobi.json"))
    (broken / "jacobi.json").write_text("{")
    rows = [
        ("more than 128 draft tokens", model, {"drafts": 129}, "129"),
        ("more draft tokens than context", model, {"drafts": 100, "arguments": {"max_model_len": 64}}, "101 rows"),
        ("unknown setting", model, {"drafts": 15, "jacobi": {"windows": "sliding"}}, "unknown jacobi setting"),
        ("broken jacobi.json", broken, {"drafts": 15}, str(broken / "jacobi.json")),
        ("no jacobi.json", bare, {"drafts": 15}, "no jacobi.json"),
    ]
    for name, directory, options, word in rows:
        answers, log = ask(directory, work, options)
        lines = [line for line in log.splitlines() if word in line and ("rror" in line or answers is not None)]
        state = "works" if answers is not None else "refused"
        yield name, state if lines else "WRONG", shown(lines[-1], word) if lines else log[-300:]


def shown(line, word):
    """The part of a log line around a word, without the text that vLLM adds to every error of a drafter."""
    line = line.removesuffix(" The class constructor must accept VllmConfig as argument.")
    return line[max(0, line.find(word) - 30) :][:160]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("prompts", type=Path, nargs="?")
    parser.add_argument("--adapter", help="a draft adapter of the model")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(str(arguments.model), json.loads(arguments.child.read_text(encoding="utf-8")))
        return

    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        prompts = ids_of(arguments.model, arguments.prompts)
        rows = requests(arguments.model, arguments.adapter, work, prompts)
        if not arguments.adapter:
            rows += startups(arguments.model, work)
    width = max(len(row[0]) for row in rows)
    for name, state, remark in rows:
        print(f"{name:<{width}}  {state:<10}  {remark}")
    sys.exit(any(state == "WRONG" for _, state, _ in rows))


if __name__ == "__main__":
    main()
