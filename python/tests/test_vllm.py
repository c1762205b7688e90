"""The hooks into vLLM and the proposer, with fakes of vLLM and its tensors, so that neither has to be installed."""

import importlib
import sys
import types
import unittest
from array import array
from types import SimpleNamespace
from unittest import mock

from jacobi_serve import vllm_hooks
from jacobi_serve.vllm_hooks import Kept


class Rows(list):
    """The part of a tensor that the hooks use."""

    def argmax(self, dim):
        assert dim == -1
        return Rows(max(range(len(row)), key=row.__getitem__) for row in self)

    def tolist(self):
        return [list(row) if isinstance(row, list) else row for row in self]

    def __setitem__(self, at, value):
        """A value for some columns of some rows."""
        rows, columns = at
        for row in rows:
            self[row][columns] = [value] * len(self[row][columns])


def one_hot(tokens, size=10):
    return Rows([float(token == at) for at in range(size)] for token in tokens)


def sampler_module():
    """The part of vllm.v1.sample.rejection_sampler that the hooks need; greedy acceptance, slow and obvious."""

    def rejection_sample(
        draft_token_ids,
        num_draft_tokens,
        max_spec_len,
        cu_num_draft_tokens,
        draft_probs,
        target_logits,
        bonus_token_ids,
        sampling_metadata,
        synthetic_mode=False,
    ):
        best, output, start = target_logits.argmax(dim=-1), Rows(), 0
        for count, bonus in zip(num_draft_tokens, bonus_token_ids):
            wanted = [*best[start : start + count], *bonus]
            drafted = draft_token_ids[start : start + count]
            right = next((at for at in range(count) if drafted[at] != wanted[at]), count)
            output.append((wanted[: right + 1] + [-1] * max_spec_len)[: max_spec_len + 1])
            start += count
        target_logits.clear()  # vLLM may change the logits in place
        return output

    class RejectionSampler:
        def forward(self, *args):
            return rejection_sample(*args)

    # In vLLM a global of the module, here a name of the closure; set where the check looks for it.
    RejectionSampler.forward.__code__ = RejectionSampler.forward.__code__.replace(co_names=("rejection_sample",))
    return SimpleNamespace(rejection_sample=rejection_sample, RejectionSampler=RejectionSampler)


GREEDY, RANDOM = SimpleNamespace(all_greedy=True), SimpleNamespace(all_greedy=False)


class Check(unittest.TestCase):
    def test_takes_the_versions_it_was_read_in(self):
        for version in ["0.22.0", "0.32.0+cpu", "0.33.1.dev3"]:
            vllm_hooks.check(version, sampler_module())

    def test_refuses_what_does_not_fit_with_the_version(self):
        renamed, gone, moved = sampler_module(), sampler_module(), sampler_module()
        renamed.rejection_sample = lambda draft_token_ids, metadata: None
        del gone.rejection_sample
        moved.RejectionSampler.forward = lambda self, metadata: None
        rows = [
            ("0.21.3", sampler_module(), "made for 0.22 to 0.33"),
            ("0.34.0", sampler_module(), "made for 0.22 to 0.33"),
            ("dev", sampler_module(), "made for 0.22 to 0.33"),
            ("0.33.0", renamed, "rejection_sample takes draft_token_ids, metadata"),
            ("0.33.0", gone, "rejection_sample is gone"),
            ("0.33.0", moved, "forward does not call rejection_sample"),
            ("0.33.0", SimpleNamespace(), "gone; RejectionSampler.forward does not call"),
        ]
        for version, sampler, cause in rows:
            with self.assertRaises(RuntimeError) as caught:
                vllm_hooks.check(version, sampler)
            self.assertIn(f"does not fit vLLM {version}: ", str(caught.exception))
            self.assertIn(cause, str(caught.exception))


