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

readonly TOLERANCE=1e-4
# Words, digits, code, several scripts, odd spaces: tokenizers and models treat them differently.
readonly TEXTS=(
  "What is 12 + 34? Natalia sold 48 clips in April and half as many in May."
  $'def fibonacci(n):\n    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)\n'
  "naïve café, 日本語, emoji 🙂;  two  spaces "
)

say() { echo "check-transformers: $*"; }
fail() {
  echo "check-transformers: $*" >&2
  exit 1
}

if [[ $# -ne 1 || $1 == -* ]]; then
  sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
  exit 2
fi
[[ -f $1/config.json ]] || fail "$1 holds no config.json: give a Hugging Face model directory"
model=$(cd "$1" && pwd)
# Made absolute before the directory changes, without following symbolic links: a venv's python is one.
if [[ -n ${PYTHON+set} ]]; then
  found=$(command -v "$PYTHON") || fail "PYTHON=$PYTHON is not a program"
  PYTHON=$(realpath -s "$found")
fi
if [[ -n ${JACOBI+set} ]]; then
  found=$(command -v "$JACOBI") || fail "JACOBI=$JACOBI is not a program"
  JACOBI=$(realpath -s "$found")
fi
cd "$(dirname "${BASH_SOURCE[0]}")/.."

source scripts/transformers-env.sh
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
jacobi=${JACOBI-target/release/jacobi}
[[ -n ${JACOBI+set} ]] || cargo build --release --locked --bin jacobi
for i in "${!TEXTS[@]}"; do
  "$jacobi" inspect "$model" --logits "${TEXTS[i]}" --output "$work/$i.safetensors" >/dev/null
  printf '%s' "${TEXTS[i]}" >"$work/$i.txt"
done
"$python" scripts/check_transformers.py "$model" "$work" --tolerance "$TOLERANCE"
