#!/usr/bin/env bash
# Sourced by scripts that compare with transformers, from the root of the checkout, after script-env.sh. Sets
# `python` to an interpreter that has torch and transformers: PYTHON if it is set, else that of .venv, into which they are
# installed once. That takes about 5 GB, because PyPI's torch includes the CUDA libraries (.libtorch lacks them, so Python
# cannot import it).
set -euo pipefail

readonly PACKAGES=(torch==2.11.0 transformers==5.23.0 safetensors==0.8.0 numpy)

python=${PYTHON-.venv/bin/python}
[[ -n ${PYTHON+set} ]] || install_once .venv "${PACKAGES[@]}"
