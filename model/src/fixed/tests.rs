//! When passes are recorded, what happens where they cannot be, and what is read of their results.

use std::sync::atomic::{AtomicUsize, Ordering};

use jacobi_torch_ext::GpuError;
use tch::Device;

use super::*;
use crate::{DecodingModel, Dtype, LanguageModel, Place, Session, Work, set_graphs};

static ATTEMPTS: AtomicUsize = AtomicUsize::new(0);
static WARNINGS: AtomicUsize = AtomicUsize::new(0);

/// Computes the pass, as a GPU does before it records, and fails.
fn cannot_record(_: Device, _: &GraphPool, work: &mut dyn FnMut()) -> Result<Option<Graph>, GpuError> {
    ATTEMPTS.fetch_add(1, Ordering::Relaxed);
    work();
    Err(GpuError("operation not permitted when stream is capturing".to_owned()))
}

fn warn(text: &str) {
    assert!(text.contains("a pass of 512 rows") && text.contains("not permitted"), "{text}");
    WARNINGS.fetch_add(1, Ordering::Relaxed);
}

/// The most probable tokens after three pieces of text.
fn predicted(mut session: Box<dyn Session + '_>) -> Vec<Vec<u32>> {
    let pieces: [&[u32]; 3] = [&[1, 2, 3], &[4, 5, 6, 7, 8], &[9]];
    let piece = |tokens: &[u32]| {
        let rows = Rows::chain(tokens);
        let work = Work { slot: 0, place: Place::End, rows: &rows, first_output: 0 };
        let greedy = session.forward(&[work]).greedy();
        session.keep(0, &(0..tokens.len()).collect::<Vec<_>>());
        greedy
    };
    pieces.map(piece).to_vec()
}

fn random_model() -> Transformer {
    let dir = tempfile::tempdir().unwrap();
    let config = serde_json::json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 97, "hidden_size": 32,
        "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "rms_norm_eps": 1e-5, "max_position_embeddings": 256, "rope_theta": 10000.0, "hidden_act": "silu",
        "tie_word_embeddings": true
    });
    fs_err::write(dir.path().join("config.json"), config.to_string()).unwrap();
    Transformer::random(dir.path(), Dtype::Float32, 3).unwrap()
}

#[test]
fn a_pass_that_cannot_be_recorded_is_run_and_all_are_tried_when_a_session_opens() {
    let model = random_model();
    let expected = predicted(model.session(1, 64));

    set_graphs(true, warn);
    let fixed = DecodingModel::with_fixed_shapes(&model).recorded_by(cannot_record);
    drop(fixed.session(1, 64));
    let opened = ATTEMPTS.load(Ordering::Relaxed);
    assert_eq!(opened, 2 * WIDTHS.len());
    for _ in 0..2 {
        assert_eq!(predicted(fixed.session(1, 64)), expected);
    }
    assert_eq!(ATTEMPTS.load(Ordering::Relaxed), opened);
    assert_eq!(WARNINGS.load(Ordering::Relaxed), 1);

    set_graphs(false, warn);
    let without = DecodingModel::with_fixed_shapes(&model).recorded_by(cannot_record);
    assert_eq!(predicted(without.session(1, 64)), expected);
    assert_eq!(ATTEMPTS.load(Ordering::Relaxed), opened);
}

#[test]
fn the_logits_of_a_row_are_its_own_whichever_was_asked_before() {
    let model = random_model();
    let tokens: Vec<u32> = (0..40).collect();
    let rows = Rows::chain(&tokens);
    let mut session = model.session(1, 64);
    let predictions = session.forward(&[Work { slot: 0, place: Place::End, rows: &rows, first_output: 0 }]);
    let greedy = predictions.greedy();
    for row in [0, 39, 16, 15, 31, 7, 32] {
        let logits = predictions.logits(row);
        let best = (0..97).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
        assert_eq!((logits.len(), best as u32), (97, greedy[row]), "row {row}");
    }
    assert!(greedy[0] != greedy[8] && greedy[7] != greedy[39], "rows that cannot be told apart");
}
