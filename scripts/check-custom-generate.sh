#!/usr/bin/env bash
# Does transformers decode an export with custom_generate/ to the texts of its stock generate, in fewer passes?
#
#   scripts/check-custom-generate.sh DIR [PROMPTS]
#
# PROMPTS is JSONL with "prompt", by default datasets/default/prompts-test.jsonl; LIMIT of them (50) are decoded. Then
# come stop strings, streamers, pipelines, threads, and the calls that stock generate must take over. The file under test
# is that of this checkout, in a copy of DIR. Needs no libtorch; transformers and torch go into .venv of this checkout,
# once, about 5 GB. PYTHON, an interpreter that has them, is used instead where it is set: for another version of transformers.
set -euo pipefail

say() { echo "check-custom-generate: $*"; }
fail() {
  echo "check-custom-generate: $*" >&2
  exit 1
}

if [[ $# -lt 1 || $# -gt 2 || $1 == -* ]]; then
  sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
  exit 2
fi
[[ -f $1/config.json ]] || fail "$1 holds no config.json: give a Hugging Face model directory"
model=$(cd "$1" && pwd)
prompts=${2:+$(realpath "$2")}
# Made absolute before the directory changes; symbolic links stay, since a venv's python is one.
if [[ -n ${PYTHON+set} ]]; then
  found=$(command -v "$PYTHON") || fail "PYTHON=$PYTHON is no program"
  PYTHON=$(realpath -s "$found")
fi
cd "$(dirname "${BASH_SOURCE[0]}")/.."

source scripts/transformers-env.sh
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/model/custom_generate"
cp "$model"/*.* "$work/model/"
cp python/custom_generate/generate.py "$work/model/custom_generate/"
# Its own cache of code, so that nothing is left in the user's.
HF_MODULES_CACHE="$work/modules" HF_HUB_OFFLINE=1 OMP_WAIT_POLICY=passive "$python" scripts/check_custom_generate.py \
  "$work/model" "${prompts:-datasets/default/prompts-test.jsonl}" --limit "${LIMIT:-50}"
