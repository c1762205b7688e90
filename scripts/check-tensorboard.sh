#!/usr/bin/env bash
# Checks that TensorBoard's own reader finds the values of metrics.jsonl in a run's events. Exit code 0 if it does.
#
#   scripts/check-tensorboard.sh DIR      a round's directory, with tensorboard/ and metrics.jsonl
#
# Prints the number of points per metric and PASS or FAIL. The `tensorboard` package is installed into .venv of this
# checkout, once; if PYTHON is set, that interpreter is used instead and needs the package.
set -euo pipefail
programs=PYTHON
source "$(dirname "${BASH_SOURCE[0]}")/script-env.sh"

[[ $# == 1 && $1 != -* ]] || usage
[[ -f $1/metrics.jsonl ]] || fail "$1 holds no metrics.jsonl: give the directory of a round"
python=${PYTHON-$root/.venv/bin/python}
if [[ -z ${PYTHON+set} ]] && ! "$python" -c 'import tensorboard' 2>/dev/null; then
  say "installing tensorboard into .venv, once"
  [[ -x $python ]] || python3 -m venv "$root/.venv"
  "$python" -m pip install --quiet --disable-pip-version-check tensorboard
fi
"$python" "$root/scripts/check_tensorboard.py" "$1"
