//! Rows of several samples against the mask that defines them, and best fit.

use proptest::prelude::*;

use super::*;
use crate::{
    layout::NoiseContext,
    pack::{PackConfig, pack},
    schema::trajectory::{FinishReason, State, Trajectory},
};

/// Blocks of 3 whose states converge as far as told.
fn sample(
    prompt: u32,
    response: u32,
    converged: &[u32],
    window: usize,
    context: NoiseContext,
) -> PackedSample {
    let config = PackConfig { window_size: window, noise_context: context, ..PackConfig::default() };
    sample_of(prompt, response, converged, &config)
}

fn sample_of(prompt: u32, response: u32, converged: &[u32], config: &PackConfig) -> PackedSample {
    let response_tokens: Vec<u32> = (10..10 + response).collect();
    let states = response_tokens
        .chunks(3)
        .zip(converged)
        .enumerate()
        .map(|(block, (clean, &converged))| {
            let converged = converged.min(clean.len() as u32);
            let tail = vec![7; clean.len() - converged as usize];
            State { block: block as u32, iteration: 0, converged, tail }
        })
        .collect();
    let row = Trajectory {
        sample_id: "s".into(),
        prompt_tokens: (0..prompt).collect(),
        response_tokens,
        finish_reason: FinishReason::Length,
        states,
    };
    pack(&row, 3, config, 0).unwrap()
}

#[test]
fn leading_tokens_of_a_window_that_equal_the_clean_ones_are_left_out() {
    // Window 1: block 0 converged, block 1 up to its second token. Window 2: block 2 from its second token.
    let packed = sample(2, 8, &[3, 1, 1], 2, NoiseContext::Window);
    let row = PackedRow::new([&packed, &packed]);
    // p p c c c c c c c c | k1 k1 | k2, of 2 + 8 + 8 tokens.
    assert_eq!(row_len(&packed), 10 + 2 + 1);
    assert_eq!(row.tokens[..13], [0, 1, 10, 11, 12, 13, 14, 15, 16, 17, 7, 7, 7]);
    assert_eq!(row.positions[10..13], [6, 7, 9]);
    let run = |prefix, own| CausalRun { prefix, own };
    assert_eq!(row.runs[..3], [run(0..0, 0..10), run(0..6, 10..12), run(0..9, 12..13)]);
    assert_eq!(row.runs[3..], [run(13..13, 13..23), run(13..19, 23..25), run(13..22, 25..26)]);
    assert_eq!(row.losses.len(), 18);
    let student = |row, block, distance| StudentRow { row, block, distance, blocks_of_sample: 3 };
    assert_eq!(row.losses[5], LossRow { row: 6, token: Some(15), student: Some(student(10, 1, 0)) });
    assert_eq!(row.losses[8], LossRow { row: 9, token: None, student: Some(student(12, 2, 0)) });
    assert_eq!(row.losses[17].student, Some(student(25, 5, 0)));
    assert_eq!(row.seen_pairs(), 2 * (55 + 15 + 10));
    let RowParts { clean, noisy } = row.parts();
    assert_eq!(clean.tokens, [&row.tokens[..10], &row.tokens[..10]].concat());
    assert_eq!(clean.runs, [run(0..0, 0..10), run(0..0, 10..20)]);
    assert_eq!((noisy.tokens, noisy.positions), (vec![7; 6], vec![6, 7, 9, 6, 7, 9]));
    let behind = [run(0..6, 0..2), run(0..9, 2..3), run(10..16, 3..5), run(10..19, 5..6)];
    assert_eq!(noisy.runs, behind);
    let rows: Vec<usize> = noisy.losses.iter().map(|loss| loss.row).collect();
    assert_eq!(rows, [1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 18, 19]);
    let students = noisy.losses.iter().filter_map(|loss| loss.student.map(|student| (loss.row, student.row)));
    assert_eq!(students.collect::<Vec<_>>(), [(6, 0), (7, 1), (9, 2), (16, 3), (17, 4), (19, 5)]);
    let text_only = PackedSample { earlier: vec![], ..sample(2, 8, &[], 2, NoiseContext::Window) };
    let noisy = PackedRow::new([&text_only]).parts().noisy;
    assert_eq!((noisy.tokens.len(), noisy.runs), (1, vec![run(0..0, 0..1)]), "idle");
}

