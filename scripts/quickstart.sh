#!/usr/bin/env bash
# Runs the whole pipeline on the model and prompts that ship with the project: set-up, build, then generate trajectories,
# train, export and evaluate. A repeated call skips finished stages.
#
#   scripts/quickstart.sh [arguments of `jacobi run`, for instance --set seed=1]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

scripts/setup.sh
echo "quickstart: building the release binary"
cargo build --release --locked -p jacobi-cli
binary=${CARGO_TARGET_DIR:-target}/release/jacobi
echo "quickstart: $binary run --config configs/quickstart.toml $*"
exec "$binary" run --config configs/quickstart.toml "$@"
