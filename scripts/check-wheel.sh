#!/usr/bin/env bash
# Checks that the wheel works where there is neither Rust nor a compiler: builds it, installs it into a fresh virtual
# environment, and runs `jacobi quickstart` there with small settings, on a PATH that has only that environment.
#
#   scripts/check-wheel.sh [arguments of scripts/build-wheel.sh]
#
# Takes minutes, and 5 GB below TMPDIR while it runs, because pip downloads PyPI's torch with the CUDA libraries.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/script-env.sh"

if [[ ${1-} == -h || ${1-} == --help ]]; then
  help
  exit 0
fi
"$root/scripts/build-wheel.sh" "$@"
wheel=$(ls -t "$root"/dist/*.whl | head -1)

built=$SECONDS
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
venv=$work/venv
python3 -m venv "$venv" || fail "cannot make a virtual environment: install venv, for instance 'apt install python3-venv'"

# clean COMMAND...: runs it without Rust, compilers and the libtorch of this checkout.
clean() { env -u LIBTORCH -u LD_LIBRARY_PATH PATH="$venv/bin" "$@"; }
for tool in cargo rustc cc c++ gcc g++ clang ld; do
  if clean "$venv/bin/python" -c "import shutil, sys; sys.exit(shutil.which('$tool') is None)"; then
    fail "$tool is in $venv/bin"
  fi
done

say "installing $(basename "$wheel") into a fresh environment"
clean pip install --quiet --disable-pip-version-check "$wheel" || fail "pip could not install it: see its message above"
say "installed $((SECONDS - built)) s after the build"

binary=$(echo "$venv"/lib/python*/site-packages/jacobi_forcing/bin/jacobi)
library=$(ldd "$binary" | sed -n 's/.*libtorch_cpu\.so => \([^ ]*\).*/\1/p')
[[ $(realpath "$library") == "$(realpath "$venv")"/* ]] ||
  fail "the binary loads $library, not the libtorch of its environment"

mkdir "$work/empty"
cd "$work/empty"
small=(--set prompts.limit=16 --set generate.max_new_tokens=32 --set train.max_steps=4 --set eval.prompts.limit=2
  --set eval.max_new_tokens=32)
clean jacobi quickstart "${small[@]}"
[[ -s runs/quickstart/export/model.safetensors && -s runs/quickstart/report/report.html ]] ||
  fail "the run left no export or no report"
clean jacobi quickstart "${small[@]}" 2>&1 | tee again.log
[[ $(grep -c 'finished before, skipped' again.log) == 5 ]] || fail "the second call did not skip the five finished stages"

# The console script becomes the binary, so a signal to it stops the run at a safe point.
true >stopped.log
clean jacobi quickstart --set output_dir=runs/stopped 2>>stopped.log &
until grep -q 'stage 1' stopped.log; do sleep 0.2; done
kill -TERM $!
code=0
wait $! || code=$?
[[ $code == 143 ]] || fail "SIGTERM gave exit code $code, not 143: $(<stopped.log)"
say "passed in $SECONDS s"
