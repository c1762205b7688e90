"""Fakes of the parts of SGLang 0.5.23 that `jacobi_serve.sglang` hooks, in plain Python: algorithm classes, and an n-gram
worker that verifies drafts of a deterministic target. `test_sglang.py` compares the signatures here with those of the
tables, and `scripts/check_sglang_plugin.py` the tables with the wheel, so that a fake cannot drift from what it stands
for."""

import enum
import importlib.machinery
import sys
import types
from types import SimpleNamespace
from unittest import mock


class SpeculativeAlgorithm(enum.Enum):
    NGRAM = 1
    registered = enum.nonmember({}) if hasattr(enum, "nonmember") else {}

    @classmethod
    def register(cls, name, *, supports_overlap=False, validate_server_args=None, spec_class=None):
        def decorator(factory):
            cls.registered[name] = spec_class(
                name, factory, supports_overlap=supports_overlap, validate_server_args=validate_server_args
            )
            return factory

        return decorator

    def is_ngram(self):
        return self is SpeculativeAlgorithm.NGRAM

    def supports_mixed_chunk(self):
        return False

    def has_draft_kv(self):
        return not self.is_ngram()

    def carries_draft_hidden_states(self):
        return False

    def need_topk(self):
        return False

    def create_future_map(self, device, req_to_token_pool, needs_cpu_seq_lens=True, needs_confidence_relay=False):
        return (self, device, req_to_token_pool, needs_cpu_seq_lens, needs_confidence_relay)


class CustomSpecAlgo:
    def __init__(self, name, factory, *, supports_overlap=False, validate_server_args=None):
        self.name, self.factory, self.supports_overlap = name, factory, supports_overlap
        self.validate_server_args = validate_server_args

    def is_ngram(self):
        return False

    def supports_mixed_chunk(self):
        return False

    def has_draft_kv(self):
        return True

    def handle_server_args(self, server_args):
        pass

    def create_worker(self, server_args):
        return self.factory(server_args)


class ForwardMode(enum.Enum):
    EXTEND = 1
    DECODE = 2

    def is_decode(self):
        return self is ForwardMode.DECODE


class Tensor(list):
    """The part of torch.Tensor that the worker uses. Rows of logits are one-hot, so that argmax is their index."""

    def tolist(self):
        return list(self)

    def argmax(self, dim):
        assert dim == -1
        return Tensor(row.index(max(row)) for row in self)

    def reshape(self, rows, columns):
        assert len(self) == rows * columns
        return Tensor(self[row * columns : (row + 1) * columns] for row in range(rows))


class ScheduleBatch:
    def __init__(self, reqs, forward_mode, spec_info=None, has_grammar=False):
        self.reqs, self.forward_mode, self.spec_info, self.has_grammar = reqs, forward_mode, spec_info, has_grammar

    def grammar_needs_sync(self):
        return self.has_grammar


class NGRAMWorker:
    """Verifies what `_prepare_draft_tokens` gives against `target`, a function from a text to its next token. As in the
    wheel, `target_worker` knows the model; here it holds `target`, the vocabulary and the whole texts."""

    def __init__(self, server_args, gpu_id, nccl_port, target_worker):
        self.draft_token_num = server_args.speculative_num_draft_tokens
        self.enable_overlap = not server_args.disable_overlap_schedule
        self._target_worker = target_worker
        self.cleared = self.passes = 0

    def clear_cache_pool(self):
        self.cleared += 1

    def _prepare_draft_tokens(self, batch):
        raise AssertionError("drafts of the n-gram corpus")

    def _update_ngram_corpus(self, batch):
        raise AssertionError("the n-gram corpus is filled")

    def forward_batch_generation(self, batch, on_publish=None, pp_proxy_tensors=None):
        model, rows = self._target_worker, self.draft_token_num
        predicted, accepted, counts = [], [], []
        if batch.forward_mode.is_decode():
            tokens, mask = self._prepare_draft_tokens(batch)
            chain = [int(j <= i) for i in range(rows) for j in range(rows)]
            assert list(mask) == chain * len(batch.reqs), mask
            for place, req in enumerate(batch.reqs):
                text, draft = model.texts[req.rid], list(tokens)[place * rows : (place + 1) * rows]
                assert draft[0] == text[-1], "row 0 is the last known token"
                chosen = [model.target(text + draft[1 : row + 1]) for row in range(rows)]
                wrong = (row for row in range(rows - 1) if draft[row + 1] != chosen[row])
                count = next(wrong, rows - 1) + 1
                text += chosen[:count]
                predicted += chosen
                accepted += chosen[:count] + [-1] * (rows - count)
                counts.append(count)
            self.passes += 1
            self._update_ngram_corpus(batch)
        else:
            for req in batch.reqs:
                token = model.target(model.texts[req.rid])
                model.texts[req.rid].append(token)
                predicted.append(token)
                accepted += [token] + [0] * (rows - 1)
                counts.append(1)
        logits = Tensor([int(token == right) for token in range(model.vocabulary)] for right in predicted)
        return SimpleNamespace(
            logits_output=SimpleNamespace(next_token_logits=logits),
            accept_lens=Tensor(counts),
            next_draft_input=SimpleNamespace(accept_tokens=Tensor(accepted), accept_lens=Tensor(counts)),
        )


