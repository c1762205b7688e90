"""Times three verbs alone, beside busy loops and in a cgroup of one CPU; see scripts/bench-busy.sh.

python3 scripts/bench_busy.py JACOBI OUTPUT [--rounds N]
"""

import argparse
import contextlib
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

RECIPE = "configs/quickstart.toml"
RUN = pathlib.Path("runs/quickstart")
CPUS = len(os.sched_getaffinity(0))

# Arguments by task; {} is an empty directory.
TASKS = {
    "decode": f"eval -c {RECIPE} --model {RUN}/export --decoders jacobi --overwrite -o {{}}",
    "generate": f"generate -c {RECIPE} --set prompts.limit=400 -o {{}}",
    "train": f"train -c {RECIPE} --trajectories {RUN}/round-1/trajectories --set train.max_steps=100 -o {{}}",
}
# The share of the machine's CPU time that is fairly ours, by situation.
FAIR = {"alone": 1.0, "beside a busy loop per core": 0.5, "in a cgroup of one CPU": 1 / CPUS}


@contextlib.contextmanager
def busy_loops():
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(CPUS)]
    try:
        yield None
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


@contextlib.contextmanager
def cgroup_of_one_cpu():
    """Yields the file to which a process writes 0 to join, or None where no cgroup can be made."""
    for root, limit, value in [
        ("/sys/fs/cgroup/cpu", "cpu.cfs_quota_us", "100000"),
        ("/sys/fs/cgroup", "cpu.max", "100000 100000"),
    ]:
        group = pathlib.Path(root, f"jacobi-bench-{os.getpid()}")
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / limit).write_text(value)
            yield group / "cgroup.procs"
            return
        except OSError as error:
            print(f"bench-busy: {group}: {error}", file=sys.stderr)
        finally:
            group.rmdir()
    yield None


def seconds(jacobi, task, procs):
    """Wall-clock seconds of one run of `task`."""
    out = tempfile.mkdtemp(prefix="jacobi-bench-")
    join = None if procs is None else (lambda: procs.write_text("0"))
    command = [jacobi, *TASKS[task].format(out).split()]
    start = time.perf_counter()
    done = subprocess.run(command, preexec_fn=join, capture_output=True, text=True)
    took = time.perf_counter() - start
    shutil.rmtree(out)
    if done.returncode:
        sys.exit(f"bench-busy: {' '.join(command)} fails:\n{done.stderr}")
    return took


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("jacobi")
    parser.add_argument("output", type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    if not (RUN / "export").is_dir():
        sys.exit(f"bench-busy: {RUN}/export is missing: run scripts/quickstart.sh first")
    situations = dict(zip(FAIR, [contextlib.nullcontext, busy_loops, cgroup_of_one_cpu]))
    times = {situation: {task: [] for task in TASKS} for situation in situations}
    for _ in range(args.rounds):
        for situation, enter in situations.items():
            with enter() as procs:
                if situation == "in a cgroup of one CPU" and procs is None:
                    print("bench-busy: no cgroup with a quota can be made here", file=sys.stderr)
                    continue
                for task in TASKS:
                    times[situation][task].append(seconds(args.jacobi, task, procs))
                # The kernel removes a cgroup only when its last process is gone.
                time.sleep(0.2)
    environment = json.loads(subprocess.check_output([args.jacobi, "env", "--json"]))
    args.output.write_text(json.dumps({"environment": environment, "seconds": times}, indent=2) + "\n")
    print("| | " + " | ".join(f"{task}, s | against its fair share" for task in TASKS) + " |")
    print("|---|" + "---|---|" * len(TASKS))
    for situation, of_task in times.items():
        cells = []
        for task, taken in of_task.items():
            if not taken:
                cells += ["not measured", ""]
                continue
            ratios = [t * FAIR[situation] / statistics.median(times["alone"][task]) for t in taken]
            cells.append(f"{statistics.median(taken):.1f} ({min(taken):.1f}..{max(taken):.1f})")
            cells.append(f"{statistics.median(ratios):.2f}")
        print(f"| {situation} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
