#!/usr/bin/env bash
# Trains on several ranks under torchrun, on one machine or many that share a file system.
#
#   scripts/launch-train.sh RANKS --config my.toml [..]         RANKS on this machine; the rest goes to `jacobi train`
#
# On many machines, the same command on each, with
#   NNODES        how many machines
#   NODE_RANK     which this is, from 0
#   MASTER_ADDR   the first machine, as the others reach it
#   MASTER_PORT   a port that is free there (29500)
# and MAX_RESTARTS (0): how often torchrun starts all ranks anew after a failure, from the last checkpoint. Each rank
# gets the machine's cores divided by RANKS, unless OMP_NUM_THREADS says otherwise; for two machines whose names do
# not lead to the right network, GLOO_SOCKET_IFNAME names the interface. TORCHRUN and JACOBI name other programs.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/torchrun-env.sh"
exec "${launch[@]}" --max-restarts "${MAX_RESTARTS:-0}" "${JACOBI:-jacobi}" train "$@"
