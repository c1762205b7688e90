"""An event file by TensorBoard's own writer; ours must equal it byte for byte.

Writes OUTPUT, the records of EVENTS at fixed times, framed and serialised by the `tensorboard` package.

Made with: tensorboard 2.21.0, Python 3.11.
Usage: tensorboard_events.py OUTPUT (tests/golden/tensorboard_events.tfevents)
"""

import argparse
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter


def point(wall_time, tag, step, value):
    summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
    return Event(wall_time=wall_time, step=step, summary=summary)


EVENTS = [
    Event(wall_time=1700000000.0, file_version="brain.Event:2"),
    Event(wall_time=1700000000.25, step=300, session_log=SessionLog(status=SessionLog.START)),
    point(1700000000.5, "train/loss", 300, 2.5),
    point(1700000001.5, "eval/tpf", 5_000_000_000, -0.125),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    with parser.parse_args().output.open("wb") as file:
        writer = RecordWriter(file)
        for event in EVENTS:
            writer.write(event.SerializeToString())
        writer.flush()


if __name__ == "__main__":
    main()
