#!/usr/bin/env bash
# Sourced by scripts/launch*.sh. Takes their first argument as the number of ranks on this machine, and sets `nodes` and
# the array `launch`: the torchrun command up to the program to start. scripts/launch.sh explains NNODES, NODE_RANK,
# MASTER_ADDR, MASTER_PORT, OMP_NUM_THREADS and TORCHRUN.
set -euo pipefail
if [[ $# -lt 1 || ! $1 =~ ^[1-9][0-9]*$ ]]; then
  # Prints the comment at the top of the calling script.
  sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
  exit 2
fi
ranks=$1
shift
threads=$(($(nproc) / ranks))
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((threads > 0 ? threads : 1))}
nodes=${NNODES:-1}
meeting=(--standalone)
if [[ $nodes != 1 ]]; then
  : "${NODE_RANK:?set it to the number of this machine, from 0}" "${MASTER_ADDR:?set it to the address of the first machine}"
  meeting=(--nnodes "$nodes" --node-rank "$NODE_RANK" --master-addr "$MASTER_ADDR" --master-port "${MASTER_PORT:-29500}")
fi
launch=("${TORCHRUN:-torchrun}" --no-python --nproc-per-node "$ranks" "${meeting[@]}")