class Keeping(unittest.TestCase):
    def verify(self, kept, sampling=GREEDY, on_cpu=False):
        """Two requests, drafts [1, 2, 3] and [4]; the model wants 1, 5, 6 and 4, and behind them 7 and 8."""
        wrapped = vllm_hooks._keeping(sampler_module().rejection_sample, kept, on_cpu)
        return wrapped([1, 2, 3, 4], [3, 1], 3, [3, 4], None, one_hot([1, 5, 6, 4]), Rows([[7], [8]]), sampling)

    def test_predictions_are_split_by_request(self):
        kept = Kept()
        self.assertEqual(self.verify(kept), [[1, 5, -1, -1], [4, 8, -1, -1]])
        self.assertEqual(kept.take([[1, 5], [4, 8]]), [[1, 5, 6, 7], [4, 8]])
        # Taken once.
        self.assertEqual(kept.take([[1, 5], [4, 8]]), [[], []])

    def test_noise_is_never_accepted_and_what_follows_it_is_kept(self):
        kept = Kept()
        kept.noise = [0]
        self.assertEqual(self.verify(kept), [[1, -1, -1, -1], [4, 8, -1, -1]])
        self.assertEqual(kept.take([[1], [4, 8]]), [[1, 5, 6, 7], [4, 8]])
        # Only one pass has this noise.
        self.assertEqual(self.verify(kept)[0], [1, 5, -1, -1])

    def test_predictions_of_another_pass_are_none(self):
        for sampled, expected in [
            ([[1, 5]], [[]]),
            ([[1, 6], [4, 8]], [[], [4, 8]]),
            ([[], [4, 8]], [[1, 5, 6, 7], [4, 8]]),
            ([[1, 5, -1, -1, -1], [4, 8]], [[], [4, 8]]),
        ]:
            kept = Kept()
            self.verify(kept)
            self.assertEqual(kept.take(sampled), expected)

    def test_sampling_on_a_cpu_is_stopped_where_drafts_are_ours(self):
        for on_cpu, drafted, sampling, stops in [
            (True, True, RANDOM, True),
            (True, True, GREEDY, False),
            (True, False, RANDOM, False),  # the warm-up of vLLM
            (False, True, RANDOM, False),
        ]:
            kept = Kept()
            kept.drafted = drafted
            if stops:
                with self.assertRaisesRegex(RuntimeError, "refused: on the CPU backend"):
                    self.verify(kept, sampling, on_cpu)
            else:
                self.verify(kept, sampling, on_cpu)

    def test_installs_once(self):
        sampler = sampler_module()
        vllm_hooks.install(sampler, False)
        wrapped = sampler.rejection_sample
        vllm_hooks.install(sampler, False)
        self.assertIs(sampler.rejection_sample, wrapped)
        vllm_hooks.check("0.33.0", sampler)  # a second engine in the process still passes


class Refusing(unittest.TestCase):
    def test_a_sampled_request_is_refused_where_vllm_cannot_serve_it(self):
        def verify(self, model_config, speculative_config, tokenizer=None):
            seen.append(self)

        for model, temperature, cpu, refused in [
            (vllm_hooks.PROPOSERS[0], 0.7, True, True),
            (vllm_hooks.PROPOSERS[1], 0.7, True, True),
            (vllm_hooks.PROPOSERS[0], 0.0, True, False),
            (vllm_hooks.PROPOSERS[0], 0.7, False, False),
            ("ngram", 0.7, True, False),
            (None, 0.7, True, False),
        ]:
            seen = []
            wrapped = vllm_hooks._refusing(verify, lambda: cpu, ValueError)
            config = model and SimpleNamespace(model=model)
            call = lambda: wrapped(SimpleNamespace(temperature=temperature), None, config)
            if refused:
                with self.assertRaisesRegex(ValueError, "temperature 0.7 is refused"):
                    call()
            else:
                call()
            self.assertEqual(len(seen), 1)


def stand_in():
    """Fake modules under the names that jacobi_serve.vllm imports."""
    names = ["vllm", "vllm.logger", "vllm.platforms", "vllm.v1", "vllm.v1.sample", "vllm.v1.sample.rejection_sampler"]
    modules = {name: types.ModuleType(name) for name in names}
    modules["vllm"].__version__ = "0.33.0"
    modules["vllm.logger"].init_logger = lambda name: mock.Mock()
    modules["vllm.platforms"].current_platform = SimpleNamespace(is_cpu=lambda: True)
    sampler = modules["vllm.v1.sample.rejection_sampler"]
    sampler.__dict__.update(vars(sampler_module()))
    modules["vllm.v1.sample"].rejection_sampler = sampler
    return modules


