#!/usr/bin/env bash
# Sourced by scripts/launch-*.sh with their own arguments: takes the first as the number of ranks on this machine, and sets
# `nodes` and the array `launch`, torchrun as far as the program it is to start. NNODES, NODE_RANK, MASTER_ADDR,
# MASTER_PORT, OMP_NUM_THREADS and TORCHRUN as scripts/launch-train.sh says.
set -euo pipefail
if [[ $# -lt 1 || ! $1 =~ ^[1-9][0-9]*$ ]]; then
  # The comment at the top of the script that was called.
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
  : "${NODE_RANK:?which machine is this, from 0?}" "${MASTER_ADDR:?which machine is the first?}"
  meeting=(--nnodes "$nodes" --node-rank "$NODE_RANK" --master-addr "$MASTER_ADDR" --master-port "${MASTER_PORT:-29500}")
fi
launch=("${TORCHRUN:-torchrun}" --no-python --nproc-per-node "$ranks" "${meeting[@]}")
