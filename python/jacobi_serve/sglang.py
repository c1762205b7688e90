"""Jacobi drafts in SGLang: the draft of a pass is what the target itself predicted in the pass before, behind the
rejection.

    sglang serve --model-path EXPORT --speculative-algorithm JACOBI --speculative-num-draft-tokens 16

Not run on a GPU. It was written against the released wheel of SGLang 0.5.23 and tested with fakes of that wheel's
classes, whose names and signatures `scripts/check_sglang_plugin.py` compares with the wheel; `check_sglang_worker.py`
beside it runs the wheel's own n-gram worker with this one's drafts on a CPU, with the scheduler and the KV cache stood
in for.

SGLang finds `register` through the entry point group `sglang.srt.plugins`, in each of its processes. The worker is its
n-gram worker with another source of drafts: that one's tree verification takes a chain as a tree without branches, and
its scheduler's handling of n-gram drafts (no draft model, no KV cache of their own) is what Jacobi drafts need too. A
draft decides how many passes a text takes, never the text.
"""

import json
import logging
import random
from pathlib import Path

from .sglang_hooks import Source, Unfit, misfits

logger = logging.getLogger(__name__)

NAME = "JACOBI"

# Rows of a request in a pass, the last known token included, where neither the command line nor jacobi.json has them.
ROWS = 16

# SGLang's own bound for n-gram drafts: wide passes over many requests gain nothing.
RUNNING_REQUESTS = 48

# Tokens of prompt and of response that fillers are drawn from: a long context is not copied in each pass.
TAIL = 4096

# Tokens of context that a filler has to find again, tried first.
LONGEST_KEY = 3

# Nodes of the n-gram worker's trie, which it allocates at its start and nothing is put into here.
TRIE_NODES = 1024


def register():
    """Makes `--speculative-algorithm JACOBI` known to SGLang in this process.

    Whether this SGLang fits is checked when that name is asked for, so that others do not pay for the package being
    installed. Raises `Unfit` where not even the registration is as it was.
    """
    try:
        from sglang.srt.speculative.spec_info import SpeculativeAlgorithm
        from sglang.srt.speculative.spec_registry import CustomSpecAlgo

        SpeculativeAlgorithm.register(
            NAME,
            supports_overlap=True,
            validate_server_args=validate,
            spec_class=algorithm_class(CustomSpecAlgo, SpeculativeAlgorithm),
        )(lambda server_args: worker_class())
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise Unfit([f"SpeculativeAlgorithm.register: {error}"], _installed_version()) from error


def _installed_version():
    try:
        return Source.installed().version
    except (Unfit, ImportError):
        return None


def validate(server_args):
    """Refuses, before a model is loaded, an SGLang that does not fit, and settings that the worker was not written for."""
    source = Source.installed()
    found = misfits(source)
    if found:
        raise Unfit(found, source.version)
    rows = server_args.speculative_num_draft_tokens
    refused = [
        # On a CPU SGLang verifies greedily whatever the temperature.
        (server_args.device != "cuda", f"--device {server_args.device}: the worker was written for CUDA alone"),
        # Ranks whose drafts differ would verify different rows together, and answer wrongly: each takes its own argmax.
        (server_args.tp_size > 1, "--tp-size above 1: nothing makes the ranks draft the same"),
        (server_args.pp_size > 1, "--pp-size above 1: the predictions are in the last stage alone"),
        (server_args.attn_dp_size > 1, "data-parallel attention: the n-gram worker has none"),
        (server_args.disaggregation_mode != "null", "prefill and decode on different servers"),
        (server_args.speculative_use_rejection_sampling, "rejection-sampling: there are no draft probabilities"),
        (server_args.speculative_draft_model_path is not None, "a draft model: the target drafts for itself"),
        (server_args.speculative_ngram_external_corpus_path is not None, "an n-gram corpus: it is not looked up"),
        (rows is not None and rows < 2, f"--speculative-num-draft-tokens {rows}: with the known token 2 is the least"),
    ]
    reasons = [reason for refuse, reason in refused if refuse]
    if reasons:
        raise ValueError(f"--speculative-algorithm {NAME} does not go with " + "; ".join(reasons))