class Proposing(unittest.TestCase):
    def setUp(self):
        self.addCleanup(sys.modules.pop, "jacobi_serve.vllm", None)
        patch = mock.patch.dict(sys.modules, stand_in())
        patch.start()
        self.addCleanup(patch.stop)
        self.module = importlib.import_module("jacobi_serve.vllm")
        kept = mock.patch.object(vllm_hooks, "KEPT", Kept())
        kept.start()
        self.addCleanup(kept.stop)

    def proposer(self, count=4, max_len=100, extra=None, **jacobi):
        config = SimpleNamespace(
            speculative_config=SimpleNamespace(num_speculative_tokens=count),
            model_config=SimpleNamespace(
                max_model_len=max_len, model="/nowhere", revision=None, get_vocab_size=lambda: 50
            ),
            additional_config={"jacobi": jacobi} if extra is None else extra,
            scheduler_config=SimpleNamespace(max_num_seqs=2),
        )
        return self.module.JacobiProposer(config)

    def propose(self, proposer, sampled, texts):
        rows = array("q"), [array("q", text) for text in texts]
        return proposer.propose(sampled, [len(text) for text in texts], Table(rows[1]))

    def test_draft_is_what_was_predicted_behind_the_accepted_tokens(self):
        proposer = self.proposer()
        first = self.propose(proposer, [[7], []], [[1, 2, 7], [3, 3]])
        self.assertEqual([len(draft) for draft in first], [4, 0])
        # The first request's draft is right once; the second has just read its prompt, without a draft.
        vllm_hooks.KEPT.keep([4, 0], Rows([8, 5, 4, 6]), Rows([[9], [2]]), Rows([[8, 5, -1, -1, -1], [2] + [-1] * 4]))
        second = self.propose(proposer, [[8, 5], [2]], [[1, 2, 7, 8, 5], [3, 3, 2]])
        self.assertEqual(second[0][:3], [4, 6, 9])
        self.assertEqual([len(draft) for draft in second], [4, 4])

    def test_a_window_is_found_again_in_another_row_and_equal_texts_keep_their_own(self):
        proposer = self.proposer()
        self.propose(proposer, [[7], [7], [5]], [[1, 7], [1, 7], [4, 5]])
        windows = list(proposer.windows.kept.values())
        self.assertEqual(len(set(map(id, windows))), 3)
        self.propose(proposer, [[6], [8], [9]], [[4, 5, 6], [1, 7, 8], [1, 7, 9]])
        self.assertEqual(set(map(id, proposer.windows.kept.values())), set(map(id, windows)))
        texts = sorted(window.text.tokens for window in windows)
        self.assertEqual(texts, [[1, 7, 8], [1, 7, 9], [4, 5, 6]])

    def test_windows_of_requests_that_are_gone_make_room(self):
        proposer = self.proposer()
        for token in range(50):
            self.propose(proposer, [[token]], [[1, 2, token]])
        self.assertEqual(len(proposer.windows.kept), 8)

    def test_draft_ends_with_the_context(self):
        proposer = self.proposer(count=4, max_len=6)
        self.assertEqual(len(self.propose(proposer, [[7]], [[1, 2, 7]])[0]), 2)
        self.assertEqual(self.propose(proposer, [[8]], [[1, 2, 7, 9, 9, 8]])[0], [])

    def test_bad_numbers_and_settings_are_refused(self):
        rows = [
            (dict(count=129, max_len=1000), "129; vLLM verifies 1 to 128"),
            (dict(count=0), "num_speculative_tokens is 0"),
            (dict(count=None), "num_speculative_tokens is None"),
            (dict(count=8, max_len=8), "9 rows, more than the context of 8"),
            (dict(window="round"), "window is 'round'"),
            (dict(extra={"jacobi": 3}), "must be a table"),
        ]
        for arguments, cause in rows:
            with self.assertRaisesRegex(ValueError, cause):
                self.proposer(**arguments)

    def test_predictions_that_do_not_arrive_are_said_once(self):
        proposer = self.proposer()
        with self.assertLogs(vllm_hooks.logger, "WARNING") as said:
            for step in range(40):
                self.propose(proposer, [[7]], [[1, 2] + [7] * (step + 1)])
        self.assertEqual(len(said.output), 1)


class Table(list):
    """token_ids_cpu, indexed by row and slice."""

    def __getitem__(self, at):
        return super().__getitem__(at[0])[at[1]]


if __name__ == "__main__":
    unittest.main()
