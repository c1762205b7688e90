"""The drafter for vLLM's V1 runner whose drafts are made by a LoRA, a draft adapter:

    vllm serve BASE --enable-lora --max-lora-rank 64 --lora-modules fast=ADAPTER --speculative-config '{"method": "custom_class",
        "model": "jacobi_serve.vllm_adapter.AdapterProposer", "num_speculative_tokens": 7}'

Requests for the model `fast` get the base's text in fewer passes; those for BASE are decoded without drafts. This is UNO's
cycle (arXiv 2609.04010) in vLLM's own steps. In the first pass the draft is noise. The LoRA reads it, and none of it is
accepted. What the LoRA predicts there is the draft that the base verifies in the second pass. vLLM applies LoRAs by row, so all
it takes is to tell it which rows are noise. Keys and values of rejected drafts are overwritten in the cache, as always.

Settings: `filler` and `seed` of `--additional-config '{"jacobi": {..}}'`, else of the adapter's `jacobi.json`.
"""

import inspect
from collections import OrderedDict
from functools import wraps

import vllm
from vllm.logger import init_logger
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU
from vllm.platforms import current_platform
from vllm.v1.sample import rejection_sampler
from vllm.v1.worker.gpu_input_batch import InputBatch

from jacobi_serve import settings, vllm_hooks
from jacobi_serve.draft import Cycle
from jacobi_serve.vllm import TAIL, explicit_settings, refuse_size

logger = init_logger("vllm." + __name__)

# The models that jacobi trains adapters for. In others vLLM may run some layers on other rows than those of the pass.
MODELS = "LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"
# The layers that these adapters change. Not the head: its rows are verified, and must be the base's.
TARGETS = "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"


class AdapterProposer:
    """Drafts noise and what an adapter makes of it, in turns, for each request with a LoRA."""

    def __init__(self, vllm_config):
        self.count = vllm_config.speculative_config.num_speculative_tokens
        self.max_len = vllm_config.model_config.max_model_len
        refuse_size(self.count, self.max_len)
        refuse(vllm_config)
        vllm_config.lora_config.target_modules = list(TARGETS)
        on_cpu = current_platform.is_cpu()
        vllm_hooks.check(vllm.__version__, rejection_sampler)
        check(vllm.__version__, InputBatch, PunicaWrapperCPU if on_cpu else None)
        explicit = explicit_settings(vllm_config)
        self.explicit = None if explicit is None else settings.from_adapter_table(explicit)
        self.vocabulary = vllm_config.model_config.get_vocab_size()
        self.settings = {}  # by the path of the adapter
        self.cycles = OrderedDict()  # by request id, the most recent one last
        self.most_cycles = 4 * vllm_config.scheduler_config.max_num_seqs
        vllm_hooks.install(rejection_sampler, on_cpu)
        InputBatch.make_lora_inputs = ROWS.instead_of(InputBatch.make_lora_inputs)
        if on_cpu:
            for name, method in _ON_CPU.items():
                setattr(PunicaWrapperCPU, name, method)

    def load_model(self, *args, **kwargs):
        """There is no draft model."""

    def propose(self, sampled_token_ids, num_tokens_no_spec, token_ids_cpu, slot_mappings=None):
        """The next draft of each request.

        `sampled_token_ids`: new tokens of each request, [] in the middle of a prompt; `num_tokens_no_spec`: length of its
        text, new tokens included, [N]; `token_ids_cpu`: its text, [N, context].
        """
        batch, predictions = ROWS.batch, vllm_hooks.KEPT.take(sampled_token_ids)
        vllm_hooks.KEPT.watch(any(predictions), vllm.__version__)
        drafts = []
        for at, (new, predicted) in enumerate(zip(sampled_token_ids, predictions)):
            length = int(num_tokens_no_spec[at])
            adapter = batch.lora_id_to_lora_request.get(int(batch.request_lora_mapping[at]))
            room = min(self.count, self.max_len - length - 1)
            if adapter is None or not new or room <= 0:
                drafts.append([])
                continue
            request = batch.req_ids[at]
            cycle = self._cycle(request, adapter, token_ids_cpu[at, : length - len(new)])
            cycle.learn(list(new), predicted)
            drafts.append(cycle.draft(room))
            ROWS.is_noise[request] = cycle.is_noise
        vllm_hooks.KEPT.drafted = any(drafts)
        return drafts

    def _cycle(self, request, adapter, text):
        """The cycle of a request whose text, without its new tokens, is `text`, [L]."""
        cycle = self.cycles.pop(request, None)
        # An id may be given to another request later.
        if cycle is None or len(cycle.text.tokens) != len(text) or cycle.text.tokens[-TAIL:] != text[-TAIL:].tolist():
            cycle = Cycle(self._settings(adapter), self.count, self.vocabulary)
            cycle.text.extend(text.tolist())
        self.cycles[request] = cycle
        while len(self.cycles) > self.most_cycles:
            oldest, _ = self.cycles.popitem(last=False)
            ROWS.is_noise.pop(oldest, None)
        return cycle

    def _settings(self, adapter):
        path = adapter.lora_path
        if path not in self.settings:
            try:
                found = self.explicit or settings.from_adapter(path)
            except ValueError as error:
                # The engine is running, and must not end for one adapter.
                logger.error("jacobi-serve: %s; its filler is drawn from the text until a restart", error)
                found = settings.Settings()
            logger.info("drafts of %d tokens by %s, filler %s", self.count, path, found.filler)
            self.settings[path] = found
        return self.settings[path]


