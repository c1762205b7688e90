#!/usr/bin/env bash
# Generation benchmark: trajectories per second on a real model, compared with a sequential loop and with the model's
# matrix products alone.
#
#   scripts/bench-generate.sh --prompts GSM8K.jsonl [--model DIR] [--tokens 128] [--block-sizes 16,64]
#                             [--rounds 1] [--threads 2] [--isa native|avx2] [--output FILE]
#
# Prints a table and writes bench-results/generate.json. A missed target is shown and is not an error. --isa avx2
# switches off AVX-512. Uses the first 64 questions of the file; the loop answers every eighth of them. Sets up libtorch
# (scripts/setup.sh). The default model is models/smollm2-135m-instruct. A round with 128 tokens takes eleven minutes on
# 2 cores; nothing else should be running.
set -euo pipefail

model=models/smollm2-135m-instruct
output=bench-results/generate.json
prompts=''
tokens=128 block_sizes=16,64 rounds=1 threads=2 isa=native
paths='model output prompts' values='tokens block-sizes rounds threads isa'
source "$(dirname "${BASH_SOURCE[0]}")/bench-env.sh"
[[ -f $prompts ]] || fail "--prompts FILE is missing: questions in the column 'question', such as GSM8K's train.jsonl"
# Build before measuring.
cargo bench --locked --workspace --bench generate --no-run
cargo bench --locked --workspace --bench generate -- --model "$model" --prompts "$prompts" \
  --tokens "$tokens" --block-sizes "$block_sizes" --rounds "$rounds" --threads "$threads" --output "$output"
say "written to $output"
