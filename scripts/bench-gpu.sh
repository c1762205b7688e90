#!/usr/bin/env bash
# GPU benchmark in two stages of at most 4 minutes each, at the shapes of SmolLM2-135M and Qwen2.5-7B with random weights.
# Checks: one line per code path, yes or NO, each in a process with a time limit, so that a crash costs one line. Figures:
# speed and memory, each beside PyTorch with transformers.
#
#   scripts/bench-gpu.sh [--stage checks|figures] [--binary FILE] [--shape smollm2-135m|qwen2.5-7b] [--no-pytorch]
#                        [--output FILE]
#   scripts/bench-gpu.sh --pack FILE  builds the benchmark, and writes it without symbols: at most 40 MB, else an error
#   scripts/bench-gpu.sh --smoke      both stages on a CPU with tiny shapes, in a minute or two; the figures mean nothing
#
# Without --stage both run, whatever the checks say; the exit code is 1 if one said NO. Writes bench-results/gpu-checks.txt
# and bench-results/gpu.json; a missed target is no error. Builds the benchmark with the feature `cuda` against LIBTORCH,
# else .libtorch-cuda (scripts/setup.sh --cuda). With --binary nothing is built: FILE is the benchmark, packed on another
# machine (docs/gpu.md), and uses the libtorch of PYTHON. PYTHON is an interpreter with torch 2.11 and transformers: by
# default .venv's if it exists, else python3.
set -euo pipefail

output=bench-results/gpu.json
binary='' shape='' smoke='' no_pytorch='' stage='' pack=''
paths='binary output pack' values='shape stage' flags='smoke no-pytorch' own_libtorch=yes
source "$(dirname "${BASH_SOURCE[0]}")/bench-env.sh"
output=$(realpath -m "$output")
case $stage in
  '' | checks | figures) ;;
  *) fail "--stage $stage: give checks or figures, or leave it out" ;;
esac
[[ $stage != checks && -z $pack ]] || no_pytorch=yes

# Bytes of a packed benchmark, and seconds: of a check, of all checks, and of the parts of the figures.
most_bytes=40000000 check_seconds=60 checks_seconds=235 pytorch_seconds=110 ours_seconds=120

python=${PYTHON-}
if [[ -z $python ]]; then
  python=python3
  [[ ! -x .venv/bin/python ]] || python=.venv/bin/python
fi
if [[ -z $no_pytorch ]]; then
  "$python" -c 'import torch, transformers' 2>/dev/null ||
    fail "$python has no torch and transformers: set PYTHON to one that has them, or give --no-pytorch"
fi

scale=full device=cuda:0 features=(--features cuda)
[[ -z $smoke ]] || scale=smoke device=cpu features=()
if [[ -n $binary ]]; then
  torch=$("$python" -c 'import os, torch; print(os.path.dirname(torch.__file__))') ||
    fail "$python has no torch; $binary needs its libraries"
  export LD_LIBRARY_PATH="$torch/lib:$torch/../nvidia/cu13/lib${LD_LIBRARY_PATH+:$LD_LIBRARY_PATH}"
else
  if [[ -z $smoke ]]; then
    scripts/setup.sh --cuda
    export LIBTORCH=${LIBTORCH-$PWD/.libtorch-cuda/torch}
  else
    scripts/setup.sh
  fi
  say "building"
  binary=$(cargo bench --locked --workspace "${features[@]}" --bench gpu --no-run --message-format json |
    sed -n 's/.*"name":"gpu".*"executable":"\([^"]*\)".*/\1/p' | tail -n 1)
  [[ -x $binary ]] || fail "cargo did not report the path of the benchmark"
fi
if [[ -n $pack ]]; then
  mkdir -p "$(dirname "$pack")"
  strip -s -o "$pack" "$binary"
  bytes=$(stat -c %s "$pack")
  ((bytes <= most_bytes)) || fail "$pack has $bytes bytes without symbols, more than $most_bytes"
  say "written to $pack, $bytes bytes: copy it, this script, scripts/bench-env.sh, scripts/script-env.sh and scripts/bench_gpu_pytorch.py"
  exit 0
fi
of_shape=()
[[ -z $shape ]] || of_shape=(--shape "$shape")
results=$PWD/bench-results
mkdir -p "$results" "$(dirname "$output")"

# One line per code path.
run_checks() {
  local name answer left started=$SECONDS log=$results/gpu-check.log refused=0
  : >"$results/gpu-checks.txt"
  for name in $("$binary" --list-checks 1); do
    left=$((checks_seconds - (SECONDS - started)))
    if ((left <= 0)); then
      answer="NO   $name: not run, $checks_seconds s are over"
    elif timeout -k 5 "$((left < check_seconds ? left : check_seconds))" \
      "$binary" --scale "$scale" --device "$device" --check "$name" >"$log" 2>&1; then
      answer="yes  $name: $(tail -n 1 "$log")"
    else
      # Exit code 124 is the end of the time.
      answer="NO   $name: exit code $?, $(grep -v '^ *[0-9]*:\|^ *at ' "$log" | tail -n 1)"
    fi
    [[ $answer == yes* ]] || refused=1
    echo "$answer" | tee -a "$results/gpu-checks.txt"
  done
  say "checks: $((SECONDS - started)) s"
  return "$refused"
}

run_figures() {
  local started=$SECONDS theirs=()
  if [[ -z $no_pytorch ]]; then
    say "PyTorch with transformers"
    rm -f "$results/gpu-pytorch.json"
    "$binary" --scale "$scale" --task "$results/gpu-task.json"
    timeout -k 5 "$pytorch_seconds" "$python" scripts/bench_gpu_pytorch.py "$results/gpu-task.json" \
      "$results/gpu-pytorch.json" --device "$device" "${of_shape[@]}" ||
      say "PyTorch's part did not finish: its figures so far are used"
    [[ ! -f $results/gpu-pytorch.json ]] || theirs=(--theirs "$results/gpu-pytorch.json")
  fi
  say "ours, after $((SECONDS - started)) s"
  timeout -k 5 "$ours_seconds" "$binary" --scale "$scale" --device "$device" "${of_shape[@]}" "${theirs[@]}" \
    --output "$output"
  say "written to $output, $((SECONDS - started)) s"
}

refused=0
[[ $stage == figures ]] || run_checks || refused=1
[[ $stage == checks ]] || run_figures
[[ -z $smoke ]] || say "this was a smoke run on a CPU with tiny shapes: its figures mean nothing"
exit "$refused"