def algorithm_class(base, builtin):
    """What SGLang's scheduler asks of the algorithm, answered as for its n-gram drafts (`builtin.NGRAM`)."""

    class JacobiAlgorithm(base):
        def is_ngram(self):
            return True

        def has_draft_kv(self):
            return False

        # The three that the scheduler calls and SGLang 0.5.23's class for plug-ins lacks.
        def carries_draft_hidden_states(self):
            return False

        def need_topk(self):
            return False

        def create_future_map(
            self, device, req_to_token_pool, needs_cpu_seq_lens=True, needs_confidence_relay=False
        ):
            return builtin.create_future_map(
                self, device, req_to_token_pool, needs_cpu_seq_lens, needs_confidence_relay
            )

        def handle_server_args(self, server_args):
            """As for n-gram drafts, but a chain: one branch, which every attention backend verifies causally."""
            if server_args.speculative_num_draft_tokens is None:
                server_args.speculative_num_draft_tokens = rows_for(server_args.model_path)
            if server_args.max_running_requests is None:
                server_args.max_running_requests = RUNNING_REQUESTS
            server_args.speculative_eagle_topk = 1
            server_args.speculative_num_steps = server_args.speculative_num_draft_tokens - 1
            server_args.speculative_ngram_min_bfs_breadth = 1
            server_args.speculative_ngram_max_bfs_breadth = 1
            server_args.speculative_ngram_capacity = TRIE_NODES
            server_args.enable_mixed_chunk = False

    return JacobiAlgorithm


def rows_for(model_path):
    """Rows of a request: the block size in the model's jacobi.json, else 16. A block counts its known token too."""
    path = Path(model_path) / "jacobi.json"
    if not path.is_file():
        logger.warning("no %s: %d rows per request; a model that was not trained for it gains little", path, ROWS)
        return ROWS
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["decoder"].get("block_size", ROWS)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} cannot be read: {error!r}") from error
    if not isinstance(rows, int) or rows < 2:
        raise ValueError(f"{path}: decoder.block_size is {rows!r}, which is no count of 2 or more")
    return rows


def next_draft(predictions, accepted, text, count):
    """`count` tokens to try behind `text`.

    `predictions[i]` is what the last pass took to follow its row i, and `accepted` how many tokens the text has grown
    by since that pass began: what is behind them was predicted and rejected, and is the draft. Behind that comes what
    followed such an end before, and behind that what is drawn from the text. A function of its arguments alone: a text
    takes the same passes again.
    """
    draft = list(predictions[accepted:][:count])
    draft += _followed(text, draft, count - len(draft))
    rng = random.Random(f"{len(text)} {text[-1]}")
    return draft + [text[int(rng.random() * len(text))] for _ in range(count - len(draft))]


def _followed(text, draft, count):
    """Up to `count` tokens that followed the end of text and draft at the latest place where most of it stood."""
    tail = [*text[-LONGEST_KEY:], *draft][-LONGEST_KEY:]
    ends = [end for end in range(1, len(text)) if text[end - 1] == tail[-1]]

    def agreement(end):
        pairs = zip(reversed(tail), reversed(text[max(0, end - LONGEST_KEY) : end]))
        return next((length for length, (a, b) in enumerate(pairs) if a != b), min(len(tail), end))

    place = max(ends, key=lambda end: (agreement(end), end), default=len(text))
    return text[place : place + count]


