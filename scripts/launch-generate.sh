#!/usr/bin/env bash
# Generates trajectories on several ranks under torchrun, on one machine or many that share a file system, and joins what
# they made.
#
#   scripts/launch-generate.sh RANKS --config my.toml [..]      RANKS on this machine; the rest goes to `jacobi generate`
#
# On many machines, the same command on each, with NNODES, NODE_RANK, MASTER_ADDR and MASTER_PORT as for launch-train.sh;
# then, once all are done, join on one of them: jacobi generate --config my.toml --merge
# Ranks do not talk to each other: one that fails is started again with the same command, and makes what is missing.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/torchrun-env.sh"
"${launch[@]}" "${JACOBI:-jacobi}" generate "$@"
[[ $nodes != 1 ]] || exec "${JACOBI:-jacobi}" generate "$@" --merge
