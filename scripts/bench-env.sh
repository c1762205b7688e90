#!/usr/bin/env bash
# Sourced by scripts/bench-*.sh; parses their arguments. Before that they set one variable per option to its default
# (dashes as underscores), and
#   paths    names of options whose value is a path; it is made absolute
#   values   names of the other options with a value
#   flags    names of options without a value; a given flag is set to yes
#   own_libtorch   non-empty if the script sets up libtorch itself
# For --help it prints the comment at the top of the script. Then it changes to the root of the checkout, checks the
# model and limits the instructions if there are such options, and sets up libtorch.
set -euo pipefail
programs='PYTHON LLAMA_PYTHON'
source "$(dirname "${BASH_SOURCE[0]}")/script-env.sh"

while [[ $# -gt 0 ]]; do
  option=${1#--}
  case " ${paths-} | ${values-} | ${flags-} | -h help " in
    *" $option "*) [[ $option == -h || $1 == --* ]] ;;
    *) false ;;
  esac || fail "unknown argument '$1'; see scripts/$script.sh --help"
  if [[ $option == -h || $option == help ]]; then
    help
    exit 0
  elif [[ " ${flags-} " == *" $option "* ]]; then
    declare "${option//-/_}=yes"
    shift
    continue
  fi
  [[ $# -ge 2 ]] || fail "$1 needs a value"
  declare "${option//-/_}=$2"
  # Made absolute before the directory changes.
  [[ " ${paths-} " != *" $option "* ]] || declare "${option//-/_}=$(realpath -m "$2")"
  shift 2
done
# Limits libtorch, oneDNN, MKL and our kernels, which follow libtorch's variable, to the instructions of --isa.
limit_instructions() {
  local avx512="this processor has no AVX-512"
  case $isa in
    native) say "instructions: all of this processor" ;;
    avx2)
      export ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2
      ! grep -qsw avx512f /proc/cpuinfo || avx512="AVX-512 switched off"
      say "instructions: AVX2 ($avx512)"
      ;;
    *) fail "--isa $isa: give native or avx2" ;;
  esac
}
[[ -z ${isa+set} ]] || limit_instructions
cd "$root"
[[ -z ${model+set} || -f $model/config.json ]] ||
  fail "$model has no config.json: run 'python3 scripts/fetch_smollm2.py', or give --model DIR"
[[ -n ${own_libtorch-} ]] || scripts/setup.sh
