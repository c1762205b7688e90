"""The draft window of one request, on token ids: the draft that the next pass verifies behind the known token.

This is the window of `decoder/src/multi_block.rs` (arXiv 2512.14681, section 4), token for token, so that an engine needs
as many passes as our decoder. One difference: an engine verifies one chain per pass, so the n-gram pool adds no branches
beside the window; its tokens follow the predictions, before any filler.
"""

import math
from collections import deque

_MASK = (1 << 64) - 1
_LONGEST_KEY = 3  # context tokens that an n-gram filler matches, the longest match first
_REMEMBERED = 32  # runs in the pool; the oldest is dropped


class Rng:
    """SplitMix64, seeded as in `datasets/src/rng.rs`: the same fillers on every machine and in every engine."""

    def __init__(self, *seeds):
        self.state = len(seeds)
        for seed in seeds:
            self.state = self.bits() ^ seed
        self.state = self.bits()

    def bits(self):
        """64 uniform bits."""
        self.state = (self.state + 0x9E3779B97F4A7C15) & _MASK
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        return z ^ (z >> 31)

    def below(self, bound):
        """Uniform in 0..bound, without modulo bias."""
        biased = ((1 << 64) - bound) % bound
        while (bits := self.bits()) < biased:
            pass
        return bits % bound


class Text:
    """Prompt and response of a request, append-only, with an index of the latest position of every short n-gram."""

    def __init__(self, indexed):
        self.tokens = []
        self._ends = {} if indexed else None

    def extend(self, tokens):
        """Appends tokens."""
        start = max(1, len(self.tokens))
        self.tokens.extend(tokens)
        if self._ends is None:
            return
        # An n-gram is indexed once a token follows it. Later positions overwrite earlier ones.
        for end in range(start, len(self.tokens)):
            for length in range(1, min(_LONGEST_KEY, end) + 1):
                self._ends[tuple(self.tokens[end - length : end])] = end

    def followed(self, draft, count):
        """Up to `count` tokens that followed the latest earlier occurrence of the longest possible suffix of text and
        `draft`."""
        tail = self.tokens[-_LONGEST_KEY:] + draft
        for length in range(min(_LONGEST_KEY, len(tail)), 0, -1):
            end = self._ends.get(tuple(tail[-length:]))
            if end is not None:
                return self.tokens[end : end + count]
        return []


class NgramPool:
    """Recently rejected runs: greedy tails that were not accepted, tried again when their context recurs."""

    def __init__(self):
        self.runs = deque(maxlen=_REMEMBERED)

    def remember(self, run):
        """Adds a run at the front. A single token has no continuation and is not kept."""
        if len(run) >= 2 and not (self.runs and self.runs[0] == run):
            self.runs.appendleft(run)

    def continuation(self, tail, count):
        """Up to `count` tokens that followed the end of `tail` in a run: the run with the longest match, the youngest of
        equals. Empty without a match."""
        best, found = 0, []
        for run in self.runs:
            for at in range(len(run) - 1):
                matched = _common_suffix(run[: at + 1], tail)
                if matched > best:
                    best, found = matched, run[at + 1 : at + 1 + count]
        return found


class Filler:
    """Tokens that stand where nothing is predicted. They are the same for the same request in every engine."""

    def __init__(self, settings, vocabulary):
        """`vocabulary`: number of token ids of the model."""
        self.kind, self.seed, self.vocabulary = settings.filler, settings.seed, vocabulary
        self.fills = 0  # number of times that filler was drawn

    def text(self):
        """An empty text, indexed if this filler needs it."""
        return Text(indexed=self.kind == "ngram")

    def fill(self, text, draft, count):
        """`count` tokens to follow text and `draft`."""
        found = text.followed(draft, count) if self.kind == "ngram" else []
        rng = Rng(self.seed, self.fills)
        self.fills += 1
        if self.kind == "vocabulary":
            return [rng.below(self.vocabulary) for _ in range(count)]
        tokens = text.tokens
        return found + [tokens[rng.below(len(tokens))] for _ in range(count - len(found))]


