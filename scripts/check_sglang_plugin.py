"""Checks that an SGLang has every name and signature that jacobi_serve/sglang.py hooks. Exit code 0 if it does.

Usage: check_sglang_plugin.py WHEEL_OR_DIR. A wheel from `pip download --no-deps sglang`, or a directory into which one was
unpacked or installed. It only reads source: it needs no torch and no CUDA, and loads nothing of SGLang. A pass means that
the plug-in can be loaded, not that it works: it was not run on a GPU.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "python"))

from jacobi_serve.sglang_hooks import ATTRIBUTES, LINES, SIGNATURES, Source, misfits


def main(arguments):
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print(__doc__)
        return 2
    source = Source(arguments[0])
    if source.read("__init__.py") is None:
        print(f"check_sglang_plugin: {arguments[0]} has no sglang package: give a wheel or the folder that contains it")
        return 2
    found = misfits(source)
    attributes = sum(len(names) for _, _, names in ATTRIBUTES)
    print(f"SGLang {source.version}: {len(SIGNATURES)} signatures, {attributes} attributes, {len(LINES)} lines")
    for line in found:
        print(f"  {line}")
    print("FAIL" if found else "PASS")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
