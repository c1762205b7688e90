//! Samples that the tests of this crate share.

use jacobi_datasets::FinishReason;
use jacobi_datasets::schema::eval_row::{EvalSample, EvalWidth, ModelRole};
use serde_json::Map;

/// A sample of `tokens` response tokens, half a second of prefill over one prompt token.
pub(crate) fn sample(decoder: &str, tokens: usize, forwards: usize, seconds: f64) -> EvalSample {
    EvalSample {
        model: "m".to_owned(),
        model_role: ModelRole::Base,
        task: "none".to_owned(),
        decoder: decoder.to_owned(),
        decoder_settings: Map::new(),
        sample_id: "s".to_owned(),
        prompt: String::new(),
        prompt_tokens: 1,
        response_tokens: tokens,
        response_ids: Vec::new(),
        text: String::new(),
        pieces: Vec::new(),
        finish_reason: FinishReason::Eos,
        correct: None,
        answer: None,
        expected: None,
        failure: None,
        forwards,
        cycles: forwards,
        decode_seconds: seconds,
        prefill_seconds: 0.5,
        matches_ar: (decoder != "ar").then_some(true),
        first_divergence: None,
        divergence_gap: None,
        acceptance: vec![0, forwards],
        accepted_from: [("own".to_owned(), (tokens - 1).saturating_sub(forwards))].into(),
        limited_by: [].into(),
        widths: vec![EvalWidth { rows: 1, forwards, seconds }],
        memory_floor: None,
        sitting: 1,
        error: None,
    }
}
