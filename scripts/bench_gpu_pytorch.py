"""PyTorch with transformers on the work of the GPU benchmark: the figures that bench-gpu.sh shows beside ours.

Runs the models of transformers in bf16 with SDPA and random weights: greedy decoding over a cache, one token at a time
behind texts of several lengths; passes of many widths; `generate` over a batch; a training step with both losses under a
dense mask, with PyTorch's fused AdamW. Figures have the names of our benchmark. They are written after each section, so
that a stopped run keeps those it has.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
import transformers
from bench_train_pytorch import make_rows, step


def cut(cache, length):
    """Crops the cache to `length` tokens."""
    behind = cache.get_seq_length() - length
    if behind > 0:
        cache.crop(-behind)


class Bench:
    def __init__(self, task, device, output):
        self.task, self.device, self.output = task, torch.device(device), output
        self.dtype = torch.float32 if self.device.type == "cpu" else torch.bfloat16
        versions = {"transformers": transformers.__version__, "torch": torch.__version__.split("+")[0]}
        self.result = {"versions": versions, "figures": {}, "memory_bytes": {}}

    def tell(self, name, value):
        self.result["figures"][name] = value
        self.output.write_text(json.dumps(self.result, indent=1) + "\n", encoding="utf-8")

    def idle(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def seconds(self, work):
        """The median of the rounds, after one uncounted round."""
        work()
        found = []
        for _ in range(self.task["rounds"]):
            self.idle()
            start = time.perf_counter()
            work()
            self.idle()
            found.append(time.perf_counter() - start)
        return statistics.median(found)

    def model(self, config, **fields):
        fields = {**config, **fields}
        configuration = transformers.AutoConfig.for_model(**fields)
        torch.manual_seed(0)
        with self.device:
            return transformers.AutoModelForCausalLM.from_config(
                configuration, dtype=self.dtype, attn_implementation="sdpa"
            )

    def tokens(self, count, vocabulary):
        return torch.tensor([[(at * 31 + 7) % vocabulary for at in range(count)]], device=self.device)

    def behind(self, model, context, vocabulary):
        cache = transformers.DynamicCache()
        for piece in self.tokens(context, vocabulary).split(2048, dim=1):
            model(input_ids=piece, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return cache

    @torch.no_grad()
    def decoding(self, name, config):
        model, vocabulary = self.model(config).eval(), config["vocab_size"]
        passes = self.task["passes"]
        for context in self.task["contexts"]:
            cache = self.behind(model, context, vocabulary)

            def tokens_one_by_one():
                cut(cache, context)
                token = torch.tensor([[5]], device=self.device)
                for _ in range(passes):
                    logits = model(input_ids=token, past_key_values=cache, use_cache=True).logits
                    token = logits[:, -1:].argmax(-1)
                    # A decoding loop needs the token on the host, to find the end of the text.
                    token.item()

            self.tell(f"{name}: AR at {context}", 1e3 * self.seconds(tokens_one_by_one) / passes)
        context = self.task["width_context"]
        cache = self.behind(model, context, vocabulary)
        for width in self.task["widths"]:
            draft = self.tokens(width, vocabulary)

            def wide_passes():
                for _ in range(passes):
                    logits = model(input_ids=draft, past_key_values=cache, use_cache=True).logits
                    logits.argmax(-1).cpu()
                    cut(cache, context)

            self.tell(f"{name}: forward of {width}", 1e3 * self.seconds(wide_passes) / passes)

    @torch.no_grad()
    def generation(self, name, config):
        model, vocabulary = self.model(config).eval(), config["vocab_size"]
        slots, prompt, response = (self.task[key] for key in ("slots", "prompt", "response"))
        prompts = [[(at * 131 + i * 17) % vocabulary for i in range(prompt)] for at in range(slots)]
        prompts = torch.tensor(prompts, device=self.device)
        start = time.perf_counter()
        model.generate(
            input_ids=prompts,
            attention_mask=torch.ones_like(prompts),
            do_sample=False,
            min_new_tokens=response,
            max_new_tokens=response,
            pad_token_id=0,
            eos_token_id=None,
        )
        self.idle()
        self.tell(f"{name}: generation, responses alone", slots * response / (time.perf_counter() - start))

    def training(self, name, shape):
        config, layers = shape["config"], shape["trained_layers"]
        model = self.model(config, num_hidden_layers=layers).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
        samples, size = shape["training"]["samples"], shape["training"]["sample_tokens"]
        counts = [sum(len(sample[loss]) for sample in samples) for loss in ("ar", "pc")]
        per_row = max(self.task["row_tokens"] // size, 1)
        rows = [[part.to(self.device) for part in row] for row in make_rows(samples, per_row)]
        seconds = self.seconds(lambda: step(model, optimizer, rows, counts))
        if self.device.type == "cuda":
            self.result["memory_bytes"][name] = torch.cuda.max_memory_allocated(self.device)
        self.tell(f"{name}, {layers} layers: training", len(samples) * size / seconds)

    def section(self, what, *arguments):
        """Runs a section; leaves it out with a message if it does not fit into memory."""
        try:
            getattr(self, what)(*arguments)
        except torch.OutOfMemoryError as error:
            print(f"bench_gpu_pytorch: {arguments[0]}: {what} is left out: {error}", flush=True)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", type=Path, help="file that the benchmark wrote with --task")
    parser.add_argument("output", type=Path)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--shape", help="only this shape of the task")
    parser.add_argument("--seconds", type=float, default=220.0, help="no section starts after this time")
    arguments = parser.parse_args()

    started = time.perf_counter()
    task = json.loads(arguments.task.read_text(encoding="utf-8"))
    bench = Bench(task, arguments.device, arguments.output)
    for shape in task["shapes"]:
        if arguments.shape not in (None, shape["name"]):
            continue
        name, config = shape["name"], shape["config"]
        for what, argument in (("decoding", config), ("generation", config), ("training", shape)):
            if time.perf_counter() - started > arguments.seconds:
                print(f"bench_gpu_pytorch: {name}: {what} is left out: out of time", flush=True)
                continue
            bench.section(what, name, argument)


if __name__ == "__main__":
    main()
