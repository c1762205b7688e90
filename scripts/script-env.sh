#!/usr/bin/env bash
# Sourced by scripts/check-*.sh, build-wheel.sh and bench-env.sh, before the directory changes. Sets `root` to the checkout, makes the
# programs absolute that the variables named in `programs` hold, where they are set, and defines the functions below.
set -euo pipefail

script=$(basename "$0" .sh)
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

say() { echo "$script: $*"; }
fail() {
  echo "$script: $*" >&2
  exit 1
}

# Prints the comment at the top of the calling script.
help() { sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; }

# Prints it and exits, for arguments that are none.
usage() {
  help
  exit 2
}

# The absolute path of the model directory $1.
model_directory() {
  [[ -f $1/config.json ]] || fail "$1 holds no config.json: give a Hugging Face model directory"
  (cd "$1" && pwd)
}

# Sets `jacobi` to JACOBI, or to the release binary of this checkout, which it builds.
find_jacobi() {
  jacobi=${JACOBI-}
  [[ -z $jacobi ]] || return 0
  (cd "$root" && cargo build --release --locked --bin jacobi)
  jacobi=$(cd "$root" && realpath -m "${CARGO_TARGET_DIR:-target}/release/jacobi")
}

# install_once VENV PACKAGE ..: makes the virtual environment with these packages. A stamp holds what is installed; a change
# installs again.
install_once() {
  local venv=$1 stamp=$1/jacobi.stamp
  shift
  [[ ! -f $stamp || $(<"$stamp") != "$*" ]] || return 0
  say "installing $* into $venv, once"
  python3 -m venv "$venv" || fail "cannot make $venv: install venv, for instance 'apt install python3-venv'"
  "$venv/bin/pip" install --quiet --disable-pip-version-check "$@" || fail "pip could not install them: see its message above"
  echo "$*" >"$stamp"
}

for program in ${programs-}; do
  [[ -n ${!program+set} ]] || continue
  found=$(command -v "${!program}") || fail "$program=${!program} is not a program"
  # Without following symbolic links: a venv's python is one.
  declare "$program=$(realpath -s "$found")"
done
