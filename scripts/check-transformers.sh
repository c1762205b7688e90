#!/usr/bin/env bash
# Checks that transformers and jacobi compute the same fp32 logits from a model directory. Exit code 0 if they do.
#
#   scripts/check-transformers.sh DIR
#
# Prints the largest |difference| over a few texts and PASS or FAIL (at 1e-4). Needs a built libtorch set-up
# (scripts/setup.sh). transformers and a torch that Python can import are installed into .venv of this checkout, once:
# about 5 GB, because PyPI's torch brings the CUDA libraries (.libtorch lacks them and so cannot be imported).
# PYTHON names another interpreter that has them, JACOBI a built binary.
set -euo pipefail
programs='PYTHON JACOBI'
source "$(dirname "${BASH_SOURCE[0]}")/script-env.sh"

readonly TOLERANCE=1e-4
# Words, digits, code, several scripts, odd spaces: tokenizers and models treat them differently.
readonly TEXTS=(
  "What is 12 + 34? Natalia sold 48 clips in April and half as many in May."
  $'def fibonacci(n):\n    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)\n'
  "naïve café, 日本語, emoji 🙂;  two  spaces "
)

[[ $# == 1 && $1 != -* ]] || usage
model=$(model_directory "$1")
cd "$root"

source scripts/transformers-env.sh
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
find_jacobi
for i in "${!TEXTS[@]}"; do
  "$jacobi" inspect "$model" --logits "${TEXTS[i]}" --output "$work/$i.safetensors" >/dev/null
  printf '%s' "${TEXTS[i]}" >"$work/$i.txt"
done
"$python" scripts/check_transformers.py "$model" "$work" --tolerance "$TOLERANCE"
