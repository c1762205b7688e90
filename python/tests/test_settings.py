"""Sources of settings, and refused settings."""

import json
import re
import tempfile
import unittest
from pathlib import Path

from jacobi_serve import settings
from jacobi_serve.settings import Settings

ROOT = Path(__file__).resolve().parents[2]


def tuned(**decoder):
    return json.dumps({"schema": "jacobi-tune/1", "decoder": decoder, "tpf": 2.6})


class FromFile(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.path = Path(self.folder.name) / "jacobi.json"

    def test_window_and_filler_carry_over_and_the_pool_does_not(self):
        rows = [
            (tuned(name="ar"), Settings()),
            (tuned(name="jacobi", block_size=16), Settings(window="block", block_size=16)),
            (tuned(name="multi_block"), Settings(window="block")),
            (
                tuned(name="multi_block", block_size=8, window="sliding", filler="ngram", pool_size=0, tree_budget=0),
                Settings(filler="ngram"),
            ),
            (
                tuned(name="multi_block", block_size=8, max_blocks=2, spawn_ratio=0.5, pool_size=4, tree_budget=0),
                Settings(window="block", block_size=8, max_blocks=2, spawn_ratio=0.5),
            ),
        ]
        for text, expected in rows:
            self.path.write_text(text)
            found, line = settings.load(None, self.folder.name)
            self.assertEqual(found, expected, text)
            self.assertIn(str(self.path), line)

    def test_broken_file_is_refused_with_its_path_and_cause(self):
        rows = [
            ("", "Expecting value"),
            ("{oops", "line 1"),
            ("[]", "schema is null"),
            (tuned(name="ar").replace("tune/1", "tune/2"), "jacobi-tune/2"),
            (tuned(), "no name"),
            (tuned(name="medusa"), "'medusa'"),
            (tuned(name="multi_block", filler="words"), "filler is 'words'"),
            (tuned(name="multi_block", window="round"), "window is 'round'"),
            (tuned(name="multi_block", window="blocks", block_size=0), "block_size is 0"),
        ]
        for text, cause in rows:
            self.path.write_text(text)
            with self.assertRaises(ValueError) as caught:
                settings.load(None, self.folder.name)
            self.assertIn(str(self.path), str(caught.exception))
            self.assertIn(cause, str(caught.exception))

    def test_missing_file_means_defaults_and_says_what_to_expect(self):
        found, line = settings.load(None, self.folder.name)
        self.assertEqual(found, Settings())
        self.assertIn("no jacobi.json", line)
        self.assertIn("hardly more than 1 token per step", line)

    def test_what_the_server_was_told_wins_over_the_file(self):
        self.path.write_text("{oops")
        found, _ = settings.load({"window": "block"}, self.folder.name)
        self.assertEqual(found, Settings(window="block"))


class FromTable(unittest.TestCase):
    def test_bad_settings_are_refused_by_name(self):
        rows = [
            ([], "must be a table"),
            ({"block": 4}, "unknown jacobi setting block"),
            ({"window": "blocks"}, "window is 'blocks'"),
            ({"filler": None}, "filler is None"),
            ({"block_size": 0}, "block_size is 0"),
            ({"block_size": True}, "block_size is True"),
            ({"max_blocks": 1.5}, "max_blocks is 1.5"),
            ({"spawn_ratio": 2}, "spawn_ratio is 2"),
            ({"pool_size": -1}, "pool_size is -1"),
            ({"seed": -1}, "seed is -1"),
        ]
        for table, cause in rows:
            with self.assertRaisesRegex(ValueError, cause):
                settings.from_table(table)


class Adapters(unittest.TestCase):
    def test_an_adapter_is_refused(self):
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "adapter_config.json").write_text("{}")
            with self.assertRaisesRegex(ValueError, "is an adapter: engines load its base model"):
                settings.load(None, folder)


class Versions(unittest.TestCase):
    def test_package_has_the_version_of_the_workspace(self):
        version = re.compile(r'^version = "(.+)"$', re.MULTILINE)
        texts = ((ROOT / name).read_text() for name in ("python/pyproject.toml", "Cargo.toml"))
        package, workspace = map(version.search, texts)
        self.assertEqual(package[1], workspace[1])


if __name__ == "__main__":
    unittest.main()
