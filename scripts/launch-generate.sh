#!/usr/bin/env bash
# Generates trajectories on several ranks under torchrun, on one or more machines with a shared file system, and merges
# their directories.
#
#   scripts/launch-generate.sh RANKS --config my.toml [..]      RANKS on this machine; the rest goes to `jacobi generate`
#
# On several machines run the same command on each, with NNODES, NODE_RANK, MASTER_ADDR and MASTER_PORT as for
# launch.sh. When all are done, merge on one of them: jacobi generate --config my.toml --merge
# Ranks are independent: restart a failed one with the same command, and it makes the missing rows.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/torchrun-env.sh"
"${launch[@]}" "${JACOBI:-jacobi}" generate "$@"
[[ $nodes != 1 ]] || exec "${JACOBI:-jacobi}" generate "$@" --merge
