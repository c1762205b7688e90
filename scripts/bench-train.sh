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

say() { echo "bench-train: $*"; }
fail() {
  echo "bench-train: $*" >&2
  exit 1
}

model=models/smollm2-135m-instruct
output=bench-results/train.json
rows=512,2048,8192 tokens=2048 rounds=2 threads=2 resume=
while [[ $# -gt 0 ]]; do
  case "$1" in
    -h | --help)
      sed -n '2,13s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
      exit 0
      ;;
    --model | --output | --rows | --tokens | --rounds | --threads)
      [[ $# -ge 2 ]] || fail "$1 needs a value"
      declare "${1#--}=$2"
      # Made absolute before the directory changes.
      case "$1" in --model | --output) declare "${1#--}=$(realpath -m "$2")" ;; esac
      shift 2
      ;;
    --resume)
      resume=yes
      shift
      ;;
    *) fail "unknown argument '$1'; see scripts/bench-train.sh --help" ;;
  esac
done
# Symbolic links stay, since a venv's python is one.
if [[ -n ${PYTHON+set} ]]; then
  found=$(command -v "$PYTHON") || fail "PYTHON=$PYTHON is no program"
  PYTHON=$(realpath -s "$found")
fi
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[[ -f $model/config.json ]] ||
  fail "$model holds no config.json: run 'jacobi fetch smollm2-135m-instruct', or give --model DIR"

scripts/setup.sh
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
