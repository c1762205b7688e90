#!/usr/bin/env bash
# Checks that several ranks learn the same as one. Trains the small model that ships here on one rank and, in each mode of
# sharding, on RANKS, and compares the losses of 20 steps. Exit code 0 if none differs by more than 1e-5.
#
#   scripts/check-ranks.sh [RANKS]         by --nproc; 4 ranks by default
#   scripts/check-ranks.sh RANKS torchrun  by torchrun; TORCHRUN may name the program
#
# JACOBI names a built binary; without it one is built.
set -euo pipefail
programs='JACOBI TORCHRUN'
source "$(dirname "${BASH_SOURCE[0]}")/script-env.sh"
ranks=${1:-4}
launcher=${2:-nproc}
[[ $ranks =~ ^[1-9][0-9]*$ && ($launcher == nproc || $launcher == torchrun) ]] || usage
cd "$root"
find_jacobi
export OMP_NUM_THREADS=1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# The recipe of tests/ranks.rs. With the quick start's settings gradients are so large that another packing of one
# rank's samples changes the loss by more than the tolerance.
settings=(--config configs/quickstart.toml --set "output_dir=\"$work/run\"" --set prompts.limit=36
  --set generate.max_new_tokens=24 --set train.max_steps=20 --set train.batch_size=8 --set train.tokens_per_row=200
  --set train.logging_steps=1 --set train.learning_rate=1e-4 --set 'train.lr_schedule="constant"'
  --set train.warmup_ratio=0.0 --set train.ar_weight=1.0 --set train.adam_beta2=0.95 --set train.window_size=16
  --set 'train.noise_schedule="linear"' --set 'train.pc_position_weight="uniform"')
quietly() { "$@" >"$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }; }
quietly "$jacobi" generate "${settings[@]}"
quietly "$jacobi" train "${settings[@]}" --output "$work/one"
for sharding in none optimizer gradients parameters; do
  arguments=(train "${settings[@]}" --set "train.sharding=\"$sharding\"" --output "$work/$sharding")
  case $launcher in
    nproc) quietly "$jacobi" "${arguments[@]}" --nproc "$ranks" ;;
    torchrun) quietly "${TORCHRUN:-torchrun}" --no-python --standalone --nproc-per-node "$ranks" "$jacobi" "${arguments[@]}" ;;
  esac
  python3 - "$work/one/metrics.jsonl" "$work/$sharding/metrics.jsonl" "$ranks ranks, $sharding" <<'PY'
import json, sys
one, many = ([json.loads(line) for line in open(path)] for path in sys.argv[1:3])
assert [line["step"] for line in one] == [line["step"] for line in many]
off = max(abs(a["train/loss"] - b["train/loss"]) for a, b in zip(one, many) if "train/loss" in a)
verdict = "PASS" if off <= 1e-5 else "FAIL"
print(f"{verdict}  {sys.argv[3]}: losses of 20 steps differ by at most {off:.1e}")
sys.exit(verdict == "FAIL")
PY
done