class Window:
    """The draft window of one request. `extend` and `learn` after each pass, `draft` before the next."""

    def __init__(self, settings, count, vocabulary):
        """`count`: the most tokens of a draft; a window has one more, the known token in front. `vocabulary`: number of
        token ids of the model."""
        self.settings = settings
        self.sliding = settings.window == "sliding"
        self.filler = Filler(settings, vocabulary)
        self.text = self.filler.text()
        self.size = count + 1 if self.sliding else min(settings.block_size or count + 1, count + 1)
        self.max_blocks = 1 if self.sliding else max(1, min(settings.max_blocks, (count + 1) // self.size))
        self.ahead = []  # draft behind the known token: predictions of the last pass, then filler
        self.real = 0  # remaining tokens of the first block, the known one included
        self.blocks = 0  # blocks in flight; 0 when the next pass starts one at the known token
        self.stable = 0  # tokens of the newest block that the last pass accepted or did not change
        self.run = []  # the known token and the draft of the last pass
        self.pool = NgramPool()

    def draft(self, room):
        """The draft of the next pass, at most `room` tokens."""
        self._grow()
        draft = self.ahead[: min(room, self._len() - 1)]
        self.run = self.text.tokens[-1:] + draft
        return draft

    def learn(self, new, predictions):
        """Updates the window with the result of a pass.

        `new`: the tokens that it added to the text, the known next one last. `predictions`: the model's prediction after
        each row of the pass, `predictions[len(new) - 1]` being the last of `new`; empty if they are unknown.
        """
        self.text.extend(new)
        following = predictions[len(new) - 1 :] if predictions else new[-1:]
        self.stable = self._stable(len(new), following)
        self._shift(len(new))
        self.ahead = following[1:]
        if self.settings.pool_size > 0:
            self.pool.remember(following)

    def _len(self):
        """Tokens of the window, the known one included."""
        return self.real + (self.blocks - 1) * self.size

    def _grow(self):
        """Starts a block if it is due, and fills the window up."""
        if self.blocks == 0:
            self.real, self.blocks = self.size, 1
        elif self.sliding:
            self.real = self.size
        elif self.blocks < self.max_blocks and self.stable >= math.ceil(self.settings.spawn_ratio * self.size):
            self.blocks, self.stable = self.blocks + 1, 0
        missing = self._len() - 1 - len(self.ahead)
        if missing > 0:
            self.ahead = self.ahead + self._fill(missing)

    def _fill(self, count):
        """`count` tokens to follow text and draft: from the pool, then filler."""
        fresh = []
        if self.settings.pool_size > 0:
            fresh = self.pool.continuation(self.text.tokens[-self.size :] + self.ahead, count)
        return fresh + self.filler.fill(self.text, self.ahead + fresh, count - len(fresh))

    def _shift(self, accepted):
        """Moves the window over `accepted` tokens."""
        if self.blocks == 0:
            return
        complete = 0 if accepted < self.real else 1 + (accepted - self.real) // self.size
        self.blocks = max(0, self.blocks - complete)
        if self.blocks > 0:
            self.real += complete * self.size - accepted

    def _stable(self, accepted, following):
        """Number of tokens of the newest block that are right, or unchanged in `following` (the known token and the next
        draft)."""
        if self.blocks == 0 or self.max_blocks == 1:
            return 0
        first, end = max(0, self._len() - self.size), self._len()

        def kept(at):
            beyond = at - accepted
            return beyond <= 0 or (at < len(self.run) and following[beyond : beyond + 1] == [self.run[at]])

        return self.size - (end - first) + sum(kept(at) for at in range(first, end))


class Cycle:
    """The drafts of one request whose adapter drafts, in two passes a cycle (UNO, arXiv 2609.04010).

    The first pass has noise behind the known token, which the adapter reads; what it predicts there is the draft that the
    second pass verifies. `learn` after each pass, `draft` before the next.
    """

    def __init__(self, settings, count, vocabulary):
        """`count`: the most tokens of a draft; `vocabulary`: number of token ids of the model."""
        self.count = count
        self.filler = Filler(settings, vocabulary)
        self.text = self.filler.text()
        self.drafted = []  # what the adapter predicted behind the known token, not verified yet
        self.is_noise = False  # whether the last draft is noise

    def draft(self, room):
        """The draft of the next pass, at most `room` tokens."""
        self.is_noise = not self.drafted
        draft = self.filler.fill(self.text, [], self.count) if self.is_noise else self.drafted
        return draft[:room]

    def learn(self, new, predictions):
        """Adds the `new` tokens of a pass to the text. `predictions`: the token after each row of the pass, after noise the
        adapter's; empty if they are unknown."""
        self.text.extend(new)
        self.drafted = predictions[1:] if self.is_noise else []


def _common_suffix(a, b):
    """Length of the longest common suffix."""
    count = 0
    for x, y in zip(reversed(a), reversed(b)):
        if x != y:
            break
        count += 1
    return count
