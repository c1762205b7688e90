#!/usr/bin/env bash
# Tests `jacobi serve` under load with OpenAI's Python client: with many clients at once every answer equals the one it has
# alone, memory stays constant, clients may read slowly or leave, and SIGTERM may come at any time. Exit code 0 on success.
#
#   scripts/check-serve.sh MODEL [--clients 64] [--seconds 120] [--prompts FILE]
#
# The client is installed once into a virtual environment outside the checkout: JACOBI_CHECK_VENV, or check-serve in the
# user's cache directory. JACOBI names a built binary; without it one is built.
set -euo pipefail
programs=JACOBI
source "$(dirname "${BASH_SOURCE[0]}")/script-env.sh"

readonly PACKAGES=(openai==2.9.0)

[[ $# -ge 1 && $1 != -* ]] || usage
model=$(model_directory "$1")
shift
cd "$root"

venv=${JACOBI_CHECK_VENV:-${XDG_CACHE_HOME:-$HOME/.cache}/jacobi/check-serve}
install_once "$venv" "${PACKAGES[@]}"
find_jacobi
exec "$venv/bin/python" scripts/check_serve.py "$jacobi" "$model" "$@"
