#!/usr/bin/env bash
# Checks that transformers decodes an export with custom_generate/ to the texts of its stock generate, in fewer passes.
#
#   scripts/check-custom-generate.sh DIR [PROMPTS]
#
# PROMPTS is JSONL with "prompt", by default datasets/default/prompts-test.jsonl; LIMIT (50) of them are decoded. Then
# come stop strings, streamers, pipelines, threads, and the calls that must fall back to stock generate. The file under
# test is that of this checkout, in a copy of DIR. Needs no libtorch; transformers and torch are installed into .venv of
# this checkout, once, about 5 GB. To test another version of transformers set PYTHON to an interpreter that has it.
set -euo pipefail
programs=PYTHON
source "$(dirname "${BASH_SOURCE[0]}")/script-env.sh"
[[ $# -ge 1 && $# -le 2 && $1 != -* ]] || usage
model=$(model_directory "$1")
prompts=${2:+$(realpath "$2")}
cd "$root"

source scripts/transformers-env.sh
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/model/custom_generate"
cp "$model"/*.* "$work/model/"
cp python/custom_generate/generate.py "$work/model/custom_generate/"
# A separate code cache, so that nothing stays in the user's.
HF_MODULES_CACHE="$work/modules" HF_HUB_OFFLINE=1 OMP_WAIT_POLICY=passive "$python" scripts/check_custom_generate.py \
  "$work/model" "${prompts:-datasets/default/prompts-test.jsonl}" --limit "${LIMIT:-50}"
