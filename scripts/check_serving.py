"""The comparison of check-serving.sh: the same prompts in jacobi, transformers and vLLM, with and without drafts.

Tokens per step leave out the first token of each response, which the prompt's pass gives, and tokens that a pass verified
behind the end of the text; the end token counts. Steps are the passes after the prompt's. All figures are sums over
prompts. Ours is multi_block with a sliding window of drafts + 1 rows, the same filler and no pool; with an adapter the model is
its base, and each cycle has two passes.

In transformers the prompt's pass also verifies a draft, and fillers come from another generator. Its tokens per step are a
little above or below ours, on few prompts by more than the tolerance, and then miss their target without failing the
check. Drafts in vLLM equal ours token for token.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


class Engine:
    """A process of serving_engines.py."""

    def __init__(self, name, model, options, log):
        command = [sys.executable, str(HERE / "serving_engines.py"), name, str(model), json.dumps(options)]
        self.log = log
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log.open("w"), text=True
        )
        self.versions = self._answer()["versions"]

    def _answer(self):
        line = self.process.stdout.readline()
        if not line:
            tail = "".join(self.log.read_text(encoding="utf-8").splitlines(keepends=True)[-15:])
            sys.exit(f"check-serving: an engine ended; the end of {self.log}:\n{tail}")
        return json.loads(line)

    def ask(self, **request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class Sheet:
    """Rows and targets in the format `jacobi-bench/1` (tests/benches/sheet.rs)."""

    def __init__(self):
        self.rows, self.bars = [], []

    def samples(self, name, unit, samples):
        """Adds the median of the rounds, and returns it."""
        value = statistics.median(samples)
        self.rows.append({"name": name, "value": value, "unit": unit, "spread": [min(samples), max(samples)]})
        return value

    def figure(self, name, unit, value):
        self.rows.append({"name": name, "value": value, "unit": unit, "spread": None})
        return value

    def bar(self, name, value, bound, at_least):
        """Compares a figure with its bound; True if it is met."""
        self.bars.append({"name": name, "value": value, "bound": bound, "at_least": at_least})
        return value >= bound if at_least else value <= bound

    def show(self):
        width = max(len(entry["name"]) for entry in self.rows + self.bars)
        for row in self.rows:
            spread = "" if row["spread"] is None else "  {:.3g}..{:.3g}".format(*row["spread"])
            print(f"{row['name']:<{width}}  {row['value']:>8.3f}  {row['unit']}{spread}")
        print()
        for bar in self.bars:
            met = bar["value"] >= bar["bound"] if bar["at_least"] else bar["value"] <= bar["bound"]
            sign, verdict = ">=" if bar["at_least"] else "<=", "met" if met else "MISSED"
            print(f"{bar['name']:<{width}}  {bar['value']:>8.3f}  {sign} {bar['bound']:g}  {verdict}")


def ours(arguments, texts):
    """Our own decoders on each prompt: {"ar", "drafts"}, each a list of outputs with prompt ids and seconds."""
    command = [arguments.jacobi, "decode", "--model", arguments.model, "--compare", "ar,multi-block", "--json"]
    if arguments.adapter:
        command += ["--adapter", arguments.adapter, "--passes", "two"]
    command += ["--window", "sliding", "--block-size", arguments.drafts + 1, "--pool-size", 0, "--tree-budget", 0]
    command += ["--filler", arguments.filler, "--max-new-tokens", arguments.max_tokens, "--dtype", arguments.dtype]
    found = {"ar": [], "drafts": []}
    for text in texts:
        done = subprocess.run([*map(str, command), "--prompt", text], check=True, capture_output=True, text=True)
        for name, answer in zip(found, json.loads(done.stdout)):
            stats = answer["stats"]
            seconds = stats["prefill_seconds"] + stats["decode_seconds"]
            output = {"ids": answer["response_tokens"], "text": answer["text"], "steps": stats["forwards"]}
            found[name].append(output | {"prompt": answer["prompt_tokens"], "seconds": seconds})
    return found


def per_step(outputs):
    """Tokens per step: sum over sum."""
    steps = sum(output["steps"] for output in outputs)
    return sum(len(output["ids"]) - 1 for output in outputs) / max(1, steps)


def different(outputs, expected):
    """Indices of the responses whose ids differ."""
    return [at for at, (a, b) in enumerate(zip(outputs, expected, strict=True)) if a["ids"] != b["ids"]]


def measure(sheet, name, plain, drafts, request, rounds):
    """Rounds of an engine without and with drafts, in turns. `plain`, `drafts`: (engine, request fields).

    Returns the outputs of both, of the last round, and the indices that differed from plain in any round.
    """
    seconds, outputs, wrong = {"plain": [], "drafts": []}, {}, set()
    for turn in range(rounds):
        order = [("plain", plain), ("drafts", drafts)]
        for label, (engine, fields) in order if turn % 2 == 0 else order[::-1]:
            answer = engine.ask(**request, **fields)
            seconds[label].append(answer["seconds"])
            outputs[label] = answer["outputs"]
        wrong.update(different(outputs["drafts"], outputs["plain"]))
    sheet.samples(f"{name}, plain", "s", seconds["plain"])
    sheet.samples(f"{name}, drafts", "s", seconds["drafts"])
    ratios = [a / b for a, b in zip(seconds["plain"], seconds["drafts"])]
    return outputs, wrong, sheet.samples(f"{name}, plain over drafts", "x", ratios)


class Gate:
    """The figures, and the reasons for a failure."""

    def __init__(self, arguments):
        self.arguments, self.sheet, self.failures, self.versions = arguments, Sheet(), [], {}

    def equal(self, what, wrong, total):
        self.sheet.figure(f"{what}, texts equal", f"of {total}", total - len(wrong))
        if wrong:
            self.failures.append(f"{what}: {len(wrong)} of {total} texts differ, the first is prompt {min(wrong)}")

    def parity(self, what, outputs, reference, same_fillers=True):
        """Compares tokens per step with ours. With other fillers a miss is shown and is no failure."""
        value = self.sheet.figure(f"{what}, tokens per step", "tokens", per_step(outputs))
        ratio, allowed = value / reference, self.arguments.tolerance
        least = self.sheet.bar(f"{what}, tokens per step over ours", ratio, 1 - allowed, True)
        most = self.sheet.bar(f"{what}, tokens per step over ours", ratio, 1 + allowed, False)
        if same_fillers and not (least and most):
            self.failures.append(f"{what}: {value:.3f} tokens per step, ours are {reference:.3f}")
        return value

    def run(self):
        arguments = self.arguments
        texts = [json.loads(line)["prompt"] for line in arguments.prompts.open(encoding="utf-8") if line.strip()]
        texts = texts[: arguments.limit]
        print(f"jacobi, {len(texts)} prompts", flush=True)
        rounds = [ours(arguments, texts) for _ in range(arguments.rounds)]
        mine = rounds[-1]
        self.equal("jacobi", different(mine["drafts"], mine["ar"]), len(texts))
        reference = self.sheet.figure("jacobi, tokens per step", "tokens", per_step(mine["drafts"]))
        for label in mine:
            total = [sum(output["seconds"] for output in one[label]) for one in rounds]
            self.sheet.samples(f"jacobi, {'plain' if label == 'ar' else 'drafts'}", "s", total)
        request = {"prompts": [output["prompt"] for output in mine["ar"]], "max_tokens": arguments.max_tokens}
        if "transformers" in arguments.engines and not arguments.adapter:
            self.transformers(request, texts, mine, reference)
        if "vllm" in arguments.engines:
            self.vllm(request, mine, reference)

    def transformers(self, request, texts, mine, reference):
        print("transformers", flush=True)
        options = {"dtype": self.arguments.dtype, "custom_generate": self.arguments.custom_generate}
        engine = Engine("transformers", self.arguments.model, options, self.arguments.work / "transformers.log")
        self.versions |= engine.versions
        chats = engine.ask(chat=texts)["ids"]
        wrong = [at for at, (a, b) in enumerate(zip(chats, request["prompts"], strict=True)) if a != b]
        self.equal("transformers, prompt ids as ours", wrong, len(texts))
        directory = Path(self.arguments.custom_generate or self.arguments.model)
        if not (directory / "custom_generate/generate.py").is_file():
            print(f"{directory} holds no custom_generate: transformers without drafts alone", flush=True)
            outputs = engine.ask(**request)["outputs"]
            engine.close()
            self.across("transformers", outputs, mine)
            return
        pair = (engine, {"drafts": 0}), (engine, {"drafts": self.arguments.drafts})
        outputs, wrong, _ = measure(self.sheet, "transformers", *pair, request, self.arguments.rounds)
        engine.close()
        self.equal("transformers", wrong, len(texts))
        self.across("transformers", outputs["plain"], mine)
        self.parity("transformers", outputs["drafts"], reference, same_fillers=False)

    def vllm(self, request, mine, reference):
        arguments = self.arguments
        print("vllm", flush=True)
        options = {"dtype": arguments.dtype, "arguments": {"max_model_len": arguments.max_model_len}}
        jacobi = {"filler": arguments.filler} if arguments.adapter else {"filler": arguments.filler, "window": "sliding"}
        with_drafts = options | {"drafts": arguments.drafts, "jacobi": jacobi, "adapter": arguments.adapter}
        plain = Engine("vllm", arguments.model, options, arguments.work / "vllm-plain.log")
        drafts = Engine("vllm", arguments.model, with_drafts, arguments.work / "vllm-drafts.log")
        self.versions |= drafts.versions
        for engine in (plain, drafts):
            engine.ask(prompts=request["prompts"][:4], max_tokens=8, streams=4)
        for streams in arguments.streams:
            name = f"vllm, {streams} stream{'s' if streams > 1 else ''}"
            pair = (plain, {"streams": streams}), (drafts, {"streams": streams})
            outputs, wrong, ratio = measure(self.sheet, name, *pair, request, arguments.rounds)
            self.equal(name, wrong, len(outputs["plain"]))
            value = self.parity(name, outputs["drafts"], reference)
            if streams == 1:
                self.across("vllm", outputs["plain"], mine)
                if arguments.at_least_tokens:
                    self.sheet.bar(f"{name}, tokens per step", value, arguments.at_least_tokens, True)
                if arguments.at_least_ratio:
                    self.sheet.bar(f"{name}, plain over drafts", ratio, arguments.at_least_ratio, True)
        for engine in (plain, drafts):
            engine.close()

    def across(self, name, outputs, mine):
        """Shows differences between engines. No failure: other orders of summation may decide near ties differently."""
        same = len(outputs) - len(different(outputs, mine["ar"]))
        self.sheet.figure(f"{name}, plain texts equal to ours", f"of {len(outputs)}", same)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("prompts", type=Path)
    parser.add_argument("--jacobi", required=True, help="the binary")
    parser.add_argument("--work", type=Path, required=True, help="directory for the engines' logs")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--command", required=True, help="the command to name in the output")
    parser.add_argument("--engines", nargs="+", default=["transformers", "vllm"], choices=["transformers", "vllm"])
    parser.add_argument("--custom-generate", help="directory with custom_generate; the model's by default")
    parser.add_argument("--adapter", help="a draft adapter of the model: vLLM and jacobi draft with it in two passes")
    parser.add_argument("--drafts", type=int, default=15)
    parser.add_argument("--filler", default="random", choices=["random", "ngram", "vocabulary"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--limit", type=int, default=50, help="prompts")
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--max-model-len", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--tolerance", type=float, default=0.02, help="of tokens per step")
    parser.add_argument("--at-least-tokens", type=float, help="target of vLLM's tokens per step, one stream")
    parser.add_argument("--at-least-ratio", type=float, help="target of vLLM's speedup, one stream")
    arguments = parser.parse_args()

    gate = Gate(arguments)
    gate.run()
    print()
    gate.sheet.show()
    environment = {"versions": gate.versions, "python": platform.python_version(), "cpus": os.cpu_count()}
    environment |= {"dtype": arguments.dtype, "prompts": arguments.limit}
    result = {"schema": "jacobi-bench/1", "command": arguments.command, "environment": environment}
    result |= {"rows": gate.sheet.rows, "bars": gate.sheet.bars}
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    partial = arguments.output.with_suffix(".partial")
    partial.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    partial.replace(arguments.output)
    print()
    for failure in gate.failures:
        print(f"FAIL  {failure}")
    print("FAIL" if gate.failures else "PASS")
    sys.exit(1 if gate.failures else 0)


if __name__ == "__main__":
    main()
