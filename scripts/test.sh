#!/usr/bin/env bash
# Set-up, then every check and test. Must pass before a change is proposed.
#
#   scripts/test.sh [--serving [MODEL [PROMPTS]]]
#
# --serving runs scripts/check-serving.sh instead, which downloads a few GB the first time.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

scripts/setup.sh
if [[ ${1-} == --serving ]]; then
  exec scripts/check-serving.sh "${2:-runs/quickstart/export}" "${@:3}"
fi
exec scripts/check.sh
