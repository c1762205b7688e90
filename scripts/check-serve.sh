#!/usr/bin/env bash
# Tests `jacobi serve` under load with OpenAI's Python client: with many clients at once every answer equals the one it has
# alone, memory stays constant, clients may read slowly or leave, and SIGTERM may come at any time. Exit code 0 on success.
#
#   scripts/check-serve.sh MODEL [--clients 64] [--seconds 120] [--prompts FILE]
#
# The client is installed once into a virtual environment outside the checkout: JACOBI_CHECK_VENV, or check-serve in the
# user's cache directory. JACOBI names a built binary; without it one is built.
set -euo pipefail

readonly PACKAGES=(openai==2.9.0)

say() { echo "check-serve: $*"; }
fail() {
  echo "check-serve: $*" >&2
  exit 1
}

if [[ $# -lt 1 || $1 == -* ]]; then
  sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
  exit 2
fi
[[ -f $1/config.json ]] || fail "$1 holds no config.json: give a Hugging Face model directory"
model=$(cd "$1" && pwd)
shift
if [[ -n ${JACOBI+set} ]]; then
  found=$(command -v "$JACOBI") || fail "JACOBI=$JACOBI is not a program"
  JACOBI=$(realpath -s "$found")
fi
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=${JACOBI_CHECK_VENV:-${XDG_CACHE_HOME:-$HOME/.cache}/jacobi/check-serve}
if [[ ! -f $venv/stamp || $(<"$venv/stamp") != "${PACKAGES[*]}" ]]; then
  say "installing ${PACKAGES[*]} into $venv, once"
  python3 -m venv "$venv" || fail "cannot make $venv: install venv, for instance 'apt install python3-venv'"
  "$venv/bin/pip" install --quiet --disable-pip-version-check "${PACKAGES[@]}" || fail "pip could not install them"
  echo "${PACKAGES[*]}" >"$venv/stamp"
fi
jacobi=${JACOBI-target/release/jacobi}
[[ -n ${JACOBI+set} ]] || cargo build --release --locked --bin jacobi
exec "$venv/bin/python" scripts/check_serve.py "$jacobi" "$model" "$@"
