"""The drafter for vLLM's V1 runner whose drafts are made by a LoRA, a draft adapter:

    vllm serve BASE --enable-lora --max-lora-rank 64 --lora-modules fast=ADAPTER --speculative-config '{"method": "custom_class",
        "model": "jacobi_serve.vllm_adapter.AdapterProposer", "num_speculative_tokens": 7}'

Requests for the model `fast` get the base's text in fewer passes; those for BASE are decoded without drafts. This is UNO's
cycle (arXiv 2609.04010) in vLLM's own steps. In the first, the draft is noise, which the LoRA reads and no token of which is
accepted; what it predicts there is the draft that the second step verifies by the base alone. vLLM applies LoRAs by row, so
all it takes is to tell it which rows are noise. Rows of rejected drafts are overwritten in the cache, as always.

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
from jacobi_serve.vllm import refuse_size

logger = init_logger("vllm." + __name__)

# The layers that jacobi's adapters change; vLLM's own names of several in one are made of these.
TARGETS = "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"
_TAIL = 64  # tokens that distinguish requests of equal length
# The parameters of vLLM's methods that are wrapped.
_MAKE = ("self", "num_scheduled_tokens", "num_sampled_tokens")
_SHRINK = ("self", "y", "x", "w_t_all", "scale")


class AdapterProposer:
    """Drafts noise and what an adapter makes of it, in turns, for each request with a LoRA."""

    def __init__(self, vllm_config):
        self.count = vllm_config.speculative_config.num_speculative_tokens
        self.max_len = vllm_config.model_config.max_model_len
        refuse_size(self.count, self.max_len)
        lora = vllm_config.lora_config
        if lora is None:
            raise ValueError(
                "drafts by an adapter need vLLM's LoRA: start with --enable-lora --max-lora-rank RANK --lora-modules NAME=ADAPTER"
            )
        if lora.target_modules is None:
            # Not the head: there vLLM cannot apply a LoRA to the log-probabilities of a prompt.
            lora.target_modules = list(TARGETS)
        vllm_hooks.check(vllm.__version__, rejection_sampler)
        check(vllm.__version__, InputBatch, PunicaWrapperCPU)
        extra = vllm_config.additional_config
        explicit = extra.get("jacobi") if isinstance(extra, dict) else None
        self.explicit = None if explicit is None else settings.for_drafts(explicit)
        self.vocabulary = vllm_config.model_config.get_vocab_size()
        self.settings = {}  # by the path of the adapter
        self.cycles, self.most = OrderedDict(), 4 * vllm_config.scheduler_config.max_num_seqs
        on_cpu = current_platform.is_cpu()
        vllm_hooks.install(rejection_sampler, on_cpu)
        self.rows = AdapterRows(vllm_hooks.KEPT)
        _wrap(InputBatch, "make_lora_inputs", self.rows.instead_of)
        if on_cpu:
            _mend(PunicaWrapperCPU)

    def load_model(self, *args, **kwargs):
        """There is no draft model."""

    def propose(self, sampled_token_ids, num_tokens_no_spec, token_ids_cpu, slot_mappings=None):
        """The next draft of each request.

        `sampled_token_ids`: new tokens of each request, [] in the middle of a prompt; `num_tokens_no_spec`: length of its
        text, new tokens included, [N]; `token_ids_cpu`: its text, [N, context].
        """
        batch, predictions = self.rows.batch, vllm_hooks.KEPT.take(sampled_token_ids)
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
            self.rows.is_noise[request] = cycle.is_noise
        vllm_hooks.KEPT.drafted = any(drafts)
        return drafts

    def _cycle(self, request, adapter, text):
        """The cycle of a request whose text, without its new tokens, is `text`, [L]."""
        cycle = self.cycles.pop(request, None)
        # An id may be given to another request later.
        if cycle is None or len(cycle.text.tokens) != len(text) or cycle.text.tokens[-_TAIL:] != text[-_TAIL:].tolist():
            cycle = Cycle(self._settings(adapter), self.count, self.vocabulary)
            cycle.text.extend(text.tolist())
        self.cycles[request] = cycle
        while len(self.cycles) > self.most:
            self.rows.is_noise.pop(self.cycles.popitem(last=False)[0], None)
        return cycle

    def _settings(self, adapter):
        path = adapter.lora_path
        if path not in self.settings:
            try:
                found = self.explicit or settings.of_adapter(path)
            except ValueError as error:
                # The engine is running, and must not end for one adapter.
                logger.error("jacobi-serve: %s; its filler is drawn from the text until a restart", error)
                found = settings.Settings()
            logger.info("drafts of %d tokens by %s, filler %s", self.count, path, found.filler)
            self.settings[path] = found
        return self.settings[path]


class AdapterRows:
    """Which rows of a pass go through the LoRA of their request: those that hold noise."""

    def __init__(self, kept):
        self.kept = kept
        self.batch = None  # of the last pass
        self.is_noise = {}  # by request id: whether its draft is noise

    def instead_of(self, make):
        """Replaces `InputBatch.make_lora_inputs`, which gives every row of a request its LoRA."""

        @wraps(make)
        def by_row(batch, num_scheduled_tokens, num_sampled_tokens):
            by_sample, _, loras = make(batch, num_scheduled_tokens, num_sampled_tokens)
            return by_sample, self.mapping(batch, num_scheduled_tokens, num_sampled_tokens), loras

        return by_row

    def mapping(self, batch, scheduled, sampled):
        """The LoRA id of each row, 0 for the base. `scheduled`: rows of each request, [N]; `sampled`: how many of them, the last
        ones, have logits, which are the known token and the draft, [N]."""
        self.batch, self.kept.noise, rows = batch, [], []
        for at, (count, wanted) in enumerate(zip(scheduled, sampled)):
            noise = int(wanted) - 1 if self.is_noise.get(batch.req_ids[at]) else 0
            rows += [0] * (int(count) - noise) + [int(batch.request_lora_mapping[at])] * noise
            if noise:
                self.kept.noise.append(at)
        return tuple(rows)


def check(vllm_version, batch, wrapper):
    """Refuses a vLLM whose LoRA code is not the one this was written for, with a RuntimeError that says what does not fit.

    `batch`: the class `InputBatch`; `wrapper`: the class `PunicaWrapperCPU`.
    """
    misfits = []
    for owner, name, expected in (batch, "make_lora_inputs", _MAKE), (wrapper, "_shrink_prefill", _SHRINK):
        found = getattr(owner, name, None)
        if found is None or tuple(inspect.signature(found).parameters) != expected:
            misfits.append(f"{owner.__name__}.{name}({', '.join(expected)}) is gone or takes other arguments")
    if misfits:
        raise RuntimeError(f"jacobi-serve does not fit vLLM {vllm_version}: {'; '.join(misfits)}")


def _wrap(owner, name, wrapper):
    """Replaces a method; a second engine in the same process replaces the first one's."""
    method = getattr(owner, name)
    wrapped = wrapper(getattr(method, "jacobi_wraps", method))
    wrapped.jacobi_wraps = getattr(method, "jacobi_wraps", method)
    setattr(owner, name, wrapped)


