#!/usr/bin/env bash
# Installs libtorch 2.11, which cargo cannot fetch, into a directory of this checkout.
#
#   scripts/setup.sh          libtorch for the CPU, into .libtorch (about 0.7 GB on disk)
#   scripts/setup.sh --cuda   libtorch with the CUDA libraries and headers, into .libtorch-cuda (about 4 GB);
#                             to build against it: export LIBTORCH="$PWD/.libtorch-cuda/torch"
#
# If LIBTORCH (a libtorch 2.11 directory) or LIBTORCH_USE_PYTORCH=1 (the torch of python3) is set, nothing is installed.
# A repeated call does nothing and needs no network.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly TORCH=2.11.0
# libtorch_cpu.so of this wheel needs these two CUDA packages even without a GPU, and no others.
readonly CPU_PACKAGES=("torch==$TORCH" "nvidia-cuda-runtime==13.0.*" "nvidia-cuda-cupti==13.0.*")
# The libraries that libtorch_cuda.so of this wheel loads, as the wheel pins them, and the headers that the CUDA code of
# torch-ext includes. Triton and the wheel's Python packages are not needed.
readonly CUDA_PACKAGES=(
  "torch==$TORCH" "nvidia-cublas==13.1.0.3" "nvidia-cuda-cupti==13.0.85" "nvidia-cuda-nvrtc==13.0.88"
  "nvidia-cuda-runtime==13.0.96" "nvidia-cudnn-cu13==9.19.0.56" "nvidia-cufft==12.0.0.61" "nvidia-cufile==1.15.1.6"
  "nvidia-curand==10.4.0.35" "nvidia-cusolver==12.0.4.66" "nvidia-cusparse==12.6.3.3"
  "nvidia-cusparselt-cu13==0.8.0" "nvidia-nccl-cu13==2.28.9" "nvidia-nvjitlink==13.0.88"
  "nvidia-nvshmem-cu13==3.4.5" "nvidia-nvtx==13.0.85"
  "nvidia-cuda-crt==13.0.*" "nvidia-cuda-cccl==13.0.*"
)
# Only the C++ part of the wheel is used, so its Python version does not matter. A fixed one lets any python3 with pip
# fetch it.
readonly WHEEL_PYTHON=3.12

say() { echo "setup: $*"; }
fail() {
  echo "setup: $*" >&2
  exit 1
}

variant=cpu
case "${1-}" in
  "") ;;
  --cuda) variant=cuda ;;
  -h | --help)
    sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit 0
    ;;
  *) fail "unknown argument '$1'; usage: scripts/setup.sh [--cuda]" ;;
esac

home_dir=.libtorch
[[ $variant == cpu ]] || home_dir=.libtorch-cuda
readonly variant home_dir
# Unfinished files go here, so that the final directory is either absent or complete.
readonly STAGING=$home_dir.partial

command -v cargo >/dev/null || fail "cargo is missing: install Rust 1.95 or later from https://rustup.rs"
command -v c++ >/dev/null || fail "c++ is missing: install a C++17 compiler, for instance 'apt install g++'"

if [[ -n ${LIBTORCH_USE_PYTORCH+set} ]]; then
  say "LIBTORCH_USE_PYTORCH is set: using the torch of python3, nothing to install"
  exit 0
fi
if [[ -n ${LIBTORCH-} ]]; then
  [[ -d $LIBTORCH/lib ]] || fail "LIBTORCH=$LIBTORCH has no lib directory: point it at a libtorch $TORCH or unset it"
  say "LIBTORCH=$LIBTORCH is set: using it, nothing to install"
  exit 0
fi

is_done() {
  [[ -d $home_dir/torch-$TORCH.dist-info && -e $home_dir/torch/lib/libtorch_cpu.so ]] || return 1
  [[ $variant == cpu || -e $home_dir/torch/lib/libtorch_cuda.so ]]
}

if is_done; then
  say "libtorch $TORCH is already in $home_dir"
  exit 0
fi

[[ $(uname -s)-$(uname -m) == Linux-x86_64 ]] ||
  fail "this script supports only Linux on x86_64: set LIBTORCH to a libtorch $TORCH directory of your system"
command -v python3 >/dev/null || fail "python3 is missing: install Python 3 with pip, for instance 'apt install python3-pip'"
python3 -m pip --version >/dev/null 2>&1 || fail "pip is missing: install it, for instance 'apt install python3-pip'"

# Two set-ups at once would share the staging directory: the second waits for the first.
exec 9<scripts/setup.sh
flock 9
if is_done; then
  say "libtorch $TORCH is already in $home_dir"
  exit 0
fi

packages=("${CPU_PACKAGES[@]}")
[[ $variant == cpu ]] || packages=("${CUDA_PACKAGES[@]}")

# A killed set-up may have left a staging directory; ours is removed in any case.
rm -rf "$STAGING"
trap 'rm -rf "$STAGING"' EXIT
mkdir "$STAGING"
say "installing libtorch $TORCH ($variant) into $home_dir; the download takes a while, once"
PIP_ROOT_USER_ACTION=ignore python3 -m pip install --disable-pip-version-check --no-compile --only-binary=:all: \
  --python-version "$WHEEL_PYTHON" --target "$STAGING/libtorch" --no-deps --no-cache-dir "${packages[@]}" ||
  fail "pip could not install ${packages[*]}: see its message above; nothing was changed"

if [[ $variant == cpu ]]; then
  # torch-sys links CUDA if these files are present, and they need gigabytes of other libraries.
  rm -f "$STAGING"/libtorch/torch/lib/libtorch_cuda*.so
fi
library=libtorch_cpu.so
[[ $variant == cpu ]] || library=libtorch_cuda.so
missing=$(ldd "$STAGING/libtorch/torch/lib/$library" | sed -n 's/ => not found//p' | xargs)
[[ -z $missing ]] || fail "$library needs $missing, which this system lacks; nothing was changed"

if [[ -e $home_dir ]]; then
  say "replacing the libtorch in $home_dir"
  mv "$home_dir" "$STAGING/replaced"
fi
mv "$STAGING/libtorch" "$home_dir"
say "libtorch $TORCH ($variant) is ready in $home_dir"
