#!/usr/bin/env bash
# Sourced by scripts/bench-*.sh; parses their arguments. Before that they set one variable per option to its default
# (dashes as underscores), and
#   paths    names of options whose value is a path; it is made absolute
#   values   names of the other options with a value
#   flags    names of options without a value; a given flag is set to yes
#   own_libtorch   non-empty if the script sets up libtorch itself
# For --help it prints the comment at the top of the script. Then it changes to the root of the checkout, checks the
# model if there is such an option, sets up libtorch, and defines `say` and `fail`. PYTHON is made absolute if it is set.
set -euo pipefail

bench=$(basename "$0" .sh)
say() { echo "$bench: $*"; }
fail() {
  echo "$bench: $*" >&2
  exit 1
}

while [[ $# -gt 0 ]]; do
  option=${1#--}
  case " ${paths-} | ${values-} | ${flags-} | -h help " in
    *" $option "*) [[ $option == -h || $1 == --* ]] ;;
    *) false ;;
  esac || fail "unknown argument '$1'; see scripts/$bench.sh --help"
  if [[ $option == -h || $option == help ]]; then
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
    exit 0
  elif [[ " ${flags-} " == *" $option "* ]]; then
    declare "${option//-/_}=yes"
    shift
    continue
  fi
  [[ $# -ge 2 ]] || fail "$1 needs a value"
  declare "${option//-/_}=$2"
  # Made absolute before the directory changes.
  [[ " ${paths-} " != *" $option "* ]] || declare "${option//-/_}=$(realpath -m "$2")"
  shift 2
done
# Without following symbolic links: a venv's python is one.
if [[ -n ${PYTHON+set} ]]; then
  found=$(command -v "$PYTHON") || fail "PYTHON=$PYTHON is not a program"
  PYTHON=$(realpath -s "$found")
fi
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[[ -z ${model+set} || -f $model/config.json ]] ||
  fail "$model has no config.json: run 'python3 scripts/fetch_smollm2.py', or give --model DIR"
[[ -n ${own_libtorch-} ]] || scripts/setup.sh
