#!/usr/bin/env bash
# Do transformers and vLLM decode this export as they do without drafts, in as few passes as we do? Exit code 0 if so.
#
#   scripts/check-serving.sh MODEL [PROMPTS] [OPTION ..]
#
# MODEL is an export, PROMPTS a file of lines {"prompt"}, by default those the quick start was tested with. Each engine
# decodes the first 50 greedily, with and without drafts of 15 tokens, in turns, median of 3, vLLM with 1, 4 and 8
# requests at a time. Texts have to be equal, and tokens per step of vLLM those of our own decoder within 2 %; those of
# transformers, whose fillers are others, are shown. Prints a table and writes bench-results/serving.json. Options go to
# scripts/check_serving.py, whose --help names them; --features instead tries what else vLLM does with requests
# (scripts/check_serving_features.py).
#
# 3 minutes on 2 cores. vLLM and transformers are installed outside the checkout, once: scripts/serving-env.sh.
# JACOBI, a built binary, is used where it is set.
set -euo pipefail

say() { echo "check-serving: $*"; }
fail() {
  echo "check-serving: $*" >&2
  exit 1
}

if [[ $# -lt 1 || $1 == -* ]]; then
  sed -n '2,/^[^#]/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
  exit 2
fi
[[ -f $1/config.json ]] || fail "$1 holds no config.json: give a Hugging Face model directory"
command="scripts/check-serving.sh $*"
# Made absolute before the directory changes.
model=$(cd "$1" && pwd)
shift
prompts=
if [[ $# -gt 0 && $1 != -* ]]; then
  [[ -f $1 ]] || fail "$1 is no file of prompts"
  prompts=$(realpath "$1")
  shift
fi
if [[ -n ${JACOBI+set} ]]; then
  found=$(command -v "$JACOBI") || fail "JACOBI=$JACOBI is no program"
  JACOBI=$(realpath -s "$found")
fi
cd "$(dirname "${BASH_SOURCE[0]}")/.."
prompts=${prompts:-datasets/default/prompts-test.jsonl}

source scripts/serving-env.sh
# Threads that spin while they wait take the cores from the engine whose turn it is.
export OMP_WAIT_POLICY=passive
if [[ ${1-} == --features ]]; then
  exec "$python" scripts/check_serving_features.py "$model" "$prompts" "${@:2}"
fi
jacobi=${JACOBI-target/release/jacobi}
[[ -n ${JACOBI+set} ]] || cargo build --release --locked --bin jacobi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$python" scripts/check_serving.py "$model" "$prompts" --jacobi "$jacobi" --work "$work" \
  --output bench-results/serving.json --command "$command" "$@"
