#!/usr/bin/env bash
# Decoding benchmark: speed on a real model, compared with the memory floor and with transformers.
#
#   scripts/bench-decode.sh [--model DIR] [--tokens 64] [--rounds 5] [--threads 2] [--output FILE]
#
# Prints a table and writes bench-results/decode.json. A missed target is shown and is not an error. Sets up libtorch
# (scripts/setup.sh), and transformers in .venv: about 5 GB, once. If PYTHON is set, that interpreter is used instead;
# it needs torch and transformers. The default model is models/smollm2-135m-instruct. Takes about ten minutes on 2
# cores; nothing else should be running.
set -euo pipefail

model=models/smollm2-135m-instruct
output=bench-results/decode.json
tokens=64 rounds=5 threads=2
paths='model output' values='tokens rounds threads'
source "$(dirname "${BASH_SOURCE[0]}")/bench-env.sh"
source scripts/transformers-env.sh
# Build before measuring.
cargo bench --locked --workspace --bench decode --no-run

mkdir -p bench-results
theirs=bench-results/transformers.json
say "transformers, $rounds rounds of $tokens tokens in two dtypes"
"$python" scripts/bench_transformers.py "$model" tests/golden/smollm2_greedy.json "$theirs" --case 6 \
  --tokens "$tokens" --rounds "$rounds" --threads "$threads"
say "ours"
cargo bench --locked --workspace --bench decode -- --model "$model" --transformers "$theirs" \
  --tokens "$tokens" --rounds "$rounds" --threads "$threads" --output "$output"
say "written to $output"
