"""Windows, fillers and pool, compared with the tables of decoder/src and with a slow, obvious version."""

import random
import unittest

from jacobi_serve.draft import Cycle, Filler, NgramPool, Rng, Text, Window
from jacobi_serve.settings import Settings

VOCABULARY = 11


def text_of(tokens):
    text = Text(indexed=True)
    text.extend(tokens)
    return text


class Numbers(unittest.TestCase):
    def test_equal_those_of_the_rust_generator(self):
        # The published SplitMix64 numbers that datasets/src/rng.rs is tested with.
        rng = Rng()
        rng.state = 1234567
        expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
        self.assertEqual([rng.bits() for _ in range(4)], expected)

    def test_stay_below_their_bound_and_hang_on_every_seed(self):
        rng = Rng(7)
        self.assertEqual({rng.below(5) for _ in range(500)}, set(range(5)))
        self.assertEqual(rng.below(1), 0)
        first = Rng(1, 2).bits()
        for seeds in [(2, 1), (1, 3), (0, 2), (1,), (1, 2, 0), ()]:
            self.assertNotEqual(Rng(*seeds).bits(), first, seeds)


class Followed(unittest.TestCase):
    def test_repeats_what_followed_the_longest_key_at_its_latest_place(self):
        rows = [
            ([1, 2, 3, 4, 5, 1, 2], [], [3, 4, 5]),
            # The longest key wins over the latest place, and the draft is part of the key.
            ([7, 1, 2, 8, 8, 8, 9, 2, 5, 5, 5, 7], [1, 2], [8, 8, 8]),
            ([7, 1, 2, 8, 8, 8, 9, 2, 5, 5, 5, 6], [2], [5, 5, 5]),
            ([1, 2, 1], [], [2, 1]),
            ([1, 2, 3], [], []),
        ]
        for tokens, draft, expected in rows:
            self.assertEqual(text_of(tokens).followed(draft, 3), expected, tokens)

    def test_index_that_grows_equals_a_search(self):
        choices = random.Random(0)
        for _ in range(200):
            tokens = [choices.randrange(3) for _ in range(choices.randrange(1, 20))]
            draft = [choices.randrange(3) for _ in range(choices.randrange(4))]
            text, at = Text(indexed=True), 0
            while at < len(tokens):
                step = choices.randrange(1, 5)
                text.extend(tokens[at : at + step])
                at += step
            self.assertEqual(text.followed(draft, 4), searched(tokens, draft, 4), (tokens, draft))


def searched(tokens, draft, count):
    """The slow version of `Text.followed`."""
    tail = tokens[-3:] + draft
    for length in range(min(3, len(tail)), 0, -1):
        for end in range(len(tokens) - 1, length - 1, -1):
            if tokens[end - length : end] == tail[-length:]:
                return tokens[end : end + count]
    return []


class Pool(unittest.TestCase):
    def test_finds_what_followed_where_most_matches(self):
        rows = [
            ([], [1, 2, 3], []),
            ([[3, 4, 5]], [1, 2, 3], [4, 5]),
            ([[9, 9], [5, 3]], [1, 2, 3], []),
            # The youngest of equals, and the first place in it.
            ([[3, 4], [3, 5], [3, 6, 3, 7]], [1, 2, 3], [6, 3, 7]),
            # More matching text wins over age.
            ([[2, 3, 4], [9, 3, 5]], [1, 2, 3], [4]),
        ]
        for runs, tail, expected in rows:
            pool = NgramPool()
            for run in runs:
                pool.remember(run)
            self.assertEqual(pool.continuation(tail, 9), expected, runs)
            self.assertEqual(pool.continuation(tail, 1), expected[:1], runs)

    def test_forgets_the_oldest_and_what_has_no_continuation(self):
        pool = NgramPool()
        for token in range(100):
            pool.remember([3, token])
        pool.remember([3, 99])
        pool.remember([3])
        self.assertEqual(len(pool.runs), 32)
        self.assertEqual(pool.continuation([3], 9), [99])


def decode(settings, count, model, prompt, length):
    """Greedy decoding with a window by `model`, text to next token: the response, and the draft tokens of each pass."""
    window = Window(settings, count, VOCABULARY)
    window.text.extend(prompt)
    text = prompt + [model(prompt)]
    new, predictions, widths = text[-1:], [], []
    while len(text) < len(prompt) + length:
        window.learn(new, predictions)
        draft = window.draft(room=1000)
        widths.append(len(draft))
        predictions = [model(text + draft[:at]) for at in range(len(draft) + 1)]
        right = 0
        while right < len(draft) and draft[right] == predictions[right]:
            right += 1
        new = predictions[: right + 1]
        text += new
    return text[len(prompt) : len(prompt) + length], widths


