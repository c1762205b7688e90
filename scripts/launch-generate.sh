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
if [[ $# -lt 1 || ! $1 =~ ^[1-9][0-9]*$ ]]; then
  sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
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
"${TORCHRUN:-torchrun}" --no-python --nproc-per-node "$ranks" "${meeting[@]}" "${JACOBI:-jacobi}" generate "$@"
[[ $nodes != 1 ]] || exec "${JACOBI:-jacobi}" generate "$@" --merge
