#!/usr/bin/env bash
# Sourced by scripts that compare with transformers, from the root of the checkout, after they defined say and fail. Sets
# `python` to an interpreter that has torch and transformers: PYTHON if it is set, else that of .venv, into which they are
# installed once. That takes about 5 GB, because PyPI's torch includes the CUDA libraries (.libtorch lacks them, so Python
# cannot import it).
set -euo pipefail

readonly PACKAGES=(torch==2.11.0 transformers==5.23.0 safetensors==0.8.0 numpy)

python=${PYTHON-.venv/bin/python}
if [[ -z ${PYTHON+set} ]]; then
  # The stamp holds the installed versions; a change installs again.
  stamp=.venv/check-transformers.stamp
  if [[ ! -f $stamp || $(<"$stamp") != "${PACKAGES[*]}" ]]; then
    say "installing ${PACKAGES[*]} into .venv; the download takes a while, once"
    python3 -m venv .venv || fail "cannot make .venv: install venv, for instance 'apt install python3-venv'"
    .venv/bin/pip install --quiet --disable-pip-version-check "${PACKAGES[@]}" ||
      fail "pip could not install them: see its message above"
    echo "${PACKAGES[*]}" >"$stamp"
  fi
fi
