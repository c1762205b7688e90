#!/usr/bin/env bash
# Checks scripts/launch.sh: a run on two ranks under torchrun, of which one is killed while they generate and one while they
# train, so that torchrun restarts both; and the same with two torchruns, as on two machines, where one worker is killed. The
# results are compared with those of one process. Takes a minute or two; exit code 0 on success.
#
#   scripts/check-torchrun.sh
#
# TORCHRUN may name the program of a torch 2.11. JACOBI names a built binary; without it one is built.
set -euo pipefail
programs='JACOBI TORCHRUN'
source "$(dirname "${BASH_SOURCE[0]}")/script-env.sh"
[[ $# == 0 ]] || usage
cd "$root"
find_jacobi
export JACOBI=$jacobi OMP_NUM_THREADS=1
work=$(mktemp -d)
started=()
trap '[[ ${#started[@]} == 0 ]] || kill "${started[@]}" 2>/dev/null || true; rm -rf "$work"' EXIT
fail() {
  echo "check-torchrun: $*" >&2
  tail -n 30 "$work"/*.log >&2
  exit 1
}
python3 scripts/check_runs.py recipe "$work" >"$work/my.toml"
"$JACOBI" run --config "$work/my.toml" >"$work/one.log" 2>&1 || fail "the run of one process fails"

# Waits for `file`, then kills the worker `rank` of the run into `output`.
kill_worker() {
  local output=$1 rank=$2 file=$3 pid
  for _ in $(seq 1200); do [[ ! -s $file ]] || break; sleep 0.05; done
  [[ -s $file ]] || fail "$file does not appear"
  # torchrun itself has no RANK.
  for pid in $(pgrep -f "$JACOBI run .*$output"); do
    if tr '\0' '\n' <"/proc/$pid/environ" 2>/dev/null | grep -qx "RANK=$rank"; then
      kill -KILL "$pid"
      return
    fi
  done
  fail "rank $rank does not run"
}
launch() {
  local output=$1 log=$2 ranks=$3
  MAX_RESTARTS=3 scripts/launch.sh "$ranks" run --config "$work/my.toml" --set "output_dir=\"$work/$output\"" >"$work/$log.log" 2>&1 &
  started+=($!)
}
finished() {
  local pid
  for pid in "${started[@]}"; do wait "$pid" || fail "torchrun fails"; done
  started=()
  python3 scripts/check_runs.py compare "$work/one" "$work/$1" || fail "other results than of one process"
}

launch restarted restarted 2
kill_worker restarted 1 "$work/restarted/stages.json"
kill_worker restarted 0 "$work/restarted/round-1/metrics.jsonl"
finished restarted
[[ $(grep -c 'stage 1 of' "$work/restarted.log") == 3 ]] || fail "torchrun has not restarted the ranks twice"
echo "check-torchrun: two ranks, each killed once, were restarted"

export NNODES=2 MASTER_ADDR=127.0.0.1
MASTER_PORT=$(python3 -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')
export MASTER_PORT
NODE_RANK=0 launch machines machine-0 1
NODE_RANK=1 launch machines machine-1 1
kill_worker machines 1 "$work/machines/round-1/metrics.jsonl"
finished machines
echo "check-torchrun: two torchruns, as on two machines, restarted their ranks after one was killed"
