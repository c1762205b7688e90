"""Random blocks of each GGUF storage type and their values by the `gguf` package: what our dequantisation must give.

Per type T: T.bytes u8 [n], T.values f32 [m]. The bytes are random but for the scales, which are drawn as numbers, so
that every value is finite.

Made with: gguf 0.19.0, numpy 2.4.6, safetensors 0.8.0, Python 3.11.
Usage: gguf_blocks.py OUTPUT.safetensors
"""

import argparse
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import save_file

SEED = 20251216
BLOCKS = 3
# Type: byte offsets of its fp16 scales and minimums.
SCALES = {
    "F32": [], "F16": [0], "BF16": [], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0],
    "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
}  # fmt: skip


def random_blocks(name, rng):
    kind = gguf.GGMLQuantizationType[name]
    _, size = gguf.GGML_QUANT_SIZES[kind]
    if name == "F32":
        return rng.standard_normal(BLOCKS).astype(np.float32).view(np.uint8)
    if name == "BF16":
        return rng.standard_normal(BLOCKS).astype(np.float32).view(np.uint8).reshape(-1, 4)[:, 2:].reshape(-1)
    blocks = rng.integers(0, 256, (BLOCKS, size), dtype=np.uint8)
    for offset in SCALES[name]:
        blocks[:, offset : offset + 2] = rng.standard_normal((BLOCKS, 1)).astype(np.float16).view(np.uint8)
    return blocks.reshape(-1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    rng = np.random.default_rng(SEED)
    tensors = {}
    for name in SCALES:
        data = np.ascontiguousarray(random_blocks(name, rng))
        values = gguf.dequantize(data, gguf.GGMLQuantizationType[name]).astype(np.float32).reshape(-1)
        tensors[f"{name}.bytes"], tensors[f"{name}.values"] = data, values
    save_file(tensors, arguments.output)
    arguments.output.chmod(0o644)


if __name__ == "__main__":
    main()
