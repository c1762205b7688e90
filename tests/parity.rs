//! Our Transformer against transformers, in fp32: logits within 1e-4, every layer within 1e-5. The expected
//! tensors come from scripts/golden/model_tiny.py.

use jacobi_model::{AttentionMask, Dtype, load};
use tch::Tensor;

use crate::support::{golden, max_difference, tensors};

const LAYER_TOLERANCE: f64 = 1e-5;
const LOGITS_TOLERANCE: f64 = 1e-4;

fn check(case: &str) {
    let dir = golden("models").join(case);
    let expected = tensors(&dir.join("expected.safetensors"));
    let model = load(&dir, Dtype::Float32).unwrap().transformer;
    let ids = &expected["input_ids"];
    let t = ids.size()[1];
    let mut outputs = Vec::new();
    let rope = model.rope_table(t).range(0, t);
    let hidden = tch::no_grad(|| {
        let observe = &mut |x: &Tensor| outputs.push(x.shallow_clone());
        model.hidden_observed(ids, &rope, &AttentionMask::Causal, None, observe)
    });
    assert!(max_difference(&outputs[0], &expected["embed"]) <= LAYER_TOLERANCE, "{case}: embedding");
    for (i, output) in outputs[1..].iter().enumerate() {
        let difference = max_difference(output, &expected[&format!("layers.{i}")]);
        assert!(difference <= LAYER_TOLERANCE, "{case}: layer {i} differs by {difference}");
    }
    assert!(max_difference(&hidden, &expected["norm"]) <= LAYER_TOLERANCE, "{case}: final norm");
    let difference = max_difference(&model.logits(&hidden), &expected["logits"]);
    assert!(difference <= LOGITS_TOLERANCE, "{case}: logits differ by {difference}");
}

#[test]
fn llama_equals_transformers() {
    check("tiny_llama");
}

#[test]
fn llama_with_llama3_rope_equals_transformers() {
    check("tiny_llama_llama3");
}

#[test]
fn llama_with_linear_rope_equals_transformers() {
    check("tiny_llama_linear");
}

#[test]
fn llama_with_dynamic_rope_equals_transformers() {
    check("tiny_llama_dynamic");
}

#[test]
fn qwen2_equals_transformers() {
    check("tiny_qwen2");
}

/// The cached forward, in pieces of any size and with forgotten drafts in between, equals the whole one.
#[test]
fn a_cached_forward_in_pieces_equals_one_forward() {
    for case in ["tiny_llama", "tiny_qwen2"] {
        let dir = golden("models").join(case);
        let model = load(&dir, Dtype::Float32).unwrap().transformer;
        let ids = tensors(&dir.join("expected.safetensors"))["input_ids"].narrow(0, 0, 1);
        let t = ids.size()[1];
        let table = model.rope_table(64);
        let options = (model.kind(), model.device());
        let whole = tch::no_grad(|| model.hidden(&ids, &table.range(0, t), &AttentionMask::Causal, None));
        for pieces in [[3, 1, 20], [24, 0, 0], [1, 1, 22], [10, 13, 1]] {
            let mut cache = jacobi_model::KvCache::new(model.architecture(), 64, options.0, options.1);
            let mut parts = Vec::new();
            for size in pieces.into_iter().filter(|size| *size > 0) {
                let start = cache.len();
                let feed = |fed: &Tensor, cache: &mut jacobi_model::KvCache| {
                    let size = fed.size()[1];
                    let mask = AttentionMask::causal(size, start, options.0, options.1);
                    tch::no_grad(|| model.hidden(fed, &table.range(start, size), &mask, Some(cache)))
                };
                // A wrong draft first, forgotten again: it must leave no trace.
                let _ = feed(&ids.narrow(1, 0, 5), &mut cache);
                cache.truncate(start);
                parts.push(feed(&ids.narrow(1, start, size), &mut cache));
            }
            let difference = max_difference(&Tensor::cat(&parts, 1), &whole);
            assert!(difference <= LAYER_TOLERANCE, "{case} {pieces:?}: {difference}");
        }
    }
}

#[test]
fn a_saved_model_loads_equal_in_one_file_and_in_shards() {
    for (case, max_bytes) in [("tiny_llama", usize::MAX), ("tiny_llama", 40_000), ("tiny_qwen2", 1)] {
        let dir = golden("models").join(case);
        let model = load(&dir, Dtype::Float32).unwrap().transformer;
        let out = crate::support::scratch();
        let config = &model.architecture().config_json;
        jacobi_model::save_model(out.path(), config, model.parameters(), model.kind(), max_bytes).unwrap();
        assert_eq!(out.path().join("model.safetensors").exists(), max_bytes == usize::MAX);
        let again = load(out.path(), Dtype::Float32).unwrap().transformer;
        assert_eq!(again.parameters().len(), model.parameters().len());
        for ((name, a), (other, b)) in model.parameters().iter().zip(again.parameters()) {
            assert!(name == other && a.equal(b), "{case}: {name}");
        }
    }
}
