#!/usr/bin/env bash
# Runs every check and test of the project, cheapest first, and stops at the first failure. Needs scripts/setup.sh.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

for component in fmt clippy; do
  cargo "$component" --version >/dev/null 2>&1 || {
    echo "check: cargo $component is missing: rustup component add rustfmt clippy" >&2
    exit 1
  }
done

# step NAME COMMAND...: runs COMMAND and prints its duration.
step() {
  local name=$1 start=$SECONDS
  shift
  echo "check: $name: $*"
  "$@"
  echo "check: $name: passed in $((SECONDS - start)) s"
}

step format cargo fmt --all --check
step python env -C python python3 -m unittest discover tests
step lints cargo clippy --locked --workspace --all-targets -- -D warnings
step docs env RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --document-private-items
step tests cargo test --locked --workspace
echo "check: everything passed in $SECONDS s"
