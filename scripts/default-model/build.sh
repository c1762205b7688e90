#!/usr/bin/env bash
# Makes the default model from nothing: corpus, tokenizer, training, weights into datasets/default/model.
# Takes some minutes on two cores. Run it again to resume interrupted training.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

run=runs/default-model
model=datasets/default/model

echo "== corpus"
python3 scripts/default-model/make_corpus.py
echo "== tokenizer"
python3 scripts/default-model/make_tokenizer.py
echo "== training"
cargo run --release --quiet --bin jacobi -- train --config configs/default-model.toml "$@"

weights=$(find -L "$run" -path '*/checkpoints/latest/model.safetensors' | head -n 1)
if [[ -z $weights ]]; then
    echo "build.sh: no checkpoints/latest/model.safetensors below $run; see the messages of train above" >&2
    exit 1
fi
cp -- "$weights" "$model/model.safetensors.tmp"
mv -- "$model/model.safetensors.tmp" "$model/model.safetensors"
echo "== $model/model.safetensors: $(stat -c %s "$model/model.safetensors") bytes"