class AdapterRows:
    """Which rows of a pass go through the LoRA of their request: those that hold noise."""

    def __init__(self):
        self.batch = None  # of the last pass
        self.is_noise = {}  # by request id: whether its draft is noise

    def instead_of(self, make):
        """For `InputBatch.make_lora_inputs`, which gives every row of a request its LoRA."""
        make = getattr(make, "jacobi_wraps", make)

        @wraps(make)
        def by_row(batch, num_scheduled_tokens, num_sampled_tokens):
            by_sample, _, loras = make(batch, num_scheduled_tokens, num_sampled_tokens)
            rows, noisy = self.mapping(batch, num_scheduled_tokens, num_sampled_tokens)
            self.batch = batch
            vllm_hooks.KEPT.noise = noisy
            return (0,) * len(by_sample), rows, loras

        by_row.jacobi_wraps = make
        return by_row

    def mapping(self, batch, scheduled, sampled):
        """The LoRA id of each row, 0 for the base, and the indices of the requests with noise.

        `scheduled`: rows of each request, [N]; `sampled`: how many of them, the last ones, have logits, which are the known
        token and the draft, [N].
        """
        rows, noisy = [], []
        for at, (count, wanted) in enumerate(zip(scheduled, sampled)):
            noise = int(wanted) - 1 if self.is_noise.get(batch.req_ids[at]) else 0
            rows += [0] * (int(count) - noise) + [int(batch.request_lora_mapping[at])] * noise
            if noise:
                noisy.append(at)
        return tuple(rows), noisy


ROWS = AdapterRows()


def refuse(vllm_config):
    """Raises ValueError for what an adapter cannot draft with, and for options under which layers may see other rows than the
    pass has, so that the adapter would change the text."""
    lora, parallel = vllm_config.lora_config, vllm_config.parallel_config
    if lora is None:
        raise ValueError(
            "drafts by an adapter need vLLM's LoRA: start with --enable-lora --max-lora-rank RANK --lora-modules NAME=ADAPTER"
        )
    unknown = sorted(set(vllm_config.model_config.architectures) - set(MODELS))
    if unknown:
        raise ValueError(f"{', '.join(unknown)} is not supported with a draft adapter; {', '.join(MODELS)} are")
    options = {
        "pipeline parallelism": parallel.pipeline_parallel_size > 1,
        "--enable-dbo and --ubatch-size": parallel.use_ubatching,
        "--lora-target-modules": lora.target_modules is not None,
        "--specialize-active-lora": lora.specialize_active_lora,
    }
    given = [name for name, is_given in options.items() if is_given]
    if given:
        raise ValueError(f"drafts by an adapter do not work with {', '.join(given)}")


def check(vllm_version, batch, wrapper):
    """Refuses a vLLM whose LoRA code is not the one this was written for, with a RuntimeError that says what does not fit.

    `batch`: the class `InputBatch`; `wrapper`: the class `PunicaWrapperCPU`, or None if it is not used.
    """
    def parameters(method):
        return tuple(inspect.signature(method).parameters)

    expected = [(batch, "make_lora_inputs", ("self", "num_scheduled_tokens", "num_sampled_tokens"))]
    if wrapper:
        expected += [(wrapper, name, parameters(method)) for name, method in _ON_CPU.items()]
    misfits = []
    for owner, name, taken in expected:
        found = getattr(owner, name, None)
        if found is None or parameters(found) != taken:
            misfits.append(f"{owner.__name__}.{name}({', '.join(taken)}) is gone or takes other arguments")
    if misfits:
        raise RuntimeError(f"jacobi-serve does not fit vLLM {vllm_version}: {'; '.join(misfits)}")


# LoRAs of rows on vLLM's CPU backend. Its own methods read index -1 (no LoRA) as the last LoRA, and copy a LoRA for every row.


def _find_rows(self, token_lora_tensor):
    """`token_lora_tensor`: the LoRA's index of each row, -1 for none, [rows]."""
    found = {}
    for row, lora in enumerate(token_lora_tensor.tolist()):
        if lora >= 0:
            found.setdefault(lora, []).append(row)
    self.rows_of = {lora: token_lora_tensor.new_tensor(rows) for lora, rows in found.items()}
    self.no_lora = not found


def _shrink(self, y, x, w_t_all, scale):
    """`y`: zeros, [rows, rank]; `x`: [rows, in]; `w_t_all`: A of each LoRA, [LoRAs, 1, rank, in]."""
    for lora, rows in self.rows_of.items():
        y[rows] = scale * (x[rows].to(y.dtype) @ w_t_all[lora, 0].T.to(y.dtype))


def _expand(self, y, x, w_t_all, y_offset, y_slice_size, add_inputs):
    """`y`: [rows, out], of which a slice is added to; `x`: [rows, rank]; `w_t_all`: B of each LoRA, [LoRAs, 1, slice, rank]."""
    for lora, rows in self.rows_of.items():
        y[rows, y_offset : y_offset + y_slice_size] += x[rows].to(y.dtype) @ w_t_all[lora, 0].T.to(y.dtype)


_ON_CPU = {"_update_prefill_metadata": _find_rows, "_shrink_prefill": _shrink, "_expand_slice_prefill": _expand}
