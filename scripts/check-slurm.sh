#!/usr/bin/env bash
# Checks scripts/launch-generate.sbatch and scripts/launch.sbatch under Slurm: sets up a controller and a node on this machine
# in a temporary directory, generates in an array, merges, trains on two ranks, and does a whole run that is stopped by a
# signal and queued again. The results are compared with those of one process. Takes about a minute; exit code 0 on success.
#
#   scripts/check-slurm.sh
#
# Needs root, and Debian's packages: apt install slurm-wlm munge. Nothing of a Slurm that is installed is used or changed.
# JACOBI names a built binary; without it one is built.
set -euo pipefail
programs=JACOBI
source "$(dirname "${BASH_SOURCE[0]}")/script-env.sh"
[[ $# == 0 ]] || usage
for program in munged slurmctld slurmd sbatch; do
  command -v "$program" >/dev/null || fail "$program is missing: apt install slurm-wlm munge"
done
cd "$root"
find_jacobi
export JACOBI=$jacobi

work=$(mktemp -d)
fail() {
  echo "check-slurm: $*" >&2
  tail -n 20 "$work"/*.log "$work"/*.out >&2 || true
  exit 1
}
daemons=()
clean_up() {
  scancel --user root >/dev/null 2>&1 || true
  for ((at = ${#daemons[@]} - 1; at >= 0; at--)); do
    kill "${daemons[at]}" 2>/dev/null || true
    wait "${daemons[at]}" 2>/dev/null || true
  done
  rm -rf "$work"
}
trap clean_up EXIT

# --- a controller and a node
chmod 711 "$work"
mkdir -m 755 "$work/munge" "$work/state" "$work/spool"
dd if=/dev/urandom of="$work/munge/key" bs=32 count=1 status=none
chmod 600 "$work/munge/key"
munge=$work/munge
munged --foreground --force --key-file "$munge/key" --socket "$munge/socket" --pid-file "$munge/pid" \
  --seed-file "$munge/seed" --log-file "$work/munged.log" >"$work/munged-start.log" 2>&1 &
daemons+=($!)
host=$(hostname -s)
ports=$(python3 -c 'import socket
free = [socket.socket() for _ in range(2)]
for s in free: s.bind(("", 0))
print(*(s.getsockname()[1] for s in free))')
cat >"$work/slurm.conf" <<CONF
ClusterName=check
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=${ports% *}
SlurmdPort=${ports#* }
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$munge/socket,cred_expire=2
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,batch_sched_delay=1
ReturnToService=2
SlurmdParameters=config_overrides
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool
SlurmctldPidFile=$work/slurmctld.pid
SlurmdPidFile=$work/slurmd.pid
SlurmctldLogFile=$work/slurmctld.log
SlurmdLogFile=$work/slurmd.log
NodeName=$host NodeAddr=127.0.0.1 CPUs=16 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
export SLURM_CONF=$work/slurm.conf
for _ in $(seq 100); do [[ ! -S $munge/socket ]] || break; sleep 0.1; done
slurmctld -D -c >"$work/slurmctld-start.log" 2>&1 &
daemons+=($!)
slurmd -D -c >"$work/slurmd-start.log" 2>&1 &
daemons+=($!)
for _ in $(seq 300); do
  [[ $(sinfo --noheader --format %T 2>/dev/null || true) != idle ]] || break
  sleep 0.2
done
[[ $(sinfo --noheader --format %T) == idle ]] || fail "the node is not idle: $(sinfo --noheader)"
say "$(slurmctld -V) runs"

# --- one process, and the same under Slurm
python3 scripts/check_runs.py recipe "$work" >"$work/my.toml"
export OMP_NUM_THREADS=1
"$JACOBI" run --config "$work/my.toml" >"$work/one.out" 2>&1 || fail "the run of one process fails"

# Waits until `job` has ended, and checks its state.
ended() {
  local job=$1 state
  for _ in $(seq 1200); do
    state=$(scontrol show job --oneliner "$job" | grep -o 'JobState=[A-Z_]*' | sort -u)
    case $state in
      JobState=COMPLETED) return ;;
      *FAILED* | *CANCELLED* | *TIMEOUT*) fail "job $job: $state" ;;
    esac
    sleep 0.5
  done
  fail "job $job does not end: $state"
}
compare() { python3 scripts/check_runs.py compare "$@" || fail "other results than of one process"; }
submit() { sbatch --parsable --chdir "$work" --output "$work/%A-%a.out" --cpus-per-task 1 "$@"; }

mine=(--config "$work/my.toml" --set "output_dir=\"$work/stages\"")
job=$(submit --array 0-2 "$PWD/scripts/launch-generate.sbatch" "${mine[@]}")
merge=$(submit --dependency "afterok:$job" --wrap "$JACOBI generate --config $work/my.toml --set 'output_dir=\"$work/stages\"' --merge")
ended "$job"
ended "$merge"
say "an array of 3 has generated, and the job after it has merged"
train=$(submit --ntasks-per-node 2 "$PWD/scripts/launch.sbatch" train "${mine[@]}")
ended "$train"
compare "$work/one" "$work/stages" --trained
say "srun has trained on 2 ranks"

mine=(--config "$work/my.toml" --set "output_dir=\"$work/run\"")
run=$(submit --ntasks-per-node 2 "$PWD/scripts/launch.sbatch" run "${mine[@]}")
for _ in $(seq 1200); do
  [[ ! -s $work/run/round-1/metrics.jsonl ]] || break
  sleep 0.1
done
scancel --signal TERM "$run"
# Slurm would wait two minutes before it starts a job that was queued again.
for _ in $(seq 300); do
  [[ $(scontrol show job --oneliner "$run") != *Reason=BeginTime* ]] || break
  sleep 0.2
done
scontrol update "JobId=$run" StartTime=now
ended "$run"
restarts=$(scontrol show job --oneliner "$run" | grep -o 'Restarts=[0-9]*')
[[ $restarts == Restarts=1 ]] || fail "SIGTERM has not queued the run again: $restarts"
compare "$work/one" "$work/run"
say "a run on 2 ranks was stopped by a signal, queued again, and ended with the results of one process"
