//! Our Transformer against transformers, in fp32: logits within 1e-4, every layer within 1e-5. The expected
//! tensors come from scripts/golden/model_tiny.py.

use jacobi_model::{
    AttentionMask, Dtype, LanguageModel, Place, Predictions, Rows, Transformer, Work, load, token_tensor,
};
use tch::Tensor;

use crate::support::{golden, max_difference, tensors};

const CASES: [&str; 5] = ["tiny_llama", "tiny_qwen2", "tiny_llama_llama3", "tiny_qwen3", "tiny_qwen3_yarn"];
const LAYER_TOLERANCE: f64 = 1e-5;
const LOGITS_TOLERANCE: f64 = 1e-4;

fn check(case: &str) {
    let dir = golden("models").join(case);
    let expected = tensors(&dir.join("expected.safetensors"));
    let model = load(&dir, Dtype::Float32).unwrap().transformer;
    assert_eq!(model.architecture().parameter_count(), model.parameter_count(), "{case}");
    let ids = &expected["input_ids"];
    let t = ids.size()[1];
    let mut outputs = Vec::new();
    let rope = model.rope_table(t).range(0, t);
    let hidden = tch::no_grad(|| {
        let observe = &mut |x: &Tensor| outputs.push(x.shallow_clone());
        model.hidden_adapted(ids, &rope, &AttentionMask::Causal, None, observe)
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

#[test]
fn qwen3_equals_transformers() {
    check("tiny_qwen3");
}

/// Rows of 24 tokens, 16 of them within the original context.
#[test]
fn qwen_with_yarn_equals_transformers() {
    check("tiny_qwen2_yarn");
    check("tiny_qwen3_yarn");
    for case in ["tiny_qwen2_yarn", "tiny_qwen3_yarn"] {
        let model = load(&golden("models").join(case), Dtype::Float32).unwrap().transformer;
        assert_eq!(model.context_length(), 64, "{case}");
    }
}

#[test]
fn mistral_equals_transformers() {
    check("tiny_mistral");
    let mistral = load(&golden("models/tiny_mistral"), Dtype::Float32).unwrap().transformer;
    assert_eq!(mistral.context_length(), 24, "the sliding window ends the context");
}

/// Logits `[t, v]` of `tokens` as one row of the plain forward.
fn plain_logits(model: &Transformer, tokens: &[u32]) -> Tensor {
    let t = tokens.len() as i64;
    let ids = token_tensor(tokens).unsqueeze(0);
    tch::no_grad(|| {
        let hidden = model.hidden(&ids, &model.rope_table(t).range(0, t), &AttentionMask::Causal);
        model.logits(&hidden.squeeze_dim(0))
    })
}

fn difference(predictions: &dyn Predictions, row: usize, expected: &Tensor) -> f64 {
    max_difference(&Tensor::from_slice(&predictions.logits(row)), expected)
}

/// The cached forward, in pieces of any size and with forgotten drafts in between, equals the whole one.
#[test]
fn a_cached_forward_in_pieces_equals_one_forward() {
    for case in CASES {
        let model = load(&golden("models").join(case), Dtype::Float32).unwrap().transformer;
        let tokens: Vec<u32> = (0..24).map(|i| i * 29 % 97).collect();
        let whole = plain_logits(&model, &tokens);
        for pieces in [[3, 1, 20], [24, 0, 0], [1, 1, 22], [10, 13, 1]] {
            let mut session = model.session(1, 64);
            let mut start = 0;
            for size in pieces.into_iter().filter(|size| *size > 0) {
                // A wrong draft first, never kept: it must leave no trace.
                let wrong = Rows::chain(&tokens[..5]);
                session.forward(&[Work { slot: 0, place: Place::End, rows: &wrong, first_output: 0 }]);
                let rows = Rows::chain(&tokens[start..start + size]);
                let predictions =
                    session.forward(&[Work { slot: 0, place: Place::End, rows: &rows, first_output: 0 }]);
                session.keep(0, &(0..size).collect::<Vec<_>>());
                for row in 0..size {
                    let off = difference(&*predictions, row, &whole.get((start + row) as i64));
                    assert!(off <= LOGITS_TOLERANCE, "{case} {pieces:?}, token {}: {off}", start + row);
                }
                start += size;
            }
        }
    }
}

/// The predictions for the rows of a wide pass equal those of narrow passes, bit for bit.
#[test]
fn wide_and_narrow_passes_predict_the_same() {
    for dtype in [Dtype::Float32, Dtype::Bfloat16] {
        let model = load(&golden("models/tiny_llama"), dtype).unwrap().transformer;
        let texts: Vec<Rows> = (1..=6)
            .map(|step| Rows::chain(&(0..24).map(|i| i * 7 * step % 97).collect::<Vec<_>>()))
            .collect();
        let work = |slot: usize| Work { slot, place: Place::End, rows: &texts[slot], first_output: 0 };
        let all: Vec<Work> = (0..texts.len()).map(work).collect();
        let wide = model.session(texts.len(), 64).forward(&all);
        for (slot, text) in texts.iter().enumerate() {
            let alone = Work { slot: 0, place: Place::End, rows: text, first_output: 0 };
            let narrow = model.session(1, 64).forward(&[alone]);
            assert_eq!(narrow.greedy(), wide.greedy()[24 * slot..][..24], "{dtype:?}");
            let rows = [1, 5, 23];
            assert_eq!(narrow.top(&rows, 3), wide.top(&rows.map(|row| 24 * slot + row), 3), "{dtype:?}");
            assert!(wide.top(&[], 3).is_empty());
        }
    }
}

/// Every row of a token tree has the logits of its own path, several sequences in one pass do not touch each other, and
/// a path that is kept counts as if it had been fed alone.
#[test]
fn branches_and_neighbours_compute_as_if_alone() {
    for case in CASES {
        let model = load(&golden("models").join(case), Dtype::Float32).unwrap().transformer;
        let mut session = model.session(3, 64);
        let prompts: [&[u32]; 3] = [&[5, 6, 7], &[8], &[9, 3, 1, 4, 1, 5]];
        let fed: Vec<Rows> = prompts.iter().map(|prompt| Rows::chain(prompt)).collect();
        let work = |slot: usize, rows| Work { slot, place: Place::End, rows, first_output: 0 };
        session.forward(&[work(0, &fed[0]), work(1, &fed[1]), work(2, &fed[2])]);
        for (slot, prompt) in prompts.iter().enumerate() {
            session.keep(slot, &(0..prompt.len()).collect::<Vec<_>>());
        }
        let mut tree = Rows::chain(&[10, 11, 12]);
        let branch = tree.push(13, Some(0));
        let leaf = tree.push(14, Some(branch));
        tree.push(15, Some(1));
        let run = Rows::chain(&[20, 21]);
        let predictions = session
            .forward(&[work(2, &tree), Work { slot: 0, place: Place::End, rows: &run, first_output: 1 }]);
        let path_tokens = |row: usize| tree.path(row).iter().map(|&at| tree.tokens()[at]).collect::<Vec<_>>();
        for row in 0..tree.len() {
            let alone = [prompts[2], &path_tokens(row)].concat();
            let off =
                difference(&*predictions, row, &plain_logits(&model, &alone).get(alone.len() as i64 - 1));
            assert!(off <= LOGITS_TOLERANCE, "{case}, row {row}: {off}");
        }
        let alone = plain_logits(&model, &[prompts[0], &[20, 21]].concat());
        assert!(
            difference(&*predictions, tree.len(), &alone.get(4)) <= LOGITS_TOLERANCE,
            "{case}: neighbour"
        );
        session.keep(2, &tree.path(leaf));
        assert_eq!(session.cached(2), prompts[2].len() + 3);
        let next = Rows::chain(&[30]);
        let predictions = session.forward(&[work(2, &next)]);
        let alone = plain_logits(&model, &[prompts[2], &path_tokens(leaf), &[30]].concat());
        assert!(difference(&*predictions, 0, &alone.get(-1)) <= LOGITS_TOLERANCE, "{case}: after the branch");
    }
}

#[test]
fn a_saved_model_loads_equal_in_one_file_and_in_shards() {
    let rows = [
        ("tiny_llama", usize::MAX),
        ("tiny_llama", 40_000),
        ("tiny_qwen2", 1),
        ("tiny_qwen3", usize::MAX),
        ("tiny_qwen2_yarn", usize::MAX),
        ("tiny_qwen3_yarn", usize::MAX),
        ("tiny_mistral", 9_000),
    ];
    for (case, max_bytes) in rows {
        let dir = golden("models").join(case);
        let model = load(&dir, Dtype::Float32).unwrap().transformer;
        let out = crate::support::scratch();
        let config = &model.architecture().config_json;
        jacobi_model::save_model(out.path(), config, model.parameters(), model.kind(), max_bytes).unwrap();
        assert_eq!(out.path().join("model.safetensors").exists(), max_bytes == usize::MAX);
        let again = load(out.path(), Dtype::Float32).unwrap().transformer;
        assert_eq!(again.parameters().len(), model.parameters().len());
        for field in ["rope_theta", "rope_scaling", "rope_parameters"] {
            assert_eq!(again.architecture().config_json.get(field), config.get(field), "{case}: {field}");
        }
        for ((name, a), (other, b)) in model.parameters().iter().zip(again.parameters()) {
            assert!(name == other && a.equal(b), "{case}: {name}");
        }
    }
}
