#!/usr/bin/env bash
# Set-up, then every check and test: what must pass before a change is shown to anyone.
#
#   scripts/test.sh [--serving [MODEL [PROMPTS]]]
#
# --serving: the gate of the serving engines instead (scripts/check-serving.sh), a download of a few GB the first time.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

scripts/setup.sh
if [[ ${1-} == --serving ]]; then
  exec scripts/check-serving.sh "${2:-runs/quickstart/export}" "${@:3}"
fi
exec scripts/check.sh
