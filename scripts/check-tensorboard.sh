#!/usr/bin/env bash
# Does TensorBoard's own reader find in a training run's events what metrics.jsonl says? Exit code 0 if so.
#
#   scripts/check-tensorboard.sh DIR      a round's directory, with tensorboard/ and metrics.jsonl
#
# Prints the points read per metric and PASS or FAIL. The `tensorboard` package is installed into .venv of this checkout,
# once; PYTHON, an interpreter that has it, is used instead where it is set.
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
