#!/usr/bin/env bash
# GPU benchmark, in one call of less than 9 minutes: first correctness, then speed and memory at the shapes of
# SmolLM2-135M and Qwen2.5-7B with random weights, each figure beside PyTorch with transformers.
#
#   scripts/bench-gpu.sh [--binary FILE] [--shape smollm2-135m|qwen2.5-7b] [--no-pytorch] [--output FILE]
#   scripts/bench-gpu.sh --smoke      the same on a CPU with tiny shapes, in a minute; the figures mean nothing
#
# Prints a table and writes bench-results/gpu.json. A failed check ends it; a missed target does not. Builds the benchmark
# with the feature `cuda` against LIBTORCH, else .libtorch-cuda (scripts/setup.sh --cuda). With --binary nothing is built:
# FILE is the benchmark, built on another machine (docs/gpu.md), and uses the libtorch of PYTHON. PYTHON is an interpreter
# with torch 2.11 and transformers: by default .venv's if it exists, else python3.
set -euo pipefail

output=bench-results/gpu.json
binary='' shape='' smoke='' no_pytorch=''
paths='binary output' values='shape' flags='smoke no-pytorch' own_libtorch=yes
source "$(dirname "${BASH_SOURCE[0]}")/bench-env.sh"
output=$(realpath -m "$output")

python=${PYTHON-}
if [[ -z $python ]]; then
  python=python3
  [[ ! -x .venv/bin/python ]] || python=.venv/bin/python
fi
if [[ -z $no_pytorch ]]; then
  "$python" -c 'import torch, transformers' 2>/dev/null ||
    fail "$python has no torch and transformers: set PYTHON to one that has them, or give --no-pytorch"
fi

scale=full device=cuda:0 features=(--features cuda)
[[ -z $smoke ]] || scale=smoke device=cpu features=()
if [[ -n $binary ]]; then
  torch=$("$python" -c 'import os, torch; print(os.path.dirname(torch.__file__))') ||
    fail "$python has no torch; $binary needs its libraries"
  export LD_LIBRARY_PATH="$torch/lib:$torch/../nvidia/cu13/lib${LD_LIBRARY_PATH+:$LD_LIBRARY_PATH}"
else
  if [[ -z $smoke ]]; then
    scripts/setup.sh --cuda
    export LIBTORCH=${LIBTORCH-$PWD/.libtorch-cuda/torch}
  else
    scripts/setup.sh
  fi
  say "building"
  binary=$(cargo bench --locked --workspace "${features[@]}" --bench gpu --no-run --message-format json |
    sed -n 's/.*"name":"gpu".*"executable":"\([^"]*\)".*/\1/p' | tail -n 1)
  [[ -x $binary ]] || fail "cargo did not report the path of the benchmark"
fi
of_shape=()
[[ -z $shape ]] || of_shape=(--shape "$shape")

started=$SECONDS
results=$PWD/bench-results
mkdir -p "$results" "$(dirname "$output")"
theirs=()
if [[ -z $no_pytorch ]]; then
  say "PyTorch with transformers"
  rm -f "$results/gpu-pytorch.json"
  "$binary" --scale "$scale" --task "$results/gpu-task.json"
  timeout 260 "$python" scripts/bench_gpu_pytorch.py "$results/gpu-task.json" "$results/gpu-pytorch.json" \
    --device "$device" "${of_shape[@]}" || say "PyTorch's part did not finish: its figures so far are used"
  [[ ! -f $results/gpu-pytorch.json ]] || theirs=(--theirs "$results/gpu-pytorch.json")
fi
say "ours, after $((SECONDS - started)) s"
timeout 270 "$binary" --scale "$scale" --device "$device" "${of_shape[@]}" "${theirs[@]}" --output "$output"
[[ -z $smoke ]] || say "this was a smoke run on a CPU with tiny shapes: its figures mean nothing"
say "written to $output, $((SECONDS - started)) s in all"
