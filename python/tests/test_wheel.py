"""The console script of the wheel, in directories that look like a site-packages."""

import os
import re
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCE = (ROOT / "python/wheel/jacobi_forcing/__init__.py").read_text()


class Environment:
    """A directory for packages with ours in it; its binary prints the library path and its arguments, and exits with 7."""

    def __init__(self, directory, version="0.1.0"):
        self.directory = Path(directory)
        self.write("jacobi_forcing/__init__.py", SOURCE)
        self.write("jacobi_forcing/bin/jacobi", '#!/bin/sh\necho "[$LD_LIBRARY_PATH] $*"\nexit 7\n').chmod(0o755)
        self.add_metadata("jacobi_forcing", version)

    def write(self, path, text=""):
        path = self.directory / path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def add_metadata(self, name, version):
        self.write(f"{name}-{version}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")

    def run(self, *arguments, search=()):
        """Runs the console script with the packages of `search` too. -S hides those of the interpreter."""
        environment = {**os.environ, "PYTHONPATH": ":".join(map(str, [self.directory, *search]))}
        environment.pop("LD_LIBRARY_PATH", None)
        command = [sys.executable, "-S", "-c", "import jacobi_forcing; jacobi_forcing.main()", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True)


def add_torch(environment, version, libraries):
    environment.add_metadata("torch", version)
    environment.write("torch/__init__.py", "raise RuntimeError('torch was imported')")
    for library in libraries:
        environment.write(f"torch/lib/{library}")


class ConsoleScript(unittest.TestCase):
    def environment(self, **options):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        return Environment(directory.name, **options)

    def test_it_becomes_the_binary_with_its_arguments_and_exit_code(self):
        for version, cuda in [("0.1.0", []), ("0.1.0", ["libtorch_cuda.so"]), ("0.1.0+cu13", ["libtorch_cuda.so"])]:
            environment = self.environment(version=version)
            add_torch(environment, "2.11.0+any", ["libtorch_cpu.so", *cuda])
            outcome = environment.run("decode", "--prompt", "a  b")
            self.assertEqual((outcome.returncode, outcome.stdout), (7, "[] decode --prompt a  b\n"), outcome.stderr)

    def test_it_finds_a_torch_in_another_directory_of_packages(self):
        environment, other = self.environment(), self.environment()
        add_torch(other, "2.11.1", ["libtorch_cpu.so"])
        outcome = environment.run(search=[other.directory])
        self.assertEqual(outcome.stdout, f"[{other.directory}/torch/lib] \n", outcome.stderr)

    def test_a_torch_that_cannot_be_used_is_an_error_with_the_way_out(self):
        rows = [
            ("0.1.0", None, [], ["torch is not installed", "pip install 'torch==2.11.*'", sys.executable]),
            ("0.1.0", "2.10.1", ["libtorch_cpu.so"], ["torch 2.10.1 is installed", "pip install 'torch==2.11.*'"]),
            ("0.1.0", "2.110.0", ["libtorch_cpu.so"], ["torch 2.110.0 is installed"]),
            ("0.1.0", "2.11.0", [], ["torch/lib/libtorch_cpu.so"]),
            ("0.1.0+cu13", "2.11.0+cpu", ["libtorch_cpu.so"], ["2.11.0+cpu is for CPUs only", "wheel of jacobi for CPUs"]),
        ]
        for version, torch, libraries, parts in rows:
            environment = self.environment(version=version)
            if torch is not None:
                add_torch(environment, torch, libraries)
            outcome = environment.run()
            self.assertEqual(outcome.returncode, 1)
            self.assertEqual(outcome.stderr.count("\n"), 1, outcome.stderr)
            self.assertTrue(outcome.stderr.startswith("error: "), outcome.stderr)
            for part in parts:
                self.assertIn(part, outcome.stderr)


class Versions(unittest.TestCase):
    def test_the_wheel_requires_the_libtorch_that_the_set_up_installs(self):
        (installed,) = re.findall(r"^readonly TORCH=(\d+\.\d+)\.\d+$", (ROOT / "scripts/setup.sh").read_text(), re.M)
        (required,) = re.findall(r'"torch==(.*)\.\*"', (ROOT / "python/wheel/pyproject.toml").read_text())
        (checked,) = re.findall(r'^TORCH = "(.*)"$', SOURCE, re.M)
        self.assertEqual((required, checked), (installed, installed))


if __name__ == "__main__":
    unittest.main()
