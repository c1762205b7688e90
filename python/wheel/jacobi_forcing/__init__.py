"""Runs the binary of this package with the libtorch of this environment's torch."""

import importlib.metadata
import importlib.util
import os
import sys
from pathlib import Path

# The libtorch that the binary is linked against; pyproject.toml requires the same.
TORCH = "2.11"
PACKAGE = Path(__file__).parent
BINARY = PACKAGE / "bin/jacobi"


class Unusable(Exception):
    """This environment cannot run the binary."""


def libtorch(needs_cuda):
    """The directory of libtorch in this environment. torch is not imported, which takes seconds."""
    remedy = f"pip install 'torch=={TORCH}.*' into the environment of {sys.executable}"
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise Unusable(f"torch is not installed: {remedy}")
    version = importlib.metadata.version("torch")
    if not version.startswith(f"{TORCH}."):
        raise Unusable(f"torch {version} is installed, and this binary needs {TORCH}: {remedy}")
    directory = Path(spec.origin).parent / "lib"
    if not (directory / "libtorch_cpu.so").exists():
        raise Unusable(f"torch {version} has no {directory / 'libtorch_cpu.so'}: {remedy}")
    if needs_cuda and not (directory / "libtorch_cuda.so").exists():
        raise Unusable(
            f"torch {version} is for CPUs only, and this is the wheel for GPUs: install PyPI's torch {TORCH}, which has "
            "CUDA, or the wheel of jacobi for CPUs"
        )
    return directory


def main():
    """The command `jacobi`: replaces this process by the binary, so that signals and the exit code are the binary's."""
    try:
        directory = libtorch(needs_cuda="+cu" in importlib.metadata.version("jacobi-forcing"))
    except Unusable as unusable:
        sys.exit(f"error: {unusable}")
    # The binary's rpath leads to the torch beside this package. It may be elsewhere, as in a virtual environment that
    # sees the packages of the system.
    if directory != PACKAGE.parent / "torch/lib":
        os.environ["LD_LIBRARY_PATH"] = ":".join(filter(None, [str(directory), os.environ.get("LD_LIBRARY_PATH")]))
    os.execv(BINARY, ["jacobi", *sys.argv[1:]])
