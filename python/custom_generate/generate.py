"""Jacobi decoding in `generate` of transformers (4.57 and 5.x): the draft of a pass is what the previous pass predicted
behind its first wrong token. The loop is the library's assisted decoding; the text equals that of stock `generate`."""

import copy
import functools
import inspect
import json
import warnings

import torch
from transformers import EosTokenCriteria, MaxLengthCriteria, StoppingCriteriaList
from transformers.generation.candidate_generator import CandidateGenerator
from transformers.utils import cached_file

PLAIN = (
    "One token per forward pass, by stock generate: Jacobi decoding is for a single prompt of token ids, greedy, with "
    "a new dynamic cache and without beams, custom logits processors, guidance, attentions or hidden states."
)
warn_once = functools.cache(functools.partial(warnings.warn, stacklevel=2))


class JacobiCandidates(CandidateGenerator):
    def __init__(self, count, window):
        self.count, self.window, self.end, self.draft, self.passes = count, window, 0, [], 0

    def start(self, generation_config, **_):
        eos, self.max_length = generation_config._eos_token_tensor, generation_config.max_length
        self.eos = set() if eos is None else set(eos.flatten().tolist())
        return self

    def get_candidates(self, input_ids, **_):
        length, self.passes = input_ids.shape[1], self.passes + 1
        if self.window == "sliding" or length >= self.end:
            self.end = length + self.count
        room = max(min(self.end, self.max_length - 1) - length, 0)
        draft = (self.draft + [self.draft[-1] if self.draft else int(input_ids[0, -1])] * room)[:room]
        # The whole draft may be accepted, so it stops before the first token that would end the text.
        draft = draft[: next((i for i, token in enumerate(draft) if token in self.eos), room)]
        ids = torch.cat([input_ids, input_ids.new_tensor(draft)[None]], dim=-1)
        ends = (i for i in range(length + 1, ids.shape[1] + 1) if self.stop and self.stop(ids[:, :i], None).all())
        return ids[:, : next(ends, ids.shape[1] + 1) - 1], None

    def update_candidate_strategy(self, input_ids, scores, num_matches):
        self.draft = scores[0, int(num_matches) + 1 :].argmax(-1).tolist()


@functools.cache
def tuned(name):
    """Draft tokens per pass, and window, from the `jacobi.json` of the model called `name`."""
    try:
        path = cached_file(name, "jacobi.json")
    except (OSError, ValueError):
        warnings.warn(f"{name} has no jacobi.json: drafts of 15 tokens; a model that was not post-trained gains little")
        return 15, "sliding"
    try:
        with open(path, encoding="utf-8") as file:
            decoder = json.load(file)["decoder"]
        drafts = int(decoder.get("block_size", 16)) - 1
        if drafts < 0:
            raise ValueError("block_size is below 1")
        return drafts, "block" if decoder["name"] == "jacobi" else "sliding"
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} does not say how to decode: {error!r}") from error


def is_for_jacobi(model, call):
    """Whether Jacobi decoding gives the text of stock `generate` for this `call`."""
    options = {name: value for name, value in call.items() if name != "generation_config"}
    config = model._prepare_generation_config(call.get("generation_config"), **options)[0]
    ids = call.get("inputs") if call.get("inputs") is not None else call.get("input_ids")
    others = ("inputs_embeds", "past_key_values", "prefix_allowed_tokens_fn", "negative_prompt_ids", "assistant_model")
    return (
        config.get_generation_mode() == "greedy_search"
        and (torch.is_tensor(ids) and ids.dim() == 2 and ids.shape[0] == 1 and ids.shape[1] > 0)
        and all(call.get(name) is None for name in others)
        and (config.use_cache and config.cache_implementation in (None, "dynamic") and config.num_return_sequences == 1)
        and not (call.get("logits_processor") or config.watermarking_config or (config.guidance_scale or 1) != 1)
        and not (config.output_attentions or config.output_hidden_states)
        and not (call.get("stopping_criteria") and config.output_scores)
    )


def generate(*args, model, **kwargs):
    """Stock `generate` with two more arguments. `jacobi_block_length`: draft tokens per pass. `jacobi_window`: "sliding"
    drafts as many in every pass, "block" fills up when all are accepted. Defaults: those of jacobi.json, else 15, sliding.
    Sets `model.jacobi_passes` to the forward passes of this call, including the prompt's; None if stock `generate` ran."""
    stock = type(model).generate
    if kwargs.get("custom_generate") is not None:  # transformers 4.57 has replaced `generate` by this function
        return stock(model, *args, **kwargs)
    length, window = kwargs.pop("jacobi_block_length", None), kwargs.pop("jacobi_window", None)
    positional = dict(zip(list(inspect.signature(stock).parameters)[1:], args))
    model.jacobi_passes = None
    if not is_for_jacobi(model, {**positional, **kwargs}):
        warn_once(PLAIN)
        return stock(model, *args, **kwargs)
    if length is None or window is None:
        default_length, default_window = tuned(model.config._name_or_path)
        length, window = default_length if length is None else length, window or default_window
    if window not in ("sliding", "block") or length < 0:
        raise ValueError(f"jacobi_window {window!r}, jacobi_block_length {length}: no such window or length")
    candidates = JacobiCandidates(length, window)

    def prepare(*args, **kwargs):
        config, rest = model._prepare_generation_config(*args, **kwargs)
        config.prompt_lookup_num_tokens = candidates.count  # selects assisted decoding
        return config, rest

    def stopping(**kwargs):
        criteria = model._get_stopping_criteria(**kwargs)
        seen = (EosTokenCriteria, MaxLengthCriteria)
        candidates.stop = StoppingCriteriaList(one for one in criteria if not isinstance(one, seen))
        return criteria

    twin = copy.copy(model)  # shares the weights; attributes set on it are invisible to other threads
    twin._prepare_generation_config, twin._get_stopping_criteria = prepare, stopping
    twin._get_candidate_generator = candidates.start
    output = stock(twin, *args, **kwargs)
    model.jacobi_passes = candidates.passes
    return output
