#!/usr/bin/env bash
# Fuzzes the parsers: scripts/fuzz.sh [TARGET [SECONDS]]; without arguments, each target for 10 minutes.
# Needs `cargo install cargo-fuzz`. A crash is kept in fuzz/artifacts/TARGET; to repeat it:
#   RUSTC_BOOTSTRAP=1 cargo fuzz run --sanitizer none TARGET fuzz/artifacts/TARGET/crash-...
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${2:-600}
targets=${1:-prompts responses config_json tokenizer_dir shards recipe}

# cargo-fuzz passes flags of the nightly compiler, which a stable one takes when told so. The parsers have no unsafe code,
# so there is no sanitizer.
export RUSTC_BOOTSTRAP=1
# The same versions of dependencies as elsewhere.
cp Cargo.lock fuzz/Cargo.lock
TMPDIR=$(mktemp -d /dev/shm/fuzz.XXXXXX)
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT

# The files of the cases and of the project that a target reads; other seeds are in fuzz/seeds.
seeds_of() {
    case $1 in
        prompts) find tests/cases datasets/default -name '*.jsonl' -size -40k -o -name '*.gz' -o -path '*/json-rows/*.json' -not -name case.json ;;
        responses) find tests/cases -path '*batch-output/*.jsonl' -o -path '*sglang-rows/*.jsonl' -o -name '*-responses.jsonl' ;;
        config_json) find tests/model-configs tests/golden/models datasets/default -name '*config*.json' -not -name 'tokenizer*' -o -path '*model-configs/*.json' ;;
        recipe) find configs -name '*.toml' ;;
    esac
    find "fuzz/seeds/$1" -type f 2>/dev/null || true
}

for target in $targets; do
    corpus=fuzz/corpus/$target
    mkdir -p "$corpus"
    seeds_of "$target" | while read -r seed; do cp "$seed" "$corpus/seed-$(echo "$seed" | tr / -)"; done
    # The parquet crate skips a list of booleans that it does not know element by element, and they take no bytes: a damaged footer
    # of a few kilobytes can keep it busy for minutes. In a process of its own such an input is kept and passed over.
    slow=()
    [ "$target" != shards ] || slow=(-fork=1 -ignore_timeouts=1)
    cargo fuzz run --sanitizer none "$target" "$corpus" -- \
        -max_total_time="$seconds" -timeout=20 -rss_limit_mb=3000 -max_len=8192 -print_final_stats=1 "${slow[@]}"
done
