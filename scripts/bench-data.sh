#!/usr/bin/env bash
# Benchmark of training's data: memory, start-up and speed over 200,000 samples of 512 tokens, compared with 2,000.
#
#   scripts/bench-data.sh [--model DIR] [--trajectories DIR] [--few 2000] [--many 200000] [--tokens 512] [--steps 50]
#                         [--train-steps 20] [--threads 2] [--output FILE]
#
# The model needs a context of more than 512 tokens. The samples are made of the blocks of real rows, by default those of
# `jacobi quickstart` (runs/quickstart), and kept in bench-results/data: about 1 GB. Prints a table and writes
# bench-results/data.json. A missed target is shown and is not an error. --train-steps 0 leaves training out. Takes about half
# an hour, most of it the first time; nothing else should be running.
set -euo pipefail

model=models/smollm2-135m-instruct trajectories=runs/quickstart/round-1/trajectories
output=bench-results/data.json
few=2000 many=200000 tokens=512 steps=50 train_steps=20 threads=2
paths='model trajectories output' values='few many tokens steps train-steps threads' flags=''
source "$(dirname "${BASH_SOURCE[0]}")/bench-env.sh"
[[ -e $trajectories/manifest.json ]] || {
  echo "$trajectories has no manifest.json: run \`jacobi quickstart\` first, or give --trajectories" >&2
  exit 1
}
cargo bench --locked --workspace --bench data --no-run
cargo bench --locked --workspace --bench data -- --model "$model" --trajectories "$trajectories" \
  --work bench-results/data --few "$few" --many "$many" --tokens "$tokens" --steps "$steps" \
  --train-steps "$train_steps" --threads "$threads" --output "$output"
