//! Tests of `sample.rs`.

use super::*;
use jacobi_datasets::{FinishReason, State};

#[test]
fn the_mask_of_a_sample_is_the_packers() {
    let directory = std::env::temp_dir().join("no tokenizer here").display().to_string();
    let metadata = TrajectoryMetadata {
        base_model: directory,
        base_revision: String::new(),
        weight_hash: String::new(),
        tokenizer_hash: String::new(),
        block_size: 3,
        decoding: Default::default(),
        seed: 0,
        tool_version: String::new(),
    };
    let state = |block, iteration, converged, tail: &[u32]| State {
        block,
        iteration,
        converged,
        tail: tail.to_vec(),
    };
    let row = Trajectory {
        sample_id: "a".into(),
        prompt_tokens: vec![1, 2],
        response_tokens: vec![10, 11, 12, 13, 5],
        finish_reason: FinishReason::Eos,
        states: vec![state(0, 0, 1, &[90, 12]), state(1, 0, 1, &[91])],
    };
    let view =
        SampleView { sample: 0, block: None, tokenizer: None, window_size: 1, schedule: None, html: None };
    let text = show_sample(&metadata, Some(&row), 1, &view).unwrap();
    let expected = [
        "sample 0 (a): 5 autoregressive targets, 2 consistency pairs",
        "  prompt          1 2 ",
        "  block 0   clean 10 11 12 ",
        "   2 of 3   noisy 10 90 12 ",
        "  block 1   clean 13 5 ",
        "   0 of 2   noisy 13 91 ",
    ];
    assert_eq!(text.lines().take(6).collect::<Vec<_>>(), expected);
    let beyond = SampleView { sample: 7, ..view };
    assert!(show_sample(&metadata, None, 1, &beyond).unwrap_err().to_string().contains("counted from 0"));
}
