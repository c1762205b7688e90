"""Runs the worker of jacobi_serve/sglang.py on SGLang's n-gram worker, on a CPU. Exit code 0 if all texts are greedy.

Usage: check_sglang_worker.py PACKAGE MODEL PROMPTS [--count 50] [--rows 16] [--batch 4] [--overlap]
       [--no-predictions]

PACKAGE is an unpacked wheel (the folder that contains sglang/), MODEL an export, PROMPTS a .jsonl with "prompt". Real are
SGLang's plug-in loader, its algorithm registry, `NGRAMWorker` with its tensors, `NgramVerifyInput`, `eagle_sample`, and the
Triton kernels that lay out and verify a tree, in Triton's interpreter. Fakes replace the scheduler (the loop below), the
target worker (transformers with the whole text in each pass, so KV cache, attention backends and CUDA graphs are not
tested), and compiled code (mocks). This is not a run on a GPU.

Needs torch, triton, transformers, what vLLM requires, and orjson, pybase64, partial_json_parser and uvloop.
"""

import argparse
import importlib.abc
import importlib.machinery
import importlib.metadata
import json
import os
import sys
import types
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

# Must be set before Triton's functions are decorated.
os.environ["TRITON_INTERPRET"] = "1"

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

# Modules that SGLang imports and nothing here calls: compiled code, and packages of gigabytes.
MOCKED = """IPython sgl_kernel flashinfer tvm_ffi decord decord2 modelscope torchvision torchaudio interegular xgrammar
llguidance outlines kernels quack tilelang gguf""".split()

MOST_TOKENS = 96


class Mocks(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds `MOCKED` modules that are not installed; they have every attribute."""

    def find_spec(self, name, path=None, target=None):
        known = name.partition(".")[0] in MOCKED
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if known else None

    def create_module(self, spec):
        module = types.ModuleType(spec.name)

        def attribute(name):
            if name.startswith("__"):
                raise AttributeError(name)
            return mock.MagicMock(name=f"{spec.name}.{name}")

        module.__path__, module.__getattr__ = [], attribute
        return module

    def exec_module(self, module):
        pass


class Target:
    """The target worker: logits of each row of each request, from the text so far and the draft."""

    def __init__(self, model, rows, batch):
        self.model, self.rows = model, rows
        self.model_runner = SimpleNamespace(max_running_requests=batch, watermark_state=None)

    def get_memory_pool(self):
        return None, None

    @torch.no_grad()
    def forward_batch_generation(self, batch, pp_proxy_tensors=None, is_verify=False):
        assert is_verify and batch.forward_mode.is_target_verify()
        places = batch.seq_lens[:, None] + torch.arange(self.rows)
        assert batch.spec_info.positions.reshape(-1, self.rows).equal(places), "a chain has consecutive positions"
        logits = []
        for req, rows in zip(batch.reqs, batch.input_ids.reshape(-1, self.rows).tolist()):
            assert rows[0] == req.text[-1], "row 0 is the last known token"
            logits.append(self.model(torch.tensor([req.text + rows[1:]])).logits[0, len(req.text) - 1 :])
        return SimpleNamespace(
            logits_output=SimpleNamespace(next_token_logits=torch.cat(logits)), can_run_cuda_graph=False
        )


def real_worker(options, target):
    """A worker of the plug-in, made by SGLang's registry."""
    sys.meta_path.append(Mocks())
    sys.path[:0] = [str(Path(options.package)), str(Path(__file__).resolve().parent.parent / "python")]
    from sglang.kernels.ops.speculative import reconstruct_tree, spec_tree
    from sglang.srt import plugins
    from sglang.srt.speculative import eagle_utils, ngram_worker
    from sglang.srt.speculative.spec_info import SpeculativeAlgorithm

    # The entry point of python/pyproject.toml, whether or not the package is installed here.
    point = importlib.metadata.EntryPoint("jacobi", "jacobi_serve.sglang:register", plugins.GENERAL_PLUGINS_GROUP)
    plugins.entry_points = lambda group: [point]
    plugins.load_plugins()

    settings = mock.MagicMock(
        speculative_num_draft_tokens=options.rows,
        speculative_ngram_external_corpus_path=None,
        speculative_use_rejection_sampling=False,
    )
    schedule = SimpleNamespace(disable_overlap_schedule=not options.overlap, page_size=1)
    ngram_worker.get_spec = eagle_utils.get_spec = lambda: settings
    ngram_worker.get_schedule = lambda: schedule
    ngram_worker.get_device = lambda: SimpleNamespace(device="cpu")
    ngram_worker.NgramCorpus = mock.MagicMock()
    ngram_worker.assign_extend_cache_locs_func = lambda batch_size, draft_token_num, **_: torch.zeros(
        batch_size * draft_token_num, dtype=torch.int64
    )
    for name in (
        "move_accept_tokens_to_target_kvcache",
        "record_stream_for_v2_verify",
        "set_time_batch",
        "prepare_mamba_track_for_verify",
        "commit_mamba_states_after_verify",
    ):
        assert hasattr(ngram_worker, name), name
        setattr(ngram_worker, name, lambda *args, **kwargs: None)
    ngram_worker.reconstruct_indices_from_tree_mask_func = reconstruct_tree.reconstruct_indices_from_tree_mask_triton

    def verify(predicts, accept_index, accept_token_num, candidates, topk, **tree):
        spec_tree.verify_tree_greedy_kernel_triton[(len(candidates),)](
            predicts,
            accept_index,
            accept_token_num,
            candidates,
            *(tree[f"retrieve_{name}"] for name in ("index", "next_token", "next_sibling")),
            tree["target_predict"],
            batch_size=len(candidates),
            num_speculative_tokens=accept_index.shape[1],
            num_draft_tokens=options.rows,
        )
        return predicts, accept_index, accept_token_num

    eagle_utils.verify_tree_greedy_func = verify
    worker_class = SpeculativeAlgorithm.from_string("jacobi").factory(settings)
    worker = worker_class(server_args=settings, gpu_id=0, nccl_port=0, target_worker=target)
    worker.alloc_memory_pool()
    return worker


def requests(model, tokenizer, prompts):
    """Prompts with their greedy texts, as they are after the prefill: one token decoded and not processed yet."""
    made = []
    for place, prompt in enumerate(prompts):
        message = [{"role": "user", "content": prompt}]
        text = tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        out = model.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            do_sample=False,
            max_new_tokens=MOST_TOKENS,
        )[0].tolist()
        made.append(
            SimpleNamespace(
                rid=str(place),
                origin_input_ids_unpadded=ids,
                output_ids=[],
                unread=[out[len(ids)]],
                text=out[: len(ids) + 1],
                plain=out,
            )
        )
    return made


