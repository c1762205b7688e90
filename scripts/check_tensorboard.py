"""Compares the event files of a training run, read by TensorBoard's own reader, with its metrics.jsonl.

Usage: check_tensorboard.py DIR, with DIR/tensorboard/ and DIR/metrics.jsonl; check-tensorboard.sh calls it.
"""

import json
import struct
import sys
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def as_float32(value):
    return struct.unpack("<f", struct.pack("<f", value))[0]


def logged(path):
    """{tag: {step: value}} of metrics.jsonl, in the precision of an event."""
    points = {}
    for line in path.read_text().splitlines():
        fields = json.loads(line)
        for tag, value in fields.items():
            if "/" in tag and value is not None:
                points.setdefault(tag, {})[fields["step"]] = as_float32(value)
    return points


def read(folder):
    """The same of the event files, and each (tag, step) that occurs more than once."""
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    points, twice = {}, []
    for tag in accumulator.Tags()["scalars"]:
        steps = points.setdefault(tag, {})
        for scalar in accumulator.Scalars(tag):
            if scalar.step in steps:
                twice.append((tag, scalar.step))
            steps[scalar.step] = scalar.value
    return points, twice


def main():
    folder = Path(sys.argv[1])
    expected = logged(folder / "metrics.jsonl")
    found, twice = read(folder / "tensorboard")
    for tag, steps in sorted(found.items()):
        print(f"{tag:<26} {len(steps)} points")
    if twice or found != expected:
        for tag in sorted(expected.keys() | found.keys()):
            if expected.get(tag) != found.get(tag):
                print(f"{tag}: metrics.jsonl has {expected.get(tag)}, the events have {found.get(tag)}")
        raise SystemExit(f"FAIL: the events differ from metrics.jsonl; duplicates: {twice}")
    print("PASS")


if __name__ == "__main__":
    main()
