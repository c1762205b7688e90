#!/usr/bin/env bash
# Trains on several ranks under torchrun, on one or more machines with a shared file system.
#
#   scripts/launch-train.sh RANKS --config my.toml [..]         RANKS on this machine; the rest goes to `jacobi train`
#
# On several machines run the same command on each, with
#   NNODES        number of machines
#   NODE_RANK     number of this machine, from 0
#   MASTER_ADDR   address of the first machine
#   MASTER_PORT   a free port there (29500)
# MAX_RESTARTS (0) is how often torchrun restarts all ranks after a failure, from the last checkpoint. Each rank gets the
# machine's cores divided by RANKS, unless OMP_NUM_THREADS is set. If host names do not resolve to the right network,
# GLOO_SOCKET_IFNAME names the interface. TORCHRUN and JACOBI name other programs.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/torchrun-env.sh"
exec "${launch[@]}" --max-restarts "${MAX_RESTARTS:-0}" "${JACOBI:-jacobi}" train "$@"
