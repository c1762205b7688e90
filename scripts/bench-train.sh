#!/usr/bin/env bash
# Training benchmark: speed and memory of a step on a real model, compared with plain autograd and with PyTorch.
#
#   scripts/bench-train.sh [--model DIR] [--rows 512,2048,8192] [--tokens 2048] [--rounds 2] [--threads 2]
#                          [--isa native|avx2] [--dtype bfloat16|float32] [--output FILE] [--resume]
#
# Prints a table, writes bench-results/train.json, and draws the cost of a row by its tokens into train.svg. A missed
# target is shown and is not an error. --isa avx2 switches off AVX-512 in all that is measured; PyTorch needs minutes per step
# in bf16 then, so give --dtype float32, in which all compute then. --resume keeps the
# measurements of earlier calls of the same build, --isa and --dtype, so a stopped benchmark continues, and after one call per row
# size a last call with all sizes prints the whole table. Sets up libtorch (scripts/setup.sh), and transformers in .venv:
# about 5 GB, once. If PYTHON is set, that interpreter is used instead; it needs torch and transformers. The default
# model is models/smollm2-135m-instruct. Takes about half an hour and 19 GB of memory on 2 cores; nothing else should be
# running.
set -euo pipefail

model=models/smollm2-135m-instruct
output=bench-results/train.json
rows=512,2048,8192 tokens=2048 rounds=2 threads=2 isa=native dtype=bfloat16 resume=
paths='model output' values='rows tokens rounds threads isa dtype' flags='resume'
source "$(dirname "${BASH_SOURCE[0]}")/bench-env.sh"
source scripts/transformers-env.sh
# Build before measuring.
cargo bench --locked --workspace --bench train --no-run
ours() { cargo bench --locked --workspace --bench train -- --model "$model" --rows "$rows" --tokens "$tokens" --dtype "$dtype" "$@"; }

mkdir -p bench-results
samples=bench-results/train-samples.json theirs=bench-results/train-pytorch.json
measured=bench-results/train-measured.json
[[ -n $resume ]] || rm -f "$theirs" "$measured"
ours --samples "$samples"
for row in ${rows//,/ }; do
  say "PyTorch, rows of $row tokens"
  "$python" scripts/bench_train_pytorch.py "$model" "$samples" "$theirs" --row "$row" --tokens "$tokens" \
    --rounds "$rounds" --threads "$threads" --dtype "$dtype"
done
say "ours"
ours --pytorch "$theirs" --measured "$measured" --rounds "$rounds" --threads "$threads" --output "$output"
say "written to $output"
