"""The SGLang plug-in against fakes of SGLang's classes (sglang_fakes.py): neither SGLang nor torch is needed. Not run
on a GPU. If SGLANG_WHEEL names a wheel or an unpacked one, the tables are compared with it too."""

import ast
import inspect
import os
import sys
import tempfile
import textwrap
import unittest
import zipfile
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]

import sglang_fakes as fakes
from jacobi_serve import sglang as plugin
from jacobi_serve import sglang_hooks as hooks


def source_tree(folder, change=lambda file, text: text):
    """A package that contains exactly the names of the tables; `change` edits a file of it."""
    files = {}
    for file, function, parameters in hooks.SIGNATURES:
        owner, _, name = function.rpartition(".")
        files.setdefault(file, {}).setdefault(owner, []).append((name, parameters))
    for file, owner, attributes in hooks.ATTRIBUTES:
        files.setdefault(file, {}).setdefault(owner, []).extend((name, None) for name in attributes)
    texts = {file: "" for file, _ in hooks.LINES} | {file: written(classes) for file, classes in files.items()}
    texts["__init__.py"], texts["_version.py"] = "", f"__version__ = version = '{hooks.READ_VERSION}'\n"
    for file, line in hooks.LINES:
        texts[file] += f"# {line}\n"
    for file, text in texts.items():
        path = Path(folder, "sglang", file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(change(file, text), encoding="utf-8")
    return folder


def written(classes):
    text = ""
    for owner, members in classes.items():
        body = ""
        for name, parameters in members:
            within = ", ".join(filter(None, ["self" if owner else "", parameters]))
            body += "@classmethod\n" if name == "register" else ""
            body += f"{name}: int\n" if parameters is None else f"def {name}({within}): pass\n"
        text += f"class {owner}:\n{textwrap.indent(body, '    ')}" if owner else body
    return text


def arguments(**changed):
    settings = {
        "device": "cuda",
        "tp_size": 1,
        "pp_size": 1,
        "attn_dp_size": 1,
        "disaggregation_mode": "null",
        "model_path": "absent",
        "max_running_requests": None,
        "speculative_use_rejection_sampling": False,
        "speculative_draft_model_path": None,
        "speculative_ngram_external_corpus_path": None,
        "speculative_num_draft_tokens": 16,
    }
    return SimpleNamespace(**settings | changed)


def changing(text):
    """A target in which each token depends on the three before it and on how long the text is."""
    return (3 * text[-1] + 5 * text[-2] + 7 * text[-3] + len(text) // 4) % 61


def by_position(text):
    """A target that predicts each token regardless of its context: a perfectly trained one."""
    return (len(text) * 37 + len(text) ** 2 * 11) % 61


class Hooks(unittest.TestCase):
    def check(self, change=lambda file, text: text):
        with tempfile.TemporaryDirectory() as folder:
            return hooks.misfits(hooks.Source(source_tree(folder, change)))

    def test_what_has_every_name_fits(self):
        self.assertEqual(self.check(), [])

    def test_each_change_is_named(self):
        for file, old, new, expected in [
            (hooks._WORKER, "draft_tokens(self, batch)", "draft_tokens(self, batch, tree)", "(batch, tree)"),
            (hooks._WORKER, "def _update_ngram_corpus", "def _update", "_update_ngram_corpus(batch) is absent"),
            (hooks._WORKER, "class NGRAMWorker", "class Other", "NGRAMWorker.draft_token_num is absent"),
            (hooks._BATCH, "    output_ids: int\n", "", "Req.output_ids is absent"),
            (hooks._INFO, "*, supports_overlap", "supports_overlap", "(name, supports_overlap"),
            (hooks._INFO, "def need_topk", "def is_x(self): pass\n    def need_topk", "is_x is new"),
            ("srt/plugins/__init__.py", "sglang.srt.plugins", "sglang.plugins", "GENERAL_PLUGINS_GROUP"),
            ("_version.py", "0.5.23", "0.6.0", hooks.ANY_VERSION),
        ]:
            with self.subTest(expected):
                edit = lambda at, text: text.replace(old, new) if at == file else text
                self.assertIn(expected, "\n".join(self.check(edit)))

    def test_a_version_that_was_not_read_passes_when_asked_for(self):
        with mock.patch.dict(os.environ, {hooks.ANY_VERSION: "1"}):
            self.assertEqual(self.check(lambda file, text: text.replace("0.5.23", "0.6.0")), [])

    def test_a_wheel_is_read_like_a_folder(self):
        with tempfile.TemporaryDirectory() as folder:
            source_tree(folder)
            wheel = Path(folder, "sglang.whl")
            with zipfile.ZipFile(wheel, "w") as archive:
                for path in Path(folder, "sglang").rglob("*.*"):
                    archive.write(path, path.relative_to(folder).as_posix())
            source = hooks.Source(wheel)
            self.assertEqual((source.version, hooks.misfits(source)), (hooks.READ_VERSION, []))

    def test_the_refusal_is_one_line_with_both_versions(self):
        message = str(hooks.Unfit(["a is absent", "b is new"], "0.6.0"))
        for part in ("SGLang 0.6.0", f"SGLang {hooks.READ_VERSION}", "a is absent", "b is new"):
            self.assertIn(part, message)
        self.assertNotIn("\n", message)

    def test_the_fakes_have_the_signatures_of_the_tables(self):
        compared = 0
        for _, function, expected in hooks.SIGNATURES:
            owner, _, name = function.rpartition(".")
            if owner not in fakes.CLASSES or name not in vars(fakes.CLASSES[owner]):
                continue
            text = textwrap.dedent(inspect.getsource(getattr(fakes.CLASSES[owner], name)))
            self.assertEqual(hooks.parameters(ast.parse(text).body[0]), expected, function)
            compared += 1
        self.assertGreaterEqual(compared, 15)

    @unittest.skipUnless("SGLANG_WHEEL" in os.environ, "SGLANG_WHEEL names no wheel")
    def test_the_released_wheel_has_what_the_tables_name(self):
        self.assertEqual(hooks.misfits(hooks.Source(os.environ["SGLANG_WHEEL"])), [])


class Registration(unittest.TestCase):
    def setUp(self):
        context = fakes.installed()
        context.start()
        self.addCleanup(context.stop)
        fakes.SpeculativeAlgorithm.registered.clear()
        plugin.register()
        self.algorithm = fakes.SpeculativeAlgorithm.registered["JACOBI"]

    def validate(self, misfits=(), **changed):
        source = SimpleNamespace(version="0.6.0")
        with mock.patch.object(plugin.Source, "installed", lambda: source):
            with mock.patch.object(plugin, "misfits", lambda source: list(misfits)):
                return self.algorithm.validate_server_args(arguments(**changed))

    def test_it_answers_as_the_ngram_algorithm_does(self):
        ngram = fakes.SpeculativeAlgorithm.NGRAM
        asked = ("is_ngram", "supports_mixed_chunk", "has_draft_kv", "carries_draft_hidden_states", "need_topk")
        for question in asked:
            self.assertEqual(getattr(self.algorithm, question)(), getattr(ngram, question)(), question)
        self.assertTrue(self.algorithm.supports_overlap)
        made = self.algorithm.create_future_map("cuda", "pool", needs_cpu_seq_lens=False)
        self.assertEqual(made, (self.algorithm, "cuda", "pool", False, False))

    def test_it_adds_what_the_table_says_it_adds(self):
        self.assertLessEqual(set(hooks.ADDED), set(vars(type(self.algorithm))))

    def test_an_sglang_that_does_not_fit_is_refused_with_its_version(self):
        self.validate()
        with self.assertRaisesRegex(plugin.Unfit, "0.6.0.*a is absent"):
            self.validate(misfits=["a is absent"])

    def test_settings_that_do_not_go_together_are_refused(self):
        for reason, changed in [
            ("--device cpu", {"device": "cpu"}),
            ("--tp-size", {"tp_size": 2}),
            ("--pp-size", {"pp_size": 2}),
            ("data-parallel", {"attn_dp_size": 2}),
            ("different servers", {"disaggregation_mode": "decode"}),
            ("rejection-sampling", {"speculative_use_rejection_sampling": True}),
            ("draft model", {"speculative_draft_model_path": "x"}),
            ("corpus", {"speculative_ngram_external_corpus_path": "x"}),
            ("draft-tokens 1", {"speculative_num_draft_tokens": 1}),
        ]:
            with self.subTest(reason), self.assertRaisesRegex(ValueError, reason):
                self.validate(**changed)

    def test_the_draft_is_a_chain(self):
        settings = arguments()
        self.algorithm.handle_server_args(settings)
        self.assertEqual(settings.speculative_eagle_topk, 1)
        self.assertEqual(settings.speculative_num_steps, 15)
        self.assertEqual(settings.max_running_requests, plugin.RUNNING_REQUESTS)
        self.assertFalse(settings.enable_mixed_chunk)

    def test_rows_come_from_the_command_line_then_from_jacobi_json(self):
        with tempfile.TemporaryDirectory() as folder:
            for text, given, expected in [
                (None, None, plugin.ROWS),
                (None, 5, 5),
                ('{"decoder": {"name": "multi_block", "block_size": 8}}', None, 8),
                ('{"decoder": {"name": "multi_block", "block_size": 8}}', 5, 5),
                ('{"decoder": {"name": "ar"}}', None, plugin.ROWS),
            ]:
                if text is not None:
                    Path(folder, "jacobi.json").write_text(text, encoding="utf-8")
                settings = arguments(model_path=folder, speculative_num_draft_tokens=given)
                with self.assertLogs(plugin.logger) if text is None and given is None else mock.MagicMock():
                    self.algorithm.handle_server_args(settings)
                self.assertEqual(settings.speculative_num_draft_tokens, expected, text)
            decoders = ("3", '{"block_size": "8"}', '{"block_size": 1}')
            for broken in ("{", "[]", *('{"decoder": %s}' % decoder for decoder in decoders)):
                Path(folder, "jacobi.json").write_text(broken, encoding="utf-8")
                with self.subTest(broken), self.assertRaisesRegex(ValueError, "jacobi.json"):
                    plugin.rows_for(folder)

    def test_without_the_registration_there_is_one_refusal(self):
        with mock.patch.object(fakes.SpeculativeAlgorithm, "register", side_effect=TypeError("another one")):
            with self.assertRaisesRegex(plugin.Unfit, "another one"):
                plugin.register()


class Drafts(unittest.TestCase):
    def test_the_draft_is_what_was_predicted_behind_the_rejection(self):
        for predictions, accepted, expected in [
            ([7, 8, 9, 10], 1, [8, 9, 10]),
            ([7, 8, 9, 10], 3, [10]),
            ([7, 8, 9, 10], 4, []),
            ([7, 8, 9, 10], 9, []),
            ([], 0, []),
        ]:
            draft = plugin.next_draft(predictions, accepted, [1, 2, 3], 3)
            self.assertEqual((len(draft), draft[: len(expected)]), (3, expected))
            self.assertLessEqual(set(draft[len(expected) :]), {1, 2, 3})

    def test_fillers_repeat_what_followed(self):
        for text, draft, expected in [
            ([1, 2, 3, 4, 5, 1, 2], [], [3, 4, 5]),
            # The longest agreement wins over the latest place, and the draft is part of the key.
            ([7, 1, 2, 8, 8, 8, 9, 2, 5, 5, 5, 7], [1, 2], [8, 8, 8]),
            ([7, 1, 2, 8, 8, 8, 9, 2, 5, 5, 5, 6], [2], [5, 5, 5]),
            ([1, 2, 1], [], [2, 1]),
            ([1, 2, 3], [], []),
            ([1], [2], []),
        ]:
            self.assertEqual(plugin._followed(text, draft, 3), expected, text)

    def test_a_draft_depends_on_its_arguments_alone(self):
        first, second = (plugin.next_draft([], 0, list(range(50)), 20) for _ in range(2))
        self.assertEqual(first, second)
        self.assertNotEqual(first, plugin.next_draft([], 0, list(range(51)), 20))


class Worker(unittest.TestCase):
    def setUp(self):
        context = fakes.installed()
        context.start()
        self.addCleanup(context.stop)

    def engine(self, target, rows=8, overlap=False):
        with self.assertLogs(plugin.logger, "WARNING") as logged:
            engine = fakes.Engine(plugin.worker_class(), target, rows, overlap)
        self.assertIn("not run on a GPU", logged.output[0])
        return engine

    def assert_greedy(self, engine, req, target, least):
        engine.settle()
        text = list(req.origin_input_ids_unpadded)
        while len(text) < len(engine.model.texts[req.rid]):
            text.append(target(text))
        self.assertEqual(req.origin_input_ids_unpadded + req.output_ids, text)
        self.assertGreaterEqual(len(req.output_ids), least)

    def test_a_perfect_model_gets_all_rows_accepted(self):
        # The first pass has no predictions. It predicts all rows right, which the second accepts, and so on alternately:
        # behind a fully accepted draft there is only filler.
        for overlap in (False, True):
            engine = self.engine(by_position, rows=8, overlap=overlap)
            req = engine.prefill("a", [1, 2, 3])
            for _ in range(10):
                engine.run([req])
            self.assert_greedy(engine, req, by_position, least=1 + 5 * (1 + 7))

    def test_texts_are_greedy_whatever_is_drafted(self):
        for overlap in (False, True):
            engine = self.engine(changing, overlap=overlap)
            reqs = [engine.prefill(name, [5, place, 9]) for place, name in enumerate("abc")]
            for _ in range(30):
                engine.run(reqs)
            for req in reqs:
                self.assert_greedy(engine, req, changing, least=31)

    def test_requests_come_go_and_change_places(self):
        for overlap in (False, True):
            engine = self.engine(by_position, overlap=overlap)
            a, b = engine.prefill("a", [1, 2, 3]), engine.prefill("b", [4, 5, 6, 7])
            engine.run([a, b])
            engine.run([b, a])
            c = engine.prefill("c", [8, 9, 10])
            engine.run([c, a])
            engine.run([a, c])
            # a: 1 of prefill, then 1, 7 more behind it, 1, 7 more. b: 1, 1, 7. c: as b.
            for req, least in [(a, 17), (b, 9), (c, 9)]:
                self.assert_greedy(engine, req, by_position, least)

    def test_a_request_that_was_put_back_goes_on_from_where_it_was(self):
        engine = self.engine(by_position)
        req = engine.prefill("a", [1, 2, 3])
        engine.run([req])
        engine.run([req], fakes.ForwardMode.EXTEND)
        before = len(req.output_ids)
        engine.run([req])
        # Its predictions are still valid, one token further on: of eight rows one was accepted and one prefilled.
        self.assertEqual(len(req.output_ids) - before, 7)
        self.assert_greedy(engine, req, by_position, least=10)

    def test_a_grammar_is_processed_before_the_next_draft(self):
        engine = self.engine(by_position, overlap=True)
        req = engine.prefill("a", [1, 2, 3])
        for _ in range(6):
            engine.run([req], has_grammar=True)
        self.assert_greedy(engine, req, by_position, least=1 + 3 * 8)

    def test_clearing_the_cache_forgets_predictions(self):
        engine = self.engine(by_position)
        req = engine.prefill("a", [1, 2, 3])
        engine.run([req])
        engine.worker.clear_cache_pool()
        self.assertEqual(engine.worker.cleared, 1)
        before = len(req.output_ids)
        engine.run([req])
        self.assertEqual(len(req.output_ids) - before, 1)


if __name__ == "__main__":
    unittest.main()
