#!/usr/bin/env bash
# The generation benchmark: trajectories per second on a real model, against a sequential loop and against the
# model's matrix products alone.
#
#   scripts/bench-generate.sh --prompts GSM8K.jsonl [--model DIR] [--tokens 128] [--rounds 1] [--threads 2] [--output FILE]
#
# Prints a table and writes bench-results/generate.json. Shows which bars are missed and fails at none of them. The
# first 64 questions of the file are asked, every fourth of them for blocks of 64. Sets up libtorch (scripts/setup.sh).
# The default model is models/smollm2-135m-instruct. On 2 cores a round takes eight minutes with 128 tokens and two with
# 32; nothing else should be running.
set -euo pipefail

fail() {
  echo "bench-generate: $*" >&2
  exit 1
}

model=models/smollm2-135m-instruct
output=bench-results/generate.json
prompts=''
tokens=128 rounds=1 threads=2
while [[ $# -gt 0 ]]; do
  case "$1" in
    -h | --help)
      sed -n '2,10s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
      exit 0
      ;;
    --model | --output | --prompts | --tokens | --rounds | --threads)
      [[ $# -ge 2 ]] || fail "$1 needs a value"
      declare "${1#--}=$2"
      # Made absolute before the directory changes.
      case "$1" in --model | --output | --prompts) declare "${1#--}=$(realpath -m "$2")" ;; esac
      shift 2
      ;;
    *) fail "unknown argument '$1'; see scripts/bench-generate.sh --help" ;;
  esac
done
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[[ -f $prompts ]] || fail "--prompts FILE is missing: questions in the column 'question', such as GSM8K's train.jsonl"
[[ -f $model/config.json ]] ||
  fail "$model holds no config.json: run 'jacobi fetch smollm2-135m-instruct', or give --model DIR"

scripts/setup.sh
# Built before anything is measured.
cargo bench --locked --workspace --bench generate --no-run
cargo bench --locked --workspace --bench generate -- --model "$model" --prompts "$prompts" \
  --tokens "$tokens" --rounds "$rounds" --threads "$threads" --output "$output"
echo "bench-generate: written to $output"
