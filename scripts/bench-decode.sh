#!/usr/bin/env bash
# Decoding benchmark: speed on a real model, compared with the memory floor, with transformers and with llama.cpp.
#
#   scripts/bench-decode.sh [--model DIR] [--tokens 64] [--rounds 5] [--threads 2] [--isa native|avx2]
#                           [--no-llama-cpp] [--output FILE]
#
# Prints a table and writes bench-results/decode.json. A missed target is shown and is not an error. --isa avx2 switches
# off AVX-512 in all that is measured. Sets up libtorch (scripts/setup.sh), transformers in .venv (about 5 GB), and
# llama-cpp-python in .venv-llama-native or .venv-llama-avx2 (many minutes of compiling), each once. If PYTHON or
# LLAMA_PYTHON is set, that interpreter is used instead: the first needs torch and transformers, the second
# llama-cpp-python compiled for --isa, gguf, safetensors and ml_dtypes. --no-llama-cpp leaves llama.cpp out. The default
# model is models/smollm2-135m-instruct. Takes about ten minutes on 2 cores; nothing else should be running.
set -euo pipefail

model=models/smollm2-135m-instruct
output=bench-results/decode.json
tokens=64 rounds=5 threads=2 isa=native no_llama_cpp=
paths='model output' values='tokens rounds threads isa' flags='no-llama-cpp'
source "$(dirname "${BASH_SOURCE[0]}")/bench-env.sh"
source scripts/transformers-env.sh
[[ -n $no_llama_cpp ]] || source scripts/llama-cpp-env.sh
# Build before measuring.
cargo bench --locked --workspace --bench decode --no-run

mkdir -p bench-results
theirs=bench-results/transformers.json prompts=tests/golden/smollm2_greedy.json
say "transformers, $rounds rounds of $tokens tokens in two dtypes"
"$python" scripts/bench_transformers.py "$model" "$prompts" "$theirs" --case 6 \
  --tokens "$tokens" --rounds "$rounds" --threads "$threads"
llama_cpp=()
if [[ -z $no_llama_cpp ]]; then
  llama_cpp=(--llama-cpp bench-results/llama-cpp.json)
  say "llama.cpp, $rounds rounds of $tokens tokens in two formats, plain and with prompt lookup"
  # A policy under which its threads sleep at every barrier would slow it down.
  env -u OMP_WAIT_POLICY -u GOMP_SPINCOUNT "$llama_python" scripts/bench_llama_cpp.py "$model" "$prompts" \
    "${llama_cpp[1]}" --case 6 --tokens "$tokens" --rounds "$rounds" --threads "$threads" --isa "$isa"
fi
say "ours"
cargo bench --locked --workspace --bench decode -- --model "$model" --transformers "$theirs" "${llama_cpp[@]}" \
  --tokens "$tokens" --rounds "$rounds" --threads "$threads" --output "$output"
say "written to $output"