def settle(reqs):
    """Processes what was accepted, as the scheduler does between two passes, or during the next one under overlap."""
    for req in reqs:
        req.output_ids += req.unread
        req.unread = []


def decode(worker, reqs, options):
    """Request passes until all of `reqs` have the length of their greedy text. A done request leaves the batch."""
    from sglang.srt.model_executor.forward_batch_info import ForwardMode

    passes, rows = 0, options.rows
    tokens = torch.tensor([req.unread + [0] * (rows - 1) for req in reqs], dtype=torch.int32)
    relayed = SimpleNamespace(accept_tokens=tokens.flatten(), accept_lens=torch.ones(len(reqs), dtype=torch.int32))
    greedy = dict(acc_additive_penalties=None, acc_scaling_penalties=None, logit_bias=None, is_all_greedy=True)
    while reqs:
        if not options.overlap:
            settle(reqs)
        lengths = torch.tensor([len(req.text) - 1 for req in reqs])
        batch = SimpleNamespace(
            reqs=reqs,
            forward_mode=ForwardMode.DECODE,
            spec_info=relayed,
            seq_lens=lengths,
            seq_lens_cpu=lengths,
            device="cpu",
            has_grammar=False,
            grammar_needs_sync=lambda: False,
            return_logprob=False,
            req_pool_indices=None,
            req_to_token_pool=SimpleNamespace(req_to_token=None),
            sampling_info=SimpleNamespace(has_watermark_candidates=False, **greedy),
        )
        result = worker.forward_batch_generation(batch)
        settle(reqs)
        accepted = result.next_token_ids.reshape(-1, rows).tolist()
        for req, row, count in zip(reqs, accepted, result.accept_lens.tolist()):
            req.unread, req.text = row[:count], req.text + row[:count]
        passes += len(reqs)
        kept = [place for place, req in enumerate(reqs) if len(req.text) < len(req.plain)]
        relayed, reqs = result.next_draft_input, [reqs[place] for place in kept]
        relayed.filter_batch(torch.tensor(kept, dtype=torch.long))
    return passes


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("package", "model", "prompts"):
        parser.add_argument(name)
    for name, default in (("count", 50), ("rows", 16), ("batch", 4)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--overlap", action="store_true", help="results are processed a pass late")
    parser.add_argument("--no-predictions", action="store_true", help="draft fillers only, to measure their part of the gain")
    options = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()
    worker = real_worker(options, Target(model, options.rows, options.batch))
    if options.no_predictions:
        worker._predictions.take = lambda ids, lengths: [([], 0)] * len(ids)
    lines = Path(options.prompts).read_text(encoding="utf-8").splitlines()[: options.count]
    reqs = requests(model, tokenizer, [json.loads(line)["prompt"] for line in lines])
    parts = range(0, len(reqs), options.batch)
    passes = sum(decode(worker, reqs[at : at + options.batch], options) for at in parts)
    equal = sum(req.text[: len(req.plain)] == req.plain for req in reqs)
    tokens = sum(len(req.plain) - len(req.origin_input_ids_unpadded) - 1 for req in reqs)
    print(f"{tokens} tokens in {passes} passes: {tokens / passes:.2f} per pass; {equal} of {len(reqs)} texts greedy")
    sys.exit(equal != len(reqs))


if __name__ == "__main__":
    main()
