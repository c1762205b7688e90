"""The hooks of the drafter into vLLM, each checked before it is used.

vLLM tells a drafter which tokens were accepted, but not the predictions behind the first rejected one. The function
`rejection_sample` of its V1 runner receives all of them. A wrapper around it keeps them until `propose`, which runs later
in the same step for the same requests in the same order.

`register` is the entry point of the group `vllm.general_plugins`, which every vLLM process loads. It does nothing if this
drafter is not in use.
"""

import inspect
import logging
import re
from functools import wraps

PROPOSERS = "jacobi_serve.vllm.JacobiProposer", "jacobi_serve.vllm_adapter.AdapterProposer"
# First supported and first unsupported version. The hooks were read in 0.22 to 0.33; 0.32 was run.
VERSIONS = (0, 22), (0, 34)
# The parameters of rejection_sample that the wrapper uses, in order.
PARAMETERS = (
    "draft_token_ids",
    "num_draft_tokens",
    "max_spec_len",
    "cu_num_draft_tokens",
    "draft_probs",
    "target_logits",
    "bonus_token_ids",
    "sampling_metadata",
)
PATIENCE = 16  # passes with drafts and without predictions before a warning
NO_TOKEN = -1  # vLLM's mark behind the last accepted token
GREEDY = 1e-5  # temperatures below count as 0, as in vLLM
REFUSED = (
    "temperature {temperature} is refused: on the CPU backend vLLM samples wrongly with any drafter (it divides by "
    "uninitialised memory). Send temperature 0, start the server with --override-generation-config "
    "'{{\"temperature\": 0}}' to make that the default, or serve without --speculative-config"
)

logger = logging.getLogger("vllm." + __name__)


class Kept:
    """The result of the last verification in this process, until `take`."""

    def __init__(self):
        self._pass = None
        self.drafted = False  # whether the last `propose` gave a draft: warm-up passes have drafts that are not ours
        self.noise = []  # requests of the next pass, by index, whose draft tokens are noise: never accepted
        self.blind = 0  # consecutive passes with drafts and without predictions

    def keep(self, lengths, predicted, bonus, accepted):
        """`lengths`: draft tokens by request, [N]; `predicted`: the model's token at the place of each
        draft token, [sum of lengths]; `bonus`: its token after the last row, [N, 1]; `accepted`: new tokens, [N, K + 1]."""
        self._pass = lengths, predicted, bonus, accepted

    def watch(self, seen, version):
        """Warns if drafts are verified but predictions do not arrive, so that drafts are filler only."""
        self.blind = 0 if seen or not self.drafted else self.blind + 1
        if self.blind == PATIENCE:
            logger.warning("jacobi-serve: predictions of vLLM %s do not arrive; drafts do not help", version)

    def take(self, sampled):
        """The predictions after each row of the pass by request, draft length + 1 tokens; [] if the pass may not be the one
        of `sampled`. `sampled`: the new tokens of each request."""
        kept, self._pass = self._pass, None
        if kept is None or len(kept[0]) != len(sampled):
            return [[] for _ in sampled]
        lengths, predicted, bonus, accepted = kept[0], *(tensor.tolist() for tensor in kept[1:])
        rows, start = [], 0
        for count, last, got, new in zip(lengths, bonus, accepted, sampled):
            same = got[: len(new)] == list(new) and len(new) <= count + 1
            rows.append([*predicted[start : start + count], *last] if same else [])
            start += count
        return rows


KEPT = Kept()


def check(vllm_version, sampler):
    """Refuses a vLLM that is not the one this was written for, with one RuntimeError that says what does not fit.

    `sampler`: the module `vllm.v1.sample.rejection_sampler`.
    """
    low, high = VERSIONS
    number = re.match(r"(\d+)\.(\d+)", vllm_version)
    misfits = []
    if not number or not low <= tuple(map(int, number.groups())) < high:
        misfits.append(f"it is made for {low[0]}.{low[1]} to {high[0]}.{high[1] - 1}")
    function = getattr(sampler, "rejection_sample", None)
    forward = getattr(getattr(sampler, "RejectionSampler", None), "forward", None)
    if not callable(function):
        misfits.append("rejection_sampler.rejection_sample is gone")
    else:
        found = tuple(inspect.signature(function).parameters)[: len(PARAMETERS)]
        if found != PARAMETERS:
            misfits.append(f"rejection_sample takes {', '.join(found)}, not {', '.join(PARAMETERS)}")
    # The wrapper replaces a name of the module: that works only while forward looks the name up there.
    if "rejection_sample" not in getattr(getattr(forward, "__code__", None), "co_names", ()):
        misfits.append("RejectionSampler.forward does not call rejection_sample")
    if misfits:
        raise RuntimeError(f"jacobi-serve does not fit vLLM {vllm_version}: {'; '.join(misfits)}")


def install(sampler, on_cpu):
    """Wraps `sampler.rejection_sample` once in this process."""
    if not hasattr(sampler.rejection_sample, "jacobi_wraps"):
        sampler.rejection_sample = _keeping(sampler.rejection_sample, KEPT, on_cpu)


def _keeping(rejection_sample, kept, on_cpu):
    @wraps(rejection_sample)
    def keeping(drafts, lengths, longest, ends, draft_probs, logits, bonus, sampling, *args, **kwargs):
        # In case `register` did not run. Warm-up passes have drafts that are not ours.
        if on_cpu and kept.drafted and not sampling.all_greedy:
            raise RuntimeError(REFUSED.format(temperature="above 0"))
        # Computed before the call, which changes the logits in place.
        predicted = logits.argmax(dim=-1)
        accepted = rejection_sample(
            drafts, lengths, longest, ends, draft_probs, logits, bonus, sampling, *args, **kwargs
        )
        noise, kept.noise = kept.noise, []
        if noise:
            accepted[noise, 1:] = NO_TOKEN
        kept.keep(lengths, predicted, bonus, accepted)
        return accepted

    keeping.jacobi_wraps = rejection_sample
    return keeping


def register():
    """Makes vLLM's front end refuse single requests that this drafter would serve wrongly."""
    from vllm.sampling_params import SamplingParams

    verify = SamplingParams.verify
    if hasattr(verify, "jacobi_wraps"):
        return
    if "speculative_config" not in inspect.signature(verify).parameters:
        # Not an error: vLLM must work without this drafter. The wrapper above still stops a wrong pass.
        logger.warning("jacobi-serve: SamplingParams.verify has no speculative_config; requests are not checked early")
        return
    SamplingParams.verify = _refusing(verify, _on_cpu, _invalid)


def _refusing(verify, on_cpu, error):
    signature = inspect.signature(verify)

    @wraps(verify)
    def refusing(self, *args, **kwargs):
        verify(self, *args, **kwargs)
        speculative = signature.bind(self, *args, **kwargs).arguments.get("speculative_config")
        if getattr(speculative, "model", None) in PROPOSERS and self.temperature > GREEDY and on_cpu():
            raise error(REFUSED.format(temperature=self.temperature))

    refusing.jacobi_wraps = verify
    return refusing


def _on_cpu():
    from vllm.platforms import current_platform

    return current_platform.is_cpu()


def _invalid(message):
    """The error for which vLLM's server responds with status 400."""
    try:
        from vllm.exceptions import VLLMValidationError
    except ImportError:
        return ValueError(message)
    return VLLMValidationError(message, parameter="temperature")
