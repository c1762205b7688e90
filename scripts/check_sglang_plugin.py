"""Does an SGLang have every name and signature that jacobi_serve/sglang.py hooks? Exit code 0 if so.

Usage: check_sglang_plugin.py WHEEL_OR_DIR. A wheel as `pip download --no-deps sglang` leaves it, or the directory in
which one was unpacked or installed. It reads source alone: no torch, no CUDA, nothing of SGLang is loaded. That it
passes says that the plug-in is loaded, not that it works: it was not run on a GPU.
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
        print(f"check_sglang_plugin: {arguments[0]} holds no sglang package: give a wheel or the folder with it")
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
