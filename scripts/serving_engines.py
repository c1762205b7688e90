"""An engine behind a pipe, one line of JSON in and one out, so that engines in separate processes can take turns.

    python scripts/serving_engines.py vllm MODEL '{"drafts": 15, "jacobi": {"filler": "ngram"}}'
    python scripts/serving_engines.py transformers MODEL '{}'

The first line out is {"versions"}, once the model is loaded (by transformers with all Auto classes). A request is
{"prompts": ids [N][L], "max_tokens", "streams", "drafts"}, its answer {"seconds", "outputs": N times {"ids", "text",
"steps"}}; `steps` are the passes after the one that gave the first token. transformers also answers {"chat": texts} with
{"ids"}. Messages of the engine go to stderr.
"""

import argparse
import json
import os
import sys
import time


class Vllm:
    """Offline vLLM in this process. Whether it drafts is decided when it is loaded."""

    def __init__(self, model, options):
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
        if not options.get("drafts"):
            # Plain means stock vLLM, without our entry point.
            os.environ["VLLM_PLUGINS"] = ""
        import vllm
        from vllm.lora.request import LoRARequest

        self.vllm = vllm
        self.versions = {"vllm": vllm.__version__}
        # Two names of one adapter: to vLLM they are two.
        adapters = [options["adapter"]] * 2 if options.get("adapter") else []
        self.loras = [LoRARequest(f"draft-{at}", at, path) for at, path in enumerate(adapters, start=1)]
        self.engine = vllm.LLM(model, **engine_arguments(options)).llm_engine

    def run(self, prompts, max_tokens, streams, **_):
        """Keeps `streams` requests running until all are answered."""
        params = self.vllm.SamplingParams(temperature=0, max_tokens=max_tokens)
        lora = self.loras[0] if self.loras else None
        outputs, waiting, running = [None] * len(prompts), list(range(len(prompts)))[::-1], {}
        while waiting or running:
            while waiting and len(running) < streams:
                at = waiting.pop()
                self.engine.add_request(str(at), {"prompt_token_ids": prompts[at]}, params, lora_request=lora)
                running[str(at)] = 0
            for output in self.engine.step():
                # A step in the middle of a prompt gives no output. Each output here is cumulative.
                running[output.request_id] += 1
                if output.finished:
                    best = output.outputs[0]
                    steps = running.pop(output.request_id) - 1
                    outputs[int(output.request_id)] = {"ids": list(best.token_ids), "text": best.text, "steps": steps}
        return outputs


def engine_arguments(options):
    """Arguments of vllm.LLM: {"drafts", "jacobi", "adapter", "dtype", "arguments"}, the last passed on unchanged."""
    arguments = {"dtype": options.get("dtype", "float32"), "enforce_eager": True, "max_num_seqs": 8}
    if options.get("drafts"):
        arguments["speculative_config"] = {
            "method": "custom_class",
            "model": "jacobi_serve.vllm.JacobiProposer",
            "num_speculative_tokens": options["drafts"],
        }
        if options.get("jacobi") is not None:
            arguments["additional_config"] = {"jacobi": options["jacobi"]}
        if options.get("adapter"):
            arguments["speculative_config"]["model"] = "jacobi_serve.vllm_adapter.AdapterProposer"
            with open(os.path.join(options["adapter"], "adapter_config.json"), encoding="utf-8") as file:
                rank = json.load(file)["r"]
            # vLLM takes 8, 16, 32 and so on.
            arguments |= {"enable_lora": True, "max_lora_rank": max(8, 1 << (rank - 1).bit_length())}
    return arguments | options.get("arguments", {})


class Transformers:
    """`model.generate`, plain or with the export's own custom_generate."""

    def __init__(self, model, options):
        import torch
        import transformers
        from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

        torch.set_num_threads(options.get("threads", torch.get_num_threads()))
        self.torch, self.directory = torch, options.get("custom_generate") or model
        self.versions = {"transformers": transformers.__version__, "torch": torch.__version__}
        dtype = getattr(torch, options.get("dtype", "float32"))
        AutoModel.from_pretrained(model, dtype=dtype)
        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=dtype).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        self.passes = 0
        self.model.register_forward_hook(self._count)

    def _count(self, *_):
        self.passes += 1

    def chat(self, text):
        """Ids of a chat of one message, by the export's tokenizer and template."""
        message = [{"role": "user", "content": text}]
        return self.tokenizer.apply_chat_template(message, add_generation_prompt=True, return_dict=True)["input_ids"]

    def run(self, prompts, max_tokens, drafts=0, **_):
        """One prompt after the other."""
        outputs = []
        custom = {"custom_generate": self.directory, "trust_remote_code": True}
        custom |= {"jacobi_block_length": drafts, "jacobi_window": "sliding"}
        for prompt in prompts:
            ids, self.passes = self.torch.tensor([prompt]), 0
            found = self.model.generate(
                input_ids=ids,
                attention_mask=self.torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=max_tokens,
                **(custom if drafts else {}),
            )[0, len(prompt) :].tolist()
            text = self.tokenizer.decode(found, skip_special_tokens=True)
            outputs.append({"ids": found, "text": text, "steps": self.passes - 1})
        return outputs


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=["vllm", "transformers"])
    parser.add_argument("model")
    parser.add_argument("options", type=json.loads)
    arguments = parser.parse_args()

    # A separate descriptor, since libraries print to stdout.
    pipe = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    engine = {"vllm": Vllm, "transformers": Transformers}[arguments.engine](arguments.model, arguments.options)
    print(json.dumps({"versions": engine.versions}), file=pipe, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if "chat" in request:
            print(json.dumps({"ids": [engine.chat(text) for text in request["chat"]]}), file=pipe, flush=True)
            continue
        start = time.perf_counter()
        outputs = engine.run(**request)
        answer = {"seconds": time.perf_counter() - start, "outputs": outputs}
        print(json.dumps(answer), file=pipe, flush=True)


if __name__ == "__main__":
    main()