def counting(text):
    """A model that counts in steps of the token before the last, so that drafts are partly right."""
    return (text[-1] * 3 + (text[-2] if len(text) > 1 else 1) + len(text) // 7) % 11


class Decoding(unittest.TestCase):
    WINDOWS = [
        Settings(),
        Settings(filler="ngram"),
        Settings(filler="vocabulary"),
        Settings(pool_size=4),
        Settings(window="block"),
        Settings(window="block", block_size=4, max_blocks=2, filler="ngram", pool_size=1),
    ]

    def test_every_window_gives_the_greedy_text(self):
        prompt = [1, 5, 2, 8]
        expected = list(prompt)
        while len(expected) < 84:
            expected.append(counting(expected))
        for settings in self.WINDOWS:
            for count in (1, 3, 7, 15):
                text, widths = decode(settings, count, counting, prompt, 80)
                self.assertEqual(text, expected[4:], settings)
                self.assertLessEqual(max(widths), count, settings)

    def test_sliding_window_keeps_its_rows(self):
        for settings in self.WINDOWS[:4]:
            _, widths = decode(settings, 7, counting, [1, 5, 2, 8], 80)
            self.assertEqual(set(widths), {7}, settings)

    def test_block_shrinks_to_its_known_token_and_then_a_fresh_one_starts(self):
        # A model whose tokens depend on all before, so that each pass accepts one.
        _, widths = decode(Settings(window="block"), 3, lambda text: hash(tuple(text)), [1, 2], 9)
        self.assertEqual(widths, [3, 2, 1, 0, 3, 2, 1, 0])

    def test_second_block_starts_once_the_newest_is_settled(self):
        settings = Settings(window="block", block_size=4, max_blocks=2, spawn_ratio=0.5)
        _, widths = decode(settings, 7, lambda text: 1000 + len(text), [1, 2], 6)
        self.assertGreater(max(widths), 3)
        settings = Settings(window="block", block_size=4, max_blocks=1)
        _, widths = decode(settings, 7, lambda text: 1000 + len(text), [1, 2], 6)
        self.assertEqual(max(widths), 3)

    def test_seed_decides_what_is_drawn(self):
        drafts = []
        for seed in (0, 0, 1):
            window = Window(Settings(seed=seed), 12, VOCABULARY)
            window.text.extend(range(100))
            window.learn([100], [])
            drafts.append(window.draft(room=12))
        self.assertEqual(drafts[0], drafts[1])
        self.assertNotEqual(drafts[0], drafts[2])

    def test_room_cuts_the_draft(self):
        window = Window(Settings(), 7, VOCABULARY)
        window.text.extend([1, 2, 3])
        window.learn([4], [])
        self.assertEqual(len(window.draft(room=2)), 2)

    def test_what_was_predicted_behind_the_accepted_tokens_is_the_draft(self):
        window = Window(Settings(), 4, VOCABULARY)
        window.text.extend([1])
        window.learn([2], [])
        window.draft(room=4)
        # Rows [2 | draft]: two right, then the model wants 9; it predicts 7, 6 behind.
        window.learn([3, 4, 9], [3, 4, 9, 7, 6])
        self.assertEqual(window.draft(room=4)[:2], [7, 6])


class Drawn(unittest.TestCase):
    def test_fillers_are_of_the_text_or_of_the_vocabulary(self):
        for kind, allowed in [("random", {4, 5, 6}), ("ngram", {4, 5, 6}), ("vocabulary", set(range(9)))]:
            filler = Filler(Settings(filler=kind), 9)
            text = filler.text()
            text.extend([4, 5, 6])
            first, second = filler.fill(text, [], 40), filler.fill(text, [], 40)
            self.assertEqual(set(first + second), allowed, kind)
            self.assertNotEqual(first, second, kind)


def drafted(cycle, base, adapter, prompt, length):
    """Greedy decoding in cycles, `adapter` being a model that sees the known token and noise: the response and its passes."""
    cycle.text.extend(prompt)
    text = prompt + [base(prompt)]
    new, predictions, passes = text[-1:], [], 0
    while len(text) < len(prompt) + length:
        cycle.learn(new, predictions)
        draft = cycle.draft(room=1000)
        rows = [text + draft[:at] for at in range(len(draft) + 1)]
        passes += 1
        if cycle.is_noise:
            predictions = [base(text), *(adapter(row, len(text)) for row in rows[1:])]
            new = predictions[:1]
        else:
            predictions = [base(row) for row in rows]
            right = 0
            while right < len(draft) and draft[right] == predictions[right]:
                right += 1
            new = predictions[: right + 1]
        text += new
    return text[len(prompt) : len(prompt) + length], passes


class Cycles(unittest.TestCase):
    def test_the_text_is_the_base_s_whatever_the_adapter_drafts(self):
        prompt = [1, 5, 2, 8]
        expected = list(prompt)
        while len(expected) < 4 + 60:
            expected.append(counting(expected))

        def right(row, known):
            return expected[len(row)] if len(row) < len(expected) else 0

        def partly(row, known):
            return right(row, known) if len(row) - known < 3 else -1

        # With drafts of 7: one token by the first pass of a cycle; all 8, 3 or 1 by the second. The prefill gives one more.
        for adapter, per_cycle in (right, 9), (partly, 4), (lambda row, known: -1, 2):
            for filler in "random", "ngram", "vocabulary":
                cycle = Cycle(Settings(filler=filler), 7, VOCABULARY)
                text, passes = drafted(cycle, counting, adapter, prompt, 60)
                self.assertEqual(text, expected[4:], filler)
                cycles = -(-59 // per_cycle)
                self.assertIn(passes, (2 * cycles - 1, 2 * cycles), (filler, per_cycle))

    def test_a_draft_that_was_not_verified_is_forgotten(self):
        cycle = Cycle(Settings(), 3, VOCABULARY)
        cycle.text.extend([1])
        cycle.learn([2], [])
        self.assertEqual((len(cycle.draft(9)), cycle.is_noise), (3, True))
        cycle.learn([3], [3, 7, 8, 9])
        self.assertEqual((cycle.draft(2), cycle.is_noise), ([7, 8], False))
        # The engine dropped it, and the pass had the known token alone.
        cycle.learn([4], [4])
        self.assertEqual((len(cycle.draft(2)), cycle.is_noise), (2, True))


if __name__ == "__main__":
    unittest.main()
