#!/usr/bin/env bash
# Sourced by scripts that compare with llama.cpp, after bench-env.sh. Sets `llama_python` to an interpreter that has
# llama-cpp-python compiled for the instructions that $isa allows: LLAMA_PYTHON if it is set, else that of .venv-llama-$isa,
# into which it is compiled once. That takes a C++ compiler and, on 2 cores, many minutes; pip brings cmake.
set -euo pipefail

readonly LLAMA_PACKAGES=(llama-cpp-python==0.3.36 gguf==0.19.0 safetensors==0.8.0 ml_dtypes numpy)
# Without the part for images. AMX is left out where the processor has it: llama.cpp's Q8_0 crashes with it, and it is of
# no use for the few rows of a decoding pass.
native=-DGGML_NATIVE=ON
! grep -qsw amx_int8 /proc/cpuinfo || native='-DGGML_NATIVE=OFF -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON
  -DGGML_AVX512=ON -DGGML_AVX512_VBMI=ON -DGGML_AVX512_VNNI=ON -DGGML_AVX512_BF16=ON'
declare -rA LLAMA_CMAKE=(
  [native]="$native -DLLAVA_BUILD=OFF"
  [avx2]='-DGGML_NATIVE=OFF -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_AVX512=OFF -DLLAVA_BUILD=OFF'
)

llama_python=${LLAMA_PYTHON-.venv-llama-$isa/bin/python}
if [[ -z ${LLAMA_PYTHON+set} ]]; then
  # The stamp holds what was installed; a change installs again.
  stamp=.venv-llama-$isa/llama-cpp.stamp installed="${LLAMA_PACKAGES[*]} ${LLAMA_CMAKE[$isa]}"
  if [[ ! -f $stamp || $(<"$stamp") != "$installed" ]]; then
    way_out="or leave llama.cpp out with --no-llama-cpp"
    command -v c++ >/dev/null || fail "c++ is missing: install a C++17 compiler, for instance 'apt install g++', $way_out"
    say "compiling llama-cpp-python into .venv-llama-$isa; this takes many minutes, once"
    python3 -m venv --clear ".venv-llama-$isa" ||
      fail "cannot make .venv-llama-$isa: install venv, for instance 'apt install python3-venv', $way_out"
    # pip's cache of wheels does not know for which instructions one was compiled.
    CMAKE_ARGS=${LLAMA_CMAKE[$isa]} ".venv-llama-$isa/bin/pip" install --quiet --disable-pip-version-check \
      --no-cache-dir --no-binary llama-cpp-python "${LLAMA_PACKAGES[@]}" ||
      fail "pip could not install ${LLAMA_PACKAGES[*]} (its message is above): solve that, $way_out"
    echo "$installed" >"$stamp"
  fi
fi