/// Of a drafter's window exactly the first token is left out, even where others equal the clean ones.
#[test]
fn a_drafter_computes_all_but_the_first_token_of_a_window() {
    let packed = sample_of(
        2,
        8,
        &[3, 0, 1],
        &PackConfig { window_size: 2, noisy_rows: NoisyRows::FromSecond, ..PackConfig::default() },
    );
    let row = PackedRow::new([&packed]);
    assert_eq!(row.tokens[10..], [11, 12, 7, 7, 7, 7]);
    assert_eq!(row.positions[10..], [3, 4, 5, 6, 7, 9]);
    let run = |prefix, own| CausalRun { prefix, own };
    assert_eq!(row.runs[1..], [run(0..3, 10..15), run(0..9, 15..16)]);
    let students: Vec<(usize, usize)> =
        row.losses.iter().filter_map(|loss| loss.student.map(|s| (s.row, s.distance))).collect();
    assert_eq!(students, [(12, 0), (13, 1), (14, 2), (15, 0)]);
    // A wrong first token of a window is not learned from: its row is the clean stream's.
    let config = PackConfig { window_size: 1, noisy_rows: NoisyRows::FromSecond, ..PackConfig::default() };
    let row = PackedRow::new([&sample_of(2, 8, &[0, 0, 0], &config)]);
    let students: Vec<usize> = row.losses.iter().filter_map(|loss| Some(loss.student?.row)).collect();
    assert_eq!(students, [10, 11, 12, 13, 14]);
    assert!(row.runs[1..].iter().all(|run| run.prefix.end % 3 == 0));
}

#[test]
fn best_fit_fills_the_fullest_row_that_has_room() {
    assert_eq!(fill_rows(&[3, 9, 5, 2, 12, 1], 10), [vec![4], vec![1, 5], vec![2, 0, 3]]);
    assert!(fill_rows(&[], 10).is_empty());
}

proptest! {
    #[test]
    fn every_sample_has_one_row_and_no_row_is_overfull(lengths in proptest::collection::vec(1_usize..40, 0..30), budget in 1_usize..60) {
        let rows = fill_rows(&lengths, budget);
        let mut seen: Vec<usize> = rows.iter().flatten().copied().collect();
        seen.sort_unstable();
        prop_assert_eq!(seen, (0..lengths.len()).collect::<Vec<_>>());
        for row in &rows {
            prop_assert!(row.len() == 1 || row.iter().map(|&at| lengths[at]).sum::<usize>() <= budget);
        }
    }

    /// What a kept token sees, as positions and tokens, is what the definition lets it see.
    #[test]
    fn a_row_sees_what_the_definition_says(
        prompt in 1_u32..4,
        response in 1_u32..14,
        converged in proptest::collection::vec(0_u32..4, 5),
        window in 1_usize..5,
        clean in any::<bool>(),
    ) {
        let context = if clean { NoiseContext::Clean } else { NoiseContext::Window };
        let packed = sample(prompt, response, &converged, window, context);
        let other = sample(2, 5, &[0, 2], 1, context);
        let row = PackedRow::new([&other, &packed]);
        let (base, layout) = (row_len(&other), packed.layout);
        let mut kept = Vec::new();
        for run in &row.runs {
            for q in run.own.clone().filter(|&q| q >= base) {
                let seen = run.prefix.clone().chain(run.own.start..=q);
                let found: Vec<(usize, u32)> = seen.map(|k| (row.positions[k], row.tokens[k])).collect();
                let matching = (0..layout.len()).filter(|&t| {
                    layout.position(t) == row.positions[q] && packed.tokens[t] == row.tokens[q]
                });
                let expected = matching.map(|t| {
                    let mut seen: Vec<(usize, u32)> =
                        (0..layout.len()).filter(|&k| layout.sees(t, k)).map(|k| (layout.position(k), packed.tokens[k])).collect();
                    seen.sort_unstable();
                    seen
                });
                let mut sorted = found.clone();
                sorted.sort_unstable();
                prop_assert!(expected.into_iter().any(|expected| expected == sorted), "{found:?}");
                kept.push(q);
            }
        }
        prop_assert_eq!(kept, (base..row.tokens.len()).collect::<Vec<_>>());
    }
}
