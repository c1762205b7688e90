#!/usr/bin/env bash
# Set-up, then every check and test: what must pass before a change is shown to anyone.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

scripts/setup.sh
exec scripts/check.sh