def _mend(wrapper):
    """Makes vLLM's CPU backend compute rows without a LoRA beside rows with one. It takes index -1, which means none, for the
    last LoRA of its table; and it has room for one run of equal rows per request, where a request here has two. It also copies
    the LoRA for every row, which is not needed where its table, [LoRAs, 1, out, in], has one."""

    def shrinking(shrink):
        @wraps(shrink)
        def only_adapted(self, y, x, w_t_all, scale):
            if self.no_lora:
                return
            if len(w_t_all) == 1:
                y[:, : w_t_all.shape[-2]] = scale * (x.to(y.dtype) @ w_t_all[0, 0].T.to(y.dtype))
            else:
                shrink(self, y, x, w_t_all, scale)
            y[self.token_lora_indices < 0] = 0

        return only_adapted

    def expanding(expand):
        @wraps(expand)
        def at_once(self, y, x, w_t_all, y_offset, y_slice_size, add_inputs):
            if len(w_t_all) == 1 and add_inputs and not self.no_lora:
                y[:, y_offset : y_offset + y_slice_size] += x.to(y.dtype) @ w_t_all[0, 0].T.to(y.dtype)
            else:
                expand(self, y, x, w_t_all, y_offset, y_slice_size, add_inputs)

        return at_once

    def making(make):
        @wraps(make)
        def roomier(self, max_num_batched_tokens, max_batches, *args, **kwargs):
            make(self, max_num_batched_tokens, 2 * max_batches, *args, **kwargs)

        return roomier

    _wrap(wrapper, "_shrink_prefill", shrinking)
    _wrap(wrapper, "_expand_slice_prefill", expanding)
    _wrap(wrapper, "__init__", making)
