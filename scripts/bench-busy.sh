#!/usr/bin/env bash
# Benchmark of sharing: decoding, generation and training alone, beside one busy loop per core, and in a cgroup with
# the time of one CPU that sees all of them.
#
#   scripts/bench-busy.sh [--rounds 3] [--output FILE]
#
# Prints a table and writes bench-results/busy.json. Uses the quick start's model, and its run (scripts/quickstart.sh).
# The cgroup needs root and a mounted cpu controller, of version 1 or 2; without them its rows say so. Takes about
# two minutes a round on 2 cores; nothing else should be running.
set -euo pipefail

output=bench-results/busy.json
rounds=3
paths='output' values='rounds'
source "$(dirname "${BASH_SOURCE[0]}")/bench-env.sh"
find_jacobi
mkdir -p bench-results
python3 scripts/bench_busy.py "$jacobi" "$output" --rounds "$rounds"
say "written to $output"