# The module of each class of the tables in SGLang, for the test that compares signatures.
CLASSES = {
    "SpeculativeAlgorithm": SpeculativeAlgorithm,
    "CustomSpecAlgo": CustomSpecAlgo,
    "NGRAMWorker": NGRAMWorker,
    "ScheduleBatch": ScheduleBatch,
    "ForwardMode": ForwardMode,
}


def installed():
    """A context in which `import sglang` finds the fakes, and numpy arrays are lists."""
    numpy = types.ModuleType("numpy")
    numpy.int64, numpy.array = "int64", lambda values, dtype: list(values)
    modules = {"numpy": numpy}
    for name in ("sglang", "sglang.srt", "sglang.srt.speculative"):
        modules[name] = types.ModuleType(name)
        modules[name].__path__, modules[name].__spec__ = [], importlib.machinery.ModuleSpec(name, None)
    for name in ("spec_info", "spec_registry", "ngram_worker"):
        modules[f"sglang.srt.speculative.{name}"] = types.ModuleType(name)
    modules["sglang.srt.speculative.spec_info"].SpeculativeAlgorithm = SpeculativeAlgorithm
    modules["sglang.srt.speculative.spec_registry"].CustomSpecAlgo = CustomSpecAlgo
    modules["sglang.srt.speculative.ngram_worker"].NGRAMWorker = NGRAMWorker
    return mock.patch.dict(sys.modules, modules)


class Engine:
    """Prefills, decodes and processes results as SGLang's scheduler does: at once, or a pass late under overlap."""

    def __init__(self, worker_class, target, rows, overlap):
        self.model = SimpleNamespace(target=target, vocabulary=64, texts={})
        arguments = SimpleNamespace(speculative_num_draft_tokens=rows, disable_overlap_schedule=not overlap)
        self.worker = worker_class(server_args=arguments, gpu_id=0, nccl_port=1, target_worker=self.model)
        self.overlap, self.rows, self.waiting = overlap, rows, []
        self.relayed = {}

    def prefill(self, rid, prompt):
        """A new request, or a retracted one, whose tokens so far are prefilled too."""
        req = SimpleNamespace(rid=rid, origin_input_ids_unpadded=list(prompt), output_ids=[])
        self.model.texts[rid] = list(prompt)
        self.run([req], ForwardMode.EXTEND)
        return req

    def run(self, reqs, mode=ForwardMode.DECODE, has_grammar=False):
        if has_grammar:
            # A grammar may cut the accepted tokens short: then the relayed tokens are not part of the text.
            self.settle()
            self.relayed.clear()
        previous = [self.relayed.get(req.rid, ([0] * self.rows, 1)) for req in reqs]
        relayed = SimpleNamespace(
            accept_tokens=Tensor(token for tokens, _ in previous for token in tokens),
            accept_lens=Tensor(count for _, count in previous),
        )
        batch = ScheduleBatch(reqs, mode, relayed, has_grammar)
        result = self.worker.forward_batch_generation(batch)
        self.settle()
        tokens, counts = result.next_draft_input.accept_tokens, result.accept_lens
        for place, (req, count) in enumerate(zip(reqs, counts)):
            row = tokens[place * self.rows : (place + 1) * self.rows]
            self.relayed[req.rid] = (row, count)
            self.waiting.append((req, row[:count]))
        if not self.overlap:
            self.settle()

    def settle(self):
        for req, tokens in self.waiting:
            req.output_ids += tokens
        self.waiting = []
