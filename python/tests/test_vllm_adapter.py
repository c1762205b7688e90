"""The proposer whose drafts an adapter makes, with fakes of vLLM, so that it does not have to be installed."""

import importlib
import json
import sys
import tempfile
import types
import unittest
from array import array
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

from jacobi_serve import vllm_hooks
from jacobi_serve.vllm_hooks import Kept
from test_vllm import Rows, Table, stand_in


class InputBatch:
    """The part of vLLM's that is used. Two requests with the LoRA of id 3, and between them one without."""

    def __init__(self, adapter="/nowhere"):
        self.req_ids = ["a", "plain", "b"]
        self.request_lora_mapping = [3, 0, 3]
        self.lora_id_to_lora_request = {3: SimpleNamespace(lora_path=str(adapter))}

    def make_lora_inputs(self, num_scheduled_tokens, num_sampled_tokens):
        def repeated(counts):
            return tuple(lora for lora, count in zip(self.request_lora_mapping, counts) for _ in range(count))

        return repeated(num_sampled_tokens), repeated(num_scheduled_tokens), {"loras"}


class Indices(list):
    def tolist(self):
        return list(self)

    def new_tensor(self, values):
        return Indices(values)


class Matrix:
    """The part of a tensor that LoRAs on a CPU need."""

    dtype = None

    def __init__(self, rows):
        self.rows = [list(row) for row in rows]
        self.shape = len(rows), len(rows[0])

    @property
    def T(self):
        return Matrix(list(zip(*self.rows)))

    def to(self, dtype):
        return self

    def __matmul__(self, other):
        return Matrix([[sum(x * y for x, y in zip(row, column)) for column in other.T.rows] for row in self.rows])

    def __rmul__(self, scale):
        return Matrix([[scale * x for x in row] for row in self.rows])

    def __iadd__(self, other):
        return Matrix([[x + y for x, y in zip(*rows)] for rows in zip(self.rows, other.rows)])

    def __getitem__(self, at):
        """Some rows, or columns of them."""
        rows, columns = at if isinstance(at, tuple) else (at, slice(None))
        return Matrix([self.rows[row][columns] for row in rows])

    def __setitem__(self, at, value):
        rows, columns = at if isinstance(at, tuple) else (at, slice(None))
        for row, new in zip(rows, value.rows):
            self.rows[row][columns] = new


class PunicaWrapperCPU:
    """The signatures of vLLM's."""

    def _update_prefill_metadata(self, token_lora_tensor): ...

    def _shrink_prefill(self, y, x, w_t_all, scale): ...

    def _expand_slice_prefill(self, y, x, w_t_all, y_offset, y_slice_size, add_inputs): ...


def with_lora():
    """As vLLM's modules, with those of LoRA."""
    modules = stand_in()
    for name in ["lora", "lora.punica_wrapper", "lora.punica_wrapper.punica_cpu", "v1.worker", "v1.worker.gpu_input_batch"]:
        modules[f"vllm.{name}"] = types.ModuleType(f"vllm.{name}")
    # Copies, since hooks are put into them.
    modules["vllm.lora.punica_wrapper.punica_cpu"].PunicaWrapperCPU = type("PunicaWrapperCPU", (), dict(vars(PunicaWrapperCPU)))
    modules["vllm.v1.worker.gpu_input_batch"].InputBatch = type("InputBatch", (), dict(vars(InputBatch)))
    return modules


