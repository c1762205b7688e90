"""The drafter for vLLM's V1 runner:

    vllm serve MODEL --speculative-config '{"method": "custom_class",
        "model": "jacobi_serve.vllm.JacobiProposer", "num_speculative_tokens": 15}'

Settings: `--additional-config '{"jacobi": {"filler": "ngram"}}'`, else `jacobi.json` beside the model, else defaults.
A draft changes the number of passes, never the text.
"""

from collections import Counter, OrderedDict

import vllm
from vllm.logger import init_logger
from vllm.platforms import current_platform
from vllm.v1.sample import rejection_sampler

from jacobi_serve import settings, vllm_hooks
from jacobi_serve.draft import Window

logger = init_logger("vllm." + __name__)

MOST_DRAFTS = 128  # most draft tokens of a request that vLLM's rejection sampler verifies in one step
TAIL = 64  # tokens that distinguish requests of equal length


class JacobiProposer:
    """Drafts for each request what the target predicted at the rows that were not accepted, then filler."""

    def __init__(self, vllm_config):
        self.count = vllm_config.speculative_config.num_speculative_tokens
        self.max_len = vllm_config.model_config.max_model_len
        refuse_size(self.count, self.max_len)
        vllm_hooks.check(vllm.__version__, rejection_sampler)
        model = vllm_config.model_config
        self.settings, line = settings.load(explicit_settings(vllm_config), model.model, model.revision)
        most = 4 * vllm_config.scheduler_config.max_num_seqs
        self.windows = Windows(lambda: Window(self.settings, self.count, model.get_vocab_size()), most)
        vllm_hooks.install(rejection_sampler, current_platform.is_cpu())
        logger.info("Jacobi drafts of %d tokens, %s; %s", self.count, self.settings, line)

    def load_model(self, *args, **kwargs):
        """There is no draft model."""

    def propose(self, sampled_token_ids, num_tokens_no_spec, token_ids_cpu, slot_mappings=None):
        """The next draft of each request.

        `sampled_token_ids`: new tokens of each request, [] in the middle of a prompt; `num_tokens_no_spec`: length of its
        text, new tokens included, [N]; `token_ids_cpu`: its text, [N, context].
        """
        predictions = vllm_hooks.KEPT.take(sampled_token_ids)
        vllm_hooks.KEPT.watch(any(predictions), vllm.__version__)
        rows = ((new, token_ids_cpu[i, : int(num_tokens_no_spec[i])]) for i, new in enumerate(sampled_token_ids))
        drafts = []
        for window, length, new, predicted in self.windows.of(rows, predictions):
            room = min(self.count, self.max_len - length - 1)
            if window is None or room <= 0:
                drafts.append([])
                continue
            window.learn(new, predicted)
            drafts.append(window.draft(room))
        vllm_hooks.KEPT.drafted = any(drafts)
        return drafts


class Windows:
    """The draft windows of running requests. vLLM does not identify the request of a row, so a window is found by the
    length and the end of its text, and among equal texts by their order."""

    def __init__(self, start, most):
        """`start`: makes a window; `most`: windows kept; the least recently used is dropped."""
        self.start, self.most = start, most
        self.kept = OrderedDict()

    def of(self, rows, predictions):
        """Yields window, length, new tokens and predictions for each (new tokens, text with them [L]). The window holds the
        text without the new tokens; it is None if there are none."""
        before, after, held = Counter(), Counter(), []
        for (new, text), predicted in zip(rows, predictions):
            window = None
            if new:
                window = self.kept.pop(_key(text, len(text) - len(new), before), None)
                if window is None:
                    window = self.start()
                    window.text.extend(text[: len(text) - len(new)].tolist())
                held.append((_key(text, len(text), after), window))
            yield window, len(text), list(new), predicted
        self.kept.update(held)
        while len(self.kept) > self.most:
            self.kept.popitem(last=False)


def _key(text, length, counter):
    tail = length, text[max(0, length - TAIL) : length].tobytes()
    counter[tail] += 1
    return *tail, counter[tail]


def explicit_settings(vllm_config):
    """The table of `--additional-config '{"jacobi": ..}'`, or None."""
    extra = vllm_config.additional_config
    return extra.get("jacobi") if isinstance(extra, dict) else None


def refuse_size(count, max_len):
    """Raises ValueError for a number of draft tokens that vLLM or the context does not allow."""
    if not count or not 1 <= count <= MOST_DRAFTS:
        raise ValueError(f"num_speculative_tokens is {count}; vLLM verifies 1 to {MOST_DRAFTS} draft tokens in a step")
    if count + 1 > max_len:
        raise ValueError(
            f"num_speculative_tokens is {count}: with the token in front that is {count + 1} rows, "
            f"more than the context of {max_len}"
        )
