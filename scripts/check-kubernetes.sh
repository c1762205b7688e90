#!/usr/bin/env bash
# Checks the Kubernetes manifests scripts/launch*.yaml: validates them against the published schemas, with unknown fields
# refused, and then runs the command of each pod, with the environment that the manifest gives it, as a process of this
# machine on a small recipe. One pod is killed on the way, and all are started again, as the Job does. Takes about a minute;
# exit code 0 on success. No cluster is needed.
#
#   scripts/check-kubernetes.sh [VERSION]       of Kubernetes; by default those of 1.28 and 1.36
#
# The validator is installed once into a virtual environment outside the checkout: JACOBI_CHECK_VENV, or check-kubernetes in
# the user's cache directory. JACOBI names a built binary; without it one is built.
set -euo pipefail
programs=JACOBI
source "$(dirname "${BASH_SOURCE[0]}")/script-env.sh"
readonly PACKAGES=(kubernetes-validate==1.37.0)
[[ $# -le 1 && ${1:-1} != -* ]] || usage
versions=("${1:-1.28}")
[[ $# != 0 ]] || versions+=(1.36)
cd "$root"
find_jacobi
venv=${JACOBI_CHECK_VENV:-${XDG_CACHE_HOME:-$HOME/.cache}/jacobi/check-kubernetes}
install_once "$venv" "${PACKAGES[@]}"
for version in "${versions[@]}"; do
  "$venv/bin/kubernetes-validate" --strict -k "$version" scripts/launch.yaml scripts/launch-generate.yaml
done
exec "$venv/bin/python" scripts/check_kubernetes.py "$jacobi"
