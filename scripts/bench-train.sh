#!/usr/bin/env bash
# The training benchmark: speed and memory of a step on a real model, beside plain autograd and PyTorch.
#
#   scripts/bench-train.sh [--model DIR] [--rows 512,2048,8192] [--tokens 2048] [--rounds 2] [--threads 2]
#                          [--output FILE] [--resume]
#
# Prints a table, writes bench-results/train.json, and draws the cost of a row by its tokens into train.svg. Shows which
# bars are missed and fails at none of them. --resume keeps what earlier calls of the same build measured: a benchmark
# that was stopped goes on, and one run size by size is told whole by a last call with every size. Sets up libtorch
# (scripts/setup.sh), and transformers in .venv: about 5 GB, once. PYTHON, an interpreter that has torch and
# transformers, is used instead where it is set. The default model is models/smollm2-135m-instruct. On 2 cores it
# takes about half an hour and 19 GB of memory; nothing else should be running.
set -euo pipefail

model=models/smollm2-135m-instruct
output=bench-results/train.json
rows=512,2048,8192 tokens=2048 rounds=2 threads=2 resume=
paths='model output' values='rows tokens rounds threads' flags='resume'
source "$(dirname "${BASH_SOURCE[0]}")/bench-env.sh"
source scripts/transformers-env.sh
# Built before anything is measured.
cargo bench --locked --workspace --bench train --no-run
ours() { cargo bench --locked --workspace --bench train -- --model "$model" --rows "$rows" --tokens "$tokens" "$@"; }

mkdir -p bench-results
samples=bench-results/train-samples.json theirs=bench-results/train-pytorch.json
measured=bench-results/train-measured.json
[[ -n $resume ]] || rm -f "$theirs" "$measured"
ours --samples "$samples"
for row in ${rows//,/ }; do
  say "PyTorch, rows of $row tokens"
  "$python" scripts/bench_train_pytorch.py "$model" "$samples" "$theirs" --row "$row" --tokens "$tokens" \
    --rounds "$rounds" --threads "$threads"
done
say "ours"
ours --pytorch "$theirs" --measured "$measured" --rounds "$rounds" --threads "$threads" --output "$output"
say "written to $output"
