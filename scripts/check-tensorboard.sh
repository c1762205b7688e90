#!/usr/bin/env bash
# Checks that TensorBoard's own reader finds the values of metrics.jsonl in a run's events. Exit code 0 if it does.
#
#   scripts/check-tensorboard.sh DIR      a round's directory, with tensorboard/ and metrics.jsonl
#
# Prints the number of points per metric and PASS or FAIL. The `tensorboard` package is installed into .venv of this
# checkout, once; if PYTHON is set, that interpreter is used instead and needs the package.
set -euo pipefail

if [[ $# -ne 1 || $1 == -* ]]; then
  sed -n '2,7s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
  exit 2
fi
[[ -f $1/metrics.jsonl ]] || {
  echo "check-tensorboard: $1 holds no metrics.jsonl: give the directory of a round" >&2
  exit 1
}
scripts=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON-$scripts/../.venv/bin/python}
if [[ -z ${PYTHON+set} ]] && ! "$python" -c 'import tensorboard' 2>/dev/null; then
  echo "check-tensorboard: installing tensorboard into .venv, once"
  [[ -x $python ]] || python3 -m venv "$scripts/../.venv"
  "$python" -m pip install --quiet --disable-pip-version-check tensorboard
fi
"$python" "$scripts/check_tensorboard.py" "$1"
