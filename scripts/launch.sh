#!/usr/bin/env bash
# Runs a whole recipe, or a round of training, on several ranks under torchrun, on one or more machines with a shared file
# system.
#
#   scripts/launch.sh RANKS run --config my.toml [..]           RANKS on this machine; the rest goes to `jacobi`
#   scripts/launch.sh RANKS train --config my.toml [..]
#
# On several machines run the same command on each, with
#   NNODES        number of machines
#   NODE_RANK     number of this machine, from 0
#   MASTER_ADDR   address of the first machine
#   MASTER_PORT   a free port there (29500)
# MAX_RESTARTS (0) is how often torchrun restarts all ranks after a failure; finished stages, rows and the last checkpoint
# stay. Each rank gets the machine's cores divided by RANKS, unless OMP_NUM_THREADS is set. If host names do not resolve to
# the right network, GLOO_SOCKET_IFNAME names the interface. TORCHRUN and JACOBI name other programs.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/torchrun-env.sh"
exec "${launch[@]}" --max-restarts "${MAX_RESTARTS:-0}" "${JACOBI:-jacobi}" "$@"
