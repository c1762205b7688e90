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
if [[ $# -lt 1 || ! $1 =~ ^[1-9][0-9]*$ ]]; then
  sed -n '2,14s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
  exit 2
fi
ranks=$1
shift
threads=$(($(nproc) / ranks))
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((threads > 0 ? threads : 1))}
nodes=${NNODES:-1}
meeting=(--standalone)
if [[ $nodes != 1 ]]; then
  : "${NODE_RANK:?which machine is this, from 0?}" "${MASTER_ADDR:?which machine is the first?}"
  meeting=(--nnodes "$nodes" --node-rank "$NODE_RANK" --master-addr "$MASTER_ADDR" --master-port "${MASTER_PORT:-29500}")
fi
exec "${TORCHRUN:-torchrun}" --no-python --nproc-per-node "$ranks" --max-restarts "${MAX_RESTARTS:-0}" "${meeting[@]}" \
  "${JACOBI:-jacobi}" train "$@"
