#!/usr/bin/env bash
# Checks that transformers and vLLM decode an export to the same texts with drafts as without, in as few passes as our
# decoder. Exit code 0 on success.
#
#   scripts/check-serving.sh MODEL [PROMPTS] [OPTION ..]
#
# MODEL is an export, PROMPTS a file of lines {"prompt"}, by default the quick start's test prompts. Each engine decodes
# the first 50 greedily, with and without drafts of 15 tokens, in turns, median of 3, vLLM with 1, 4 and 8 requests at a
# time. Texts must be equal, and tokens per step of vLLM must equal those of our decoder within 2 %; those of
# transformers, which has other fillers, are only shown. Prints a table and writes bench-results/serving.json. Options go
# to scripts/check_serving.py (see its --help); --features instead tests other features of vLLM with drafts
# (scripts/check_serving_features.py). With --adapter DIR MODEL is the base of a draft adapter: vLLM's plain text is the base's.
#
# Takes 3 minutes on 2 cores. vLLM and transformers are installed outside the checkout, once: scripts/serving-env.sh.
# JACOBI names a built binary; without it one is built.
set -euo pipefail
programs=JACOBI
source "$(dirname "${BASH_SOURCE[0]}")/script-env.sh"

[[ $# -ge 1 && $1 != -* ]] || usage
command="scripts/check-serving.sh $*"
model=$(model_directory "$1")
shift
prompts=
if [[ $# -gt 0 && $1 != -* ]]; then
  [[ -f $1 ]] || fail "$1 is not a file of prompts"
  prompts=$(realpath "$1")
  shift
fi
options=()
while [[ $# -gt 0 ]]; do
  options+=("$1")
  if [[ $1 == --adapter && $# -gt 1 ]]; then
    [[ -f $2/adapter_config.json ]] || fail "$2 holds no adapter_config.json: give an adapter that jacobi exported"
    options+=("$(realpath "$2")")
    shift
  fi
  shift
done
set -- "${options[@]}"
cd "$root"
prompts=${prompts:-datasets/default/prompts-test.jsonl}

source scripts/serving-env.sh
if [[ ${1-} == --features ]]; then
  exec "$python" scripts/check_serving_features.py "$model" "$prompts" "${@:2}"
fi
find_jacobi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$python" scripts/check_serving.py "$model" "$prompts" --jacobi "$jacobi" --work "$work" \
  --output bench-results/serving.json --command "$command" "$@"