class Adapters(unittest.TestCase):
    def setUp(self):
        for name in "jacobi_serve.vllm", "jacobi_serve.vllm_adapter":
            self.addCleanup(sys.modules.pop, name, None)
        modules = with_lora()
        for patch in mock.patch.dict(sys.modules, modules), mock.patch.object(vllm_hooks, "KEPT", Kept()):
            patch.start()
            self.addCleanup(patch.stop)
        self.module = importlib.import_module("jacobi_serve.vllm_adapter")
        self.rows = self.module.ROWS
        self.batches = modules["vllm.v1.worker.gpu_input_batch"].InputBatch
        self.wrapper = modules["vllm.lora.punica_wrapper.punica_cpu"].PunicaWrapperCPU

    def proposer(self, count=3, model="LlamaForCausalLM", lora={}, parallel={}, **jacobi):
        plain = {"target_modules": None, "specialize_active_lora": False}
        ranks = {"pipeline_parallel_size": 1, "use_ubatching": False}
        config = SimpleNamespace(
            speculative_config=SimpleNamespace(num_speculative_tokens=count),
            model_config=SimpleNamespace(max_model_len=100, get_vocab_size=lambda: 50, architectures=[model]),
            additional_config={"jacobi": jacobi} if jacobi else {},
            scheduler_config=SimpleNamespace(max_num_seqs=1),
            parallel_config=SimpleNamespace(**ranks | parallel),
            lora_config=None if lora is None else SimpleNamespace(**plain | lora),
        )
        return self.module.AdapterProposer(config)

    def propose(self, proposer, sampled, texts):
        rows = [array("q", text) for text in texts]
        return proposer.propose(sampled, [len(text) for text in texts], Table(rows))

    def propose_first(self, proposer, batch):
        """A step behind the prompt of the first request."""
        batch.make_lora_inputs([1, 1, 1], [1, 1, 1])
        self.propose(proposer, [[7], [], []], [[1, 2, 7], [1], [1]])

    def test_noise_goes_through_the_adapter_and_what_it_makes_is_verified_by_the_base(self):
        proposer, batch = self.proposer(), self.batches()
        # Prompts of two tokens: every row is the base's.
        by_sample, by_row, loras = batch.make_lora_inputs([2, 2, 1], [1, 1, 1])
        self.assertEqual((by_sample, by_row, loras), ((0, 0, 0), (0,) * 5, {"loras"}))
        first = self.propose(proposer, [[7], [7], []], [[1, 2, 7], [1, 2, 7], [5, 5]])
        self.assertEqual([len(draft) for draft in first], [3, 0, 0])
        # The first request has noise. The last reads on.
        self.assertEqual(batch.make_lora_inputs([4, 1, 1], [4, 1, 1])[1], (0, 3, 3, 3, 0, 0))
        self.assertEqual(vllm_hooks.KEPT.noise, [0])
        accepted = Rows([[8, -1, -1, -1], [9, -1, -1, -1], [6, -1, -1, -1]])
        vllm_hooks.KEPT.noise = []  # as rejection_sample leaves it
        vllm_hooks.KEPT.keep([3, 0, 0], Rows([8, 21, 22]), Rows([[23], [9], [6]]), accepted)
        second = self.propose(proposer, [[8], [9], [6]], [[1, 2, 7, 8], [1, 2, 7, 9], [5, 5, 6]])
        self.assertEqual([second[0], second[1], len(second[2])], [[21, 22, 23], [], 3])
        # Now it is verified, and the last has noise.
        self.assertEqual(batch.make_lora_inputs([4, 1, 4], [4, 1, 4])[1], (0,) * 5 + (0, 3, 3, 3))
        self.assertEqual(vllm_hooks.KEPT.noise, [2])

    def test_a_draft_that_vllm_drops_leaves_the_row_to_the_base(self):
        proposer, batch = self.proposer(), self.batches()
        batch.make_lora_inputs([2, 2, 2], [1, 1, 1])
        self.propose(proposer, [[7], [7], [7]], [[1, 2, 7]] * 3)
        self.assertEqual(batch.make_lora_inputs([1, 1, 3], [1, 1, 3])[1], (0, 0, 0, 3, 3))
        self.assertEqual(vllm_hooks.KEPT.noise, [2])

    def test_requests_that_are_gone_make_room_and_their_ids_may_come_again(self):
        proposer, batch = self.proposer(), self.batches()
        batch.make_lora_inputs([1, 1, 1], [1, 1, 1])
        for number in range(9):
            batch.req_ids = [f"a{number}", f"plain{number}", f"b{number}"]
            self.propose(proposer, [[7], [7], [7]], [[1, 2, 7]] * 3)
        self.assertEqual((len(proposer.cycles), len(self.rows.is_noise)), (4, 4))
        self.propose(proposer, [[4], [], []], [[9, 9, 9, 4], [1], [1]])
        self.assertEqual(proposer.cycles[batch.req_ids[0]].text.tokens, [9, 9, 9, 4])

    def test_filler_is_that_of_the_adapter(self):
        with tempfile.TemporaryDirectory() as folder:
            batch = self.batches(folder)
            for table, own, kind in [
                (None, {}, "vocabulary"),
                ({"name": "multi_block", "passes": "two", "filler": "ngram"}, {}, "ngram"),
                ({"name": "multi_block", "passes": "two"}, {}, "random"),
                ({"name": "multi_block", "passes": "two"}, {"filler": "vocabulary"}, "vocabulary"),
            ]:
                if table:
                    file = {"schema": "jacobi-tune/1", "decoder": table}
                    Path(folder, "jacobi.json").write_text(json.dumps(file), encoding="utf-8")
                proposer = self.proposer(**own)
                self.propose_first(proposer, batch)
                self.assertEqual(proposer.cycles["a"].filler.kind, kind)
            Path(folder, "jacobi.json").write_text("{", encoding="utf-8")
            proposer = self.proposer()
            for _ in range(2):
                self.propose_first(proposer, batch)
            self.assertEqual(proposer.cycles["a"].filler.kind, "random")
            self.module.logger.error.assert_called_once()

    def test_rows_on_a_cpu_get_their_own_adapter_or_none(self):
        self.proposer()
        self.proposer()  # a second engine in the process
        wrapper = self.wrapper()
        nan = float("nan")
        x = Matrix([[nan, nan], [3, 4], [5, 6], [7, 8]])
        loras = [(Matrix([[1, 1]]), Matrix([[10], [20]])), (Matrix([[1, 0]]), Matrix([[1], [1]]))]
        downs, ups = ({(number, 0): pair[at] for number, pair in enumerate(loras)} for at in (0, 1))
        for indices, expected in [
            ([-1, 0, 0, -1], [[1, 1, 1], [1, 141, 281], [1, 221, 441], [1, 1, 1]]),
            ([-1, 0, 1, -1], [[1, 1, 1], [1, 141, 281], [1, 11, 11], [1, 1, 1]]),
            ([-1, -1, -1, -1], [[1, 1, 1]] * 4),
        ]:
            wrapper._update_prefill_metadata(Indices(indices))
            narrow, y = Matrix([[0]] * 4), Matrix([[1, 1, 1]] * 4)
            wrapper._shrink_prefill(narrow, x, downs, 2)
            wrapper._expand_slice_prefill(y, narrow, ups, 1, 2, True)
            self.assertEqual(y.rows, expected, indices)
            self.assertEqual(wrapper.no_lora, max(indices) < 0)

    def test_what_cannot_work_is_refused_at_the_start(self):
        for arguments, cause in [
            (dict(lora=None), "start with --enable-lora"),
            (dict(count=0), "is 0"),
            (dict(model="Gemma4ForCausalLM"), "Gemma4ForCausalLM is not supported"),
            (dict(parallel={"pipeline_parallel_size": 2}), "do not work with pipeline parallelism$"),
            (dict(parallel={"use_ubatching": True}), "do not work with --enable-dbo and --ubatch-size$"),
            (dict(lora={"target_modules": ["lm_head"]}), "do not work with --lora-target-modules$"),
            (dict(lora={"specialize_active_lora": True}), "do not work with --specialize-active-lora$"),
            (dict(window="block"), "setting window is not one of drafts by an adapter"),
            (dict(filler="words"), "filler is 'words'"),
        ]:
            with self.assertRaisesRegex(ValueError, cause):
                self.proposer(**arguments)
        self.batches.make_lora_inputs = lambda self, tokens: None
        del self.wrapper._shrink_prefill
        both = "InputBatch.make_lora_inputs.*PunicaWrapperCPU._shrink_prefill.*is gone or takes other arguments"
        with self.assertRaisesRegex(RuntimeError, both):
            self.proposer()


if __name__ == "__main__":
    unittest.main()
