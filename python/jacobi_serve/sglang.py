"""Jacobi drafts in SGLang: the draft of a pass is what the target predicted in the previous pass behind the first rejected
token.

    sglang serve --model-path EXPORT --speculative-algorithm JACOBI --speculative-num-draft-tokens 16

Not run on a GPU. Written against the released wheel of SGLang 0.5.23 and tested with fakes of that wheel's classes, whose
names and signatures `scripts/check_sglang_plugin.py` compares with the wheel. `scripts/check_sglang_worker.py` runs the
wheel's n-gram worker with these drafts on a CPU, with fakes for the scheduler and the KV cache.

SGLang finds `register` through the entry point group `sglang.srt.plugins`, in each of its processes. The worker is its
n-gram worker with another source of drafts: its tree verification accepts a chain as a tree without branches, and its
scheduler treats n-gram drafts (no draft model, no KV cache of drafts) as Jacobi drafts need it. A draft changes the number
of passes, never the text.
"""

import json
import logging
import random
from pathlib import Path

from .sglang_hooks import Source, Unfit, misfits

logger = logging.getLogger(__name__)

NAME = "JACOBI"

# Rows of a request in a pass, the last known token included, if neither the command line nor jacobi.json sets them.
ROWS = 16

# SGLang's own bound for n-gram drafts: wide passes over many requests gain nothing.
RUNNING_REQUESTS = 48

# Tokens of prompt and of response from which fillers are drawn, so that a long context is not copied in each pass.
TAIL = 4096

# Context tokens that a filler matches, the longest match first.
LONGEST_KEY = 3

# Nodes of the n-gram worker's trie; it is allocated at the start and stays empty.
TRIE_NODES = 1024


def register():
    """Makes `--speculative-algorithm JACOBI` known to SGLang in this process.

    Whether this SGLang fits is checked only when that algorithm is selected, so that the installed package does not
    disturb others. Raises `Unfit` if the registration itself has changed.
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
    """Refuses, before a model is loaded, an SGLang that does not fit, and settings that the worker does not support."""
    source = Source.installed()
    found = misfits(source)
    if found:
        raise Unfit(found, source.version)
    rows = server_args.speculative_num_draft_tokens
    refused = [
        # On a CPU SGLang verifies greedily at any temperature.
        (server_args.device != "cuda", f"--device {server_args.device}: the worker supports only CUDA"),
        # Each rank takes its own argmax, so ranks could verify different drafts together and give wrong answers.
        (server_args.tp_size > 1, "--tp-size above 1: nothing makes the ranks draft the same"),
        (server_args.pp_size > 1, "--pp-size above 1: only the last stage has the predictions"),
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
    """The algorithm class for SGLang's scheduler, which behaves as for its n-gram drafts (`builtin.NGRAM`)."""

    class JacobiAlgorithm(base):
        def is_ngram(self):
            return True

        def has_draft_kv(self):
            return False

        # The scheduler calls these three, and the plug-in base class of SGLang 0.5.23 lacks them.
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
            """As for n-gram drafts, but with one branch: a chain, which every attention backend verifies causally."""
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

    `predictions[i]` is the last pass's prediction after its row i, and `accepted` the number of tokens that the text has
    gained since that pass began: the predictions behind them are the draft. Then come tokens that followed the same
    suffix earlier in the text, then tokens drawn from the text. The result depends only on the arguments, so a repeated
    request takes the same passes.
    """
    draft = list(predictions[accepted:][:count])
    draft += _followed(text, draft, count - len(draft))
    rng = random.Random(f"{len(text)} {text[-1]}")
    return draft + [text[int(rng.random() * len(text))] for _ in range(count - len(draft))]


def _followed(text, draft, count):
    """Up to `count` tokens that followed the latest earlier occurrence of the longest suffix of text and draft."""
    tail = [*text[-LONGEST_KEY:], *draft][-LONGEST_KEY:]
    ends = [end for end in range(1, len(text)) if text[end - 1] == tail[-1]]

    def agreement(end):
        pairs = zip(reversed(tail), reversed(text[max(0, end - LONGEST_KEY) : end]))
        return next((length for length, (a, b) in enumerate(pairs) if a != b), min(len(tail), end))

    place = max(ends, key=lambda end: (agreement(end), end), default=len(text))
    return text[place : place + count]


class Predictions:
    """The predictions of the last pass by request, and the length of each text when that pass began.

    The lengths show how many tokens were accepted, in any order of processing, and also after a request was retracted and
    prefilled again.
    """

    def __init__(self):
        self._lengths, self._places, self._tokens = [], {}, None

    def begin(self, ids, lengths):
        """Starts a pass over these requests."""
        self._lengths, self._tokens = lengths, None
        self._places = {name: place for place, name in enumerate(ids)}

    def end(self, tokens):
        """Sets its predictions, a tensor by request. It is read at the next draft, when the device has finished."""
        self._tokens = tokens

    def grown(self, name, length):
        """How much a text of that length has grown since the pass began; all of it if the pass did not include it."""
        place = self._places.get(name)
        return length - (0 if place is None else self._lengths[place])

    def take(self, ids, lengths):
        """(predictions, accepted tokens) of each request; ([], 0) if the last pass did not include it."""
        rows = self._tokens.tolist() if self._tokens is not None else []
        taken = []
        for name, length in zip(ids, lengths):
            accepted, known = self.grown(name, length), rows and name in self._places
            taken.append((rows[self._places[name]], accepted) if known and accepted > 0 else ([], 0))
        return taken


def worker_class():
    """SGLang's n-gram worker with Jacobi drafts. A function, since importing SGLang's module loads CUDA kernels."""
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
            """The end of each request's prompt and response, and its full length."""
            texts, lengths = [], []
            for req, unread in zip(batch.reqs, self._unread(batch)):
                prompt, response = req.origin_input_ids_unpadded, req.output_ids
                grown = self._predictions.grown(req.rid, len(prompt) + len(response))
                # After a prefill between two passes the first result is already processed. The last token is the same either way.
                if grown >= len(unread) and [*response[-len(unread) :]] == unread:
                    unread = []
                texts.append([*prompt[-TAIL:], *response[-TAIL:], *unread])
                lengths.append(len(prompt) + len(response) + len(unread))
            return texts, lengths

        def _unread(self, batch):
            """Tokens that the last pass accepted and that the response may lack: under overlap scheduling results are
            processed while the next pass runs, unless a grammar needs them first."""
            if not self.enable_overlap or batch.grammar_needs_sync():
                return [[] for _ in batch.reqs]
            stride, tokens = self.draft_token_num, batch.spec_info.accept_tokens.tolist()
            counts = batch.spec_info.accept_lens.tolist()
            return [tokens[i * stride : i * stride + count] for i, count in enumerate(counts)]

        def _update_ngram_corpus(self, batch):
            """The corpus is not used."""

        def forward_batch_generation(self, batch, on_publish=None, pp_proxy_tensors=None):
            # Read before the pass, which changes the mode of the batch.
            drafting, count = batch.forward_mode.is_decode(), len(batch.reqs)
            result = super().forward_batch_generation(batch, on_publish, pp_proxy_tensors)
            if drafting:
                # Immediately, since the next pass may overwrite the logits. They include penalties and biases, so this is
                # the engine's own choice.
                chosen = result.logits_output.next_token_logits.argmax(-1)
                self._predictions.end(chosen.reshape(count, self.draft_token_num))
            return result

    return JacobiWorker
