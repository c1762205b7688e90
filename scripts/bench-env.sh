#!/usr/bin/env bash
# Sourced by scripts/bench-*.sh with their own arguments, after they set a variable of its name to the default of each
# option (dashes as underscores), and
#   paths    names of options whose value is a path, which is made absolute
#   values   names of the other options that have a value
#   flags    names of those that have none, and are set to yes
#   own_libtorch   set where the script sees to libtorch itself
# Prints the comment at the top of the script for --help, goes to the root of the checkout, looks for the model where there
# is that option, sets up libtorch, and gives `say` and `fail`. PYTHON, where it is set, is made absolute.
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
  # Before the directory changes.
  [[ " ${paths-} " != *" $option "* ]] || declare "${option//-/_}=$(realpath -m "$2")"
  shift 2
done
# Symbolic links stay, since a venv's python is one.
if [[ -n ${PYTHON+set} ]]; then
  found=$(command -v "$PYTHON") || fail "PYTHON=$PYTHON is no program"
  PYTHON=$(realpath -s "$found")
fi
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[[ -z ${model+set} || -f $model/config.json ]] ||
  fail "$model holds no config.json: run 'python3 scripts/fetch_smollm2.py', or give --model DIR"
[[ -n ${own_libtorch-} ]] || scripts/setup.sh
