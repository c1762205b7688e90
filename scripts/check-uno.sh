#!/usr/bin/env bash
# Checks that transformers and PEFT draft and verify with an adapter as `jacobi decode --passes two` does. Exit code 0 if so.
#
#   scripts/check-uno.sh ADAPTER BASE PROMPTS.jsonl [LIMIT] [BLOCK_SIZE] [MAX_NEW_TOKENS]
#
# Plays UNO's cycle of two passes (arXiv 2609.04010), as stock servers run it. The texts must be the base's greedy text;
# tokens per cycle must agree within 2 %, or two standard errors, since each side draws noise of its own. LIMIT (100) prompts
# of PROMPTS, JSONL with "prompt". transformers and torch are installed into .venv once (about 5 GB) and PEFT into it;
# PYTHON names another interpreter that has them, JACOBI a built binary.
set -euo pipefail
programs='PYTHON JACOBI'
source "$(dirname "${BASH_SOURCE[0]}")/script-env.sh"

[[ $# -ge 3 && $1 != -* ]] || usage
[[ -f $1/adapter_config.json ]] || fail "$1 holds no adapter_config.json: give an adapter that jacobi exported"
[[ -f $2/config.json ]] || fail "$2 holds no config.json: give the adapter's base model"
[[ -f $3 ]] || fail "$3 does not exist: give a JSONL file of prompts"
adapter=$(cd "$1" && pwd) base=$(cd "$2" && pwd) prompts=$(realpath "$3")
cd "$root"

source scripts/transformers-env.sh
if ! "$python" -c "import peft" 2>/dev/null; then
  [[ -z ${PYTHON+set} ]] || fail "$PYTHON has no peft: install it, 'pip install peft'"
  say "installing peft into .venv"
  "$python" -m pip install --quiet --disable-pip-version-check "peft==0.21.2"
fi
find_jacobi
"$python" scripts/check_uno.py "$adapter" "$base" "$prompts" --jacobi "$jacobi" \
  --limit "${4-100}" --block-size "${5-8}" --max-new-tokens "${6-64}"