class Predictions:
    """What the last pass predicted, by request, and how long each text was when that pass began.

    Lengths tell how much was accepted, in whichever order results are processed, and after a request was put back and
    prefilled again.
    """

    def __init__(self):
        self._lengths, self._places, self._tokens = [], {}, None

    def begin(self, ids, lengths):
        """A pass over these requests, whose predictions are not known yet."""
        self._lengths, self._tokens = lengths, None
        self._places = {name: place for place, name in enumerate(ids)}

    def end(self, tokens):
        """Its predictions: a tensor, request by request. Read at the next draft, when the device is done with them."""
        self._tokens = tokens

    def grown(self, name, length):
        """How much a text of that length has grown since the pass began; all of it where the pass did not have it."""
        place = self._places.get(name)
        return length - (0 if place is None else self._lengths[place])

    def take(self, ids, lengths):
        """(predictions, accepted tokens) of each of these requests; nothing where the last pass did not have it."""
        rows = self._tokens.tolist() if self._tokens is not None else []
        taken = []
        for name, length in zip(ids, lengths):
            accepted, known = self.grown(name, length), rows and name in self._places
            taken.append((rows[self._places[name]], accepted) if known and accepted > 0 else ([], 0))
        return taken


def worker_class():
    """SGLang's n-gram worker with Jacobi drafts. A function, since SGLang's module loads torch and CUDA kernels."""
    import numpy
    from sglang.srt.speculative.ngram_worker import NGRAMWorker

    class JacobiWorker(NGRAMWorker):
        def __init__(self, server_args, gpu_id, nccl_port, target_worker):
            super().__init__(server_args, gpu_id, nccl_port, target_worker)
            rows = self.draft_token_num
            self._predictions = Predictions()
            # Row i of a request sees rows 0 to i: a tree without branches.
            self._chain = [int(column <= row) for row in range(rows) for column in range(rows)]
            logger.warning("Jacobi drafts: %d rows per request. This plug-in was not run on a GPU yet.", rows)

        def clear_cache_pool(self):
            super().clear_cache_pool()
            self._predictions = Predictions()

        def _prepare_draft_tokens(self, batch):
            """(tokens, mask), flat, request by request: the last known token and its draft."""
            ids = [req.rid for req in batch.reqs]
            texts, lengths = self._texts(batch)
            tokens = []
            for text, (predictions, accepted) in zip(texts, self._predictions.take(ids, lengths)):
                tokens += [text[-1], *next_draft(predictions, accepted, text, self.draft_token_num - 1)]
            self._predictions.begin(ids, lengths)
            return (
                numpy.array(tokens, dtype=numpy.int64),
                numpy.array(self._chain * len(ids), dtype=numpy.int64),
            )

        def _texts(self, batch):
            """The end of each request's prompt and response, and the length of all of it."""
            texts, lengths = [], []
            for req, unread in zip(batch.reqs, self._unread(batch)):
                prompt, response = req.origin_input_ids_unpadded, req.output_ids
                grown = self._predictions.grown(req.rid, len(prompt) + len(response))
                # A prefill between two passes leaves time to process the first. The last token is the same either way.
                if grown >= len(unread) and [*response[-len(unread) :]] == unread:
                    unread = []
                texts.append([*prompt[-TAIL:], *response[-TAIL:], *unread])
                lengths.append(len(prompt) + len(response) + len(unread))
            return texts, lengths

        def _unread(self, batch):
            """Tokens that the last pass accepted and that may be missing in the response: under overlap scheduling
            results are processed while the next pass runs, unless a grammar has to see them first."""
            if not self.enable_overlap or batch.grammar_needs_sync():
                return [[] for _ in batch.reqs]
            stride, tokens = self.draft_token_num, batch.spec_info.accept_tokens.tolist()
            counts = batch.spec_info.accept_lens.tolist()
            return [tokens[i * stride : i * stride + count] for i, count in enumerate(counts)]

        def _update_ngram_corpus(self, batch):
            """Nothing is looked up, so nothing is put in."""

        def forward_batch_generation(self, batch, on_publish=None, pp_proxy_tensors=None):
            # Before the pass, which changes the mode of the batch while it runs.
            drafting, count = batch.forward_mode.is_decode(), len(batch.reqs)
            result = super().forward_batch_generation(batch, on_publish, pp_proxy_tensors)
            if drafting:
                # At once: the logits may lie in a buffer that the next pass writes. They carry penalties and biases by
                # now, so that this is what the engine itself would have chosen.
                chosen = result.logits_output.next_token_logits.argmax(-1)
                self._predictions.end(chosen.reshape(count, self.draft_token_num))
            return result

    return JacobiWorker
