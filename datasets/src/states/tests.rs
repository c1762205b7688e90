//! Random and on-policy states by their definitions.

use proptest::prelude::*;

use super::*;
use crate::{FinishReason, PackConfig, PackedRow, PackedSample, Trajectory, pack};

/// Prompt 0 .. prompt, response 100 .. 100 + response.
fn packed(prompt: u32, response: u32, config: &PackConfig, seed: u64) -> PackedSample {
    let row = Trajectory {
        sample_id: "s".to_owned(),
        prompt_tokens: (0..prompt).collect(),
        response_tokens: (100..100 + response).collect(),
        finish_reason: FinishReason::Length,
        states: vec![],
    };
    pack(&row, usize::MAX, config, seed).unwrap()
}

fn config(source: StateSource, block_size: usize) -> PackConfig {
    PackConfig {
        states: States::One(source),
        block_size: Some(block_size),
        noisy_rows: NoisyRows::FromSecond,
        ..PackConfig::default()
    }
}

#[test]
fn states_are_a_name_or_shares() {
    let parse = |json: &str| serde_json::from_str::<States>(json);
    assert_eq!(parse("\"on_policy\"").unwrap(), States::One(StateSource::OnPolicy));
    let mixture = StateShares { trajectory: 0.0, random: 1.0, on_policy: 3.0 };
    assert_eq!(parse(r#"{"random": 1, "on_policy": 3}"#).unwrap(), States::Mixture(mixture));
    assert!(parse(r#"{"random": 1, "onpolicy": 3}"#).unwrap_err().to_string().contains("`onpolicy`"));
    assert!(parse("\"policy\"").unwrap_err().to_string().contains("unknown variant `policy`"));
    assert!(parse("3").unwrap_err().to_string().contains("a table with shares"));
    let counts = [StateSource::Trajectory, StateSource::Random, StateSource::OnPolicy]
        .map(|source| (0..1000).filter(|&seed| States::Mixture(mixture).draw(seed) == source).count());
    assert!(counts[0] == 0 && counts[1].abs_diff(250) < 50, "{counts:?}");
}

#[test]
fn blocks_begin_anywhere_and_the_text_before_the_first_counts_as_prompt() {
    let begins: std::collections::BTreeSet<usize> = (0..100)
        .map(|seed| packed(3, 10, &config(StateSource::Random, 4), seed).layout.prompt_len - 3)
        .collect();
    assert_eq!(begins.into_iter().collect::<Vec<_>>(), [0, 1, 2, 3]);
    let sample = packed(3, 10, &PackConfig { ar_prompt_tokens: true, ..config(StateSource::Random, 4) }, 1);
    let targets: Vec<u32> = sample.ar.iter().map(|target| target.token).collect();
    assert_eq!(targets, (1..3).chain(100..110).collect::<Vec<u32>>(), "autoregressive targets are the same");
}

#[test]
fn noise_is_text_before_the_block_or_any_token() {
    for seed in 0..50 {
        let sample = packed(2, 9, &config(StateSource::Random, 4), seed);
        let layout = sample.layout;
        for block in 0..layout.num_blocks() {
            let (clean, noisy) = (layout.clean_start(block), layout.noisy_start(block));
            assert_eq!(sample.tokens[noisy], sample.tokens[clean], "the first token is right");
            let noise = &sample.tokens[noisy + 1..noisy + layout.block_len(block)];
            assert!(noise.iter().all(|token| sample.tokens[..=clean].contains(token)), "{sample:?}");
        }
    }
    let vocabulary = PackConfig {
        noise_tokens: NoiseTokens::Vocabulary,
        vocabulary: 5000,
        ..config(StateSource::Random, 8)
    };
    let sample = packed(2, 64, &vocabulary, 3);
    let noise = &sample.tokens[66..];
    assert!(noise.iter().all(|&token| token < 5000) && noise.iter().any(|&token| token > 2500));
}

/// A drafter that predicts the position of the token after each row.
fn predict(row: &PackedRow) -> Vec<u32> {
    row.positions.iter().map(|&position| position as u32 + 1).collect()
}

proptest! {
    /// With a drafter that predicts positions, each noisy token that an earlier window makes is its own position.
    #[test]
    fn predictions_of_an_earlier_window_land_on_their_positions(
        prompt in 0_u32..4,
        response in 2_u32..40,
        block_size in 1_usize..9,
        seed in any::<u64>(),
    ) {
        let sample = packed(prompt, response, &config(StateSource::OnPolicy, block_size), seed);
        let other = packed(2, 13, &config(StateSource::OnPolicy, 4), seed);
        let row = PackedRow::new([&other, &sample]);
        prop_assert_eq!(row.earlier.len(), other.earlier.len() + sample.earlier.len());
        let parts = row.parts();
        let mut windows = parts.noisy.earlier.clone();
        for pass in (1..=MAX_PASSES).rev() {
            let due: Vec<&mut EarlierWindow> = windows.iter_mut().filter(|window| window.passes >= pass).collect();
            let pass_row = parts.earlier_row(due.iter().map(|window| &**window));
            let predictions = predict(&pass_row);
            for (window, run) in due.into_iter().zip(&pass_row.runs) {
                let (first, seen) = (window.text.end - 1, &run.prefix);
                prop_assert!(seen.end == window.text.end && parts.clean.clean.iter().any(|c| c.start == seen.start && c.contains(&first)));
                prop_assert_eq!(pass_row.positions[run.own.start], parts.clean.positions[first] + 1);
                let predictions = &predictions[run.own.clone()];
                let tokens = window.block_tokens(predictions);
                let positions: Vec<u32> = parts.noisy.positions[window.noisy.clone()].iter().map(|&p| p as u32).collect();
                prop_assert_eq!(tokens, &positions[..]);
                let begins = parts.noisy.positions[window.noisy.start] - parts.clean.positions[first];
                prop_assert!((2..=1 + MAX_SHIFT).contains(&begins), "{}", begins);
                window.advance(predictions);
            }
        }
        // Noise that no window reaches stays; the second token of a block does so only at the start of the response.
        for window in &sample.earlier {
            prop_assert!(window.noisy.end <= sample.tokens.len());
            let second = (0..sample.layout.num_blocks()).any(|b| window.noisy.start == sample.layout.noisy_start(b) + 1);
            prop_assert!(second || window.text.end == prompt as usize + 1);
        }
    }
}
