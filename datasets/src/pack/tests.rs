//! Packing against a naive re-derivation, and its rules one by one.

use proptest::prelude::*;

use super::*;
use crate::noise::ScheduleKind;
use crate::schema::trajectory::State;

fn state(block: u32, iteration: u32, converged: u32, tail: &[u32]) -> State {
    State { block, iteration, converged, tail: tail.to_vec() }
}

/// Prompt 1 2 3, response 10 .. 10+len, blocks of 4.
fn sample(len: u32, finish_reason: FinishReason, states: Vec<State>) -> Trajectory {
    Trajectory {
        sample_id: "s".to_owned(),
        prompt_tokens: vec![1, 2, 3],
        response_tokens: (10..10 + len).collect(),
        finish_reason,
        states,
    }
}

fn config(window_size: usize, schedule: ScheduleKind) -> PackConfig {
    let noise = NoiseScheduleConfig { schedule, ..Default::default() };
    PackConfig { window_size, noise, ..Default::default() }
}

fn ar(packed: &PackedSample) -> Vec<(usize, u32)> {
    packed.ar.iter().map(|target| (target.row, target.token)).collect()
}

/// (student, teacher, block, distance)
fn pc(packed: &PackedSample) -> Vec<(usize, usize, usize, usize)> {
    packed.pc.iter().map(|pair| (pair.student, pair.teacher, pair.block, pair.distance)).collect()
}

#[test]
fn a_ragged_sample_that_ends_in_eos() {
    let states =
        vec![state(0, 0, 1, &[7, 7, 7]), state(0, 1, 4, &[]), state(1, 0, 1, &[8]), state(1, 1, 2, &[])];
    let packed =
        pack(&sample(6, FinishReason::Eos, states), 4, &config(1, ScheduleKind::Constant), 0).unwrap();
    // Rows:                     0  1  2  3   4   5   6   7   8   9   10 11 12 13  14
    assert_eq!(packed.tokens, [1, 2, 3, 10, 11, 12, 13, 14, 15, 10, 7, 7, 7, 14, 8]);
    assert_eq!(packed.tokens.len(), packed.layout.len());
    assert_eq!(ar(&packed), [(2, 10), (3, 11), (4, 12), (5, 13), (6, 14), (7, 15)]);
    // Row 14 stands for EOS: nothing is asked of it, and row 13 is before the divergence.
    assert_eq!(pc(&packed), [(10, 4, 0, 0), (11, 5, 0, 1), (12, 6, 0, 2)]);
}

#[test]
fn a_response_cut_by_length_keeps_its_last_position() {
    let states = vec![state(1, 0, 1, &[8])];
    let packed =
        pack(&sample(6, FinishReason::Length, states), 4, &config(1, ScheduleKind::Constant), 0).unwrap();
    // Block 0 has no recorded state and stands as its own fixed point.
    assert_eq!(packed.tokens[9..], [10, 11, 12, 13, 14, 8]);
    assert_eq!(pc(&packed), [(14, 8, 1, 0)]);
    assert_eq!(packed.ar.len(), 6);
}

#[test]
fn divergence_is_where_tokens_differ_even_inside_a_tail() {
    // The tail repeats a right token before the first wrong one.
    let states = vec![state(0, 0, 1, &[11, 9, 13])];
    let packed =
        pack(&sample(4, FinishReason::Length, states), 4, &config(1, ScheduleKind::Constant), 0).unwrap();
    assert_eq!(pc(&packed), [(9, 5, 0, 0), (10, 6, 0, 1)]);
}

#[test]
fn the_schedule_picks_the_states() {
    let states: Vec<State> = (0..3)
        .flat_map(|block| (1..=4).map(move |c| state(block, c - 1, c, &vec![9; 4 - c as usize])))
        .collect();
    let sample = sample(12, FinishReason::Length, states);
    let noisy = |schedule| -> Vec<usize> {
        let packed = pack(&sample, 4, &config(3, schedule), 0).unwrap();
        packed.tokens[15..].chunks(4).map(|block| block.iter().filter(|&&id| id == 9).count()).collect()
    };
    assert_eq!(noisy(ScheduleKind::Linear), [0, 2, 3]);
    assert_eq!(noisy(ScheduleKind::Reverse), [3, 2, 0]);
    assert_eq!(noisy(ScheduleKind::Constant), [3, 3, 3]);
}

#[test]
fn random_choice_depends_on_seed_and_sample_only() {
    let states: Vec<State> = (0..8)
        .flat_map(|block| (1..=4).map(move |c| state(block, c - 1, c, &vec![9; 4 - c as usize])))
        .collect();
    let tokens = |id: &str, seed| {
        let sample =
            Trajectory { sample_id: id.to_owned(), ..sample(32, FinishReason::Length, states.clone()) };
        pack(&sample, 4, &config(4, ScheduleKind::Random), seed).unwrap().tokens
    };
    assert_eq!(tokens("a", 1), tokens("a", 1));
    assert_ne!(tokens("a", 1), tokens("a", 2));
    assert_ne!(tokens("a", 1), tokens("b", 1));
}

#[test]
fn without_states_only_the_clean_stream_is_packed() {
    let packed = pack(&sample(3, FinishReason::Eos, vec![]), 4, &PackConfig::default(), 0).unwrap();
    assert_eq!(packed.tokens, [1, 2, 3, 10, 11, 12]);
    assert!(!packed.layout.with_noise && packed.pc.is_empty());
    assert_eq!(packed.ar.len(), 3);
}

#[test]
fn prompt_tokens_are_targets_if_configured() {
    let asked = PackConfig { ar_prompt_tokens: true, ..config(1, ScheduleKind::Constant) };
    let packed = pack(&sample(2, FinishReason::Eos, vec![]), 4, &asked, 0).unwrap();
    // No row comes before the first token.
    assert_eq!(ar(&packed), [(0, 2), (1, 3), (2, 10), (3, 11)]);
    let without = Trajectory { prompt_tokens: vec![], ..sample(2, FinishReason::Eos, vec![]) };
    assert_eq!(ar(&pack(&without, 4, &asked, 0).unwrap()), [(0, 11)]);
    // A prompt alone teaches nothing of a response.
    let found = pack(&sample(0, FinishReason::Length, vec![]), 4, &asked, 0);
    assert_eq!(found, Err(PackError::EmptyLoss { sample_id: "s".to_owned() }));
}

/// So a model learns to stop, and to draft the end.
#[test]
fn the_stop_token_is_a_target_of_both_losses() {
    let sample = sample(6, FinishReason::Eos, vec![state(0, 0, 1, &[9; 3]), state(1, 0, 0, &[9, 9])]);
    let packed = pack(&sample, 4, &config(1, ScheduleKind::Constant), 0).unwrap();
    let (stop, before) = (*sample.response_tokens.last().unwrap(), 3 + 6 - 2);
    assert_eq!(packed.ar.last(), Some(&ArTarget { row: before, token: stop }));
    // The row before the stop token teaches what comes after it; nothing is learned from the row of the stop token.
    let last = packed.pc.last().unwrap();
    assert_eq!((last.teacher, last.student), (before, before + 6));
}

#[test]
fn a_lone_eos_has_an_ar_target_but_no_pair() {
    let packed = pack(
        &sample(1, FinishReason::Eos, vec![state(0, 0, 0, &[5])]),
        4,
        &config(1, ScheduleKind::Constant),
        0,
    );
    let packed = packed.unwrap();
    assert_eq!((ar(&packed), pc(&packed)), (vec![(2, 10)], vec![]));
}

#[test]
fn an_empty_loss_mask_names_its_sample() {
    let nothing = sample(0, FinishReason::Length, vec![]);
    let unprompted = Trajectory { prompt_tokens: vec![], ..sample(1, FinishReason::Eos, vec![]) };
    for sample in [nothing, unprompted] {
        let err = pack(&sample, 4, &PackConfig::default(), 0).unwrap_err();
        assert_eq!(err, PackError::EmptyLoss { sample_id: "s".to_owned() });
    }
}

#[test]
fn invalid_settings_and_states_are_refused() {
    let good = sample(4, FinishReason::Eos, vec![]);
    let zero = |result: Result<PackedSample, PackError>| matches!(result, Err(PackError::ZeroSize { .. }));
    assert!(zero(pack(&good, 0, &PackConfig::default(), 0)));
    assert!(zero(pack(&good, 4, &config(0, ScheduleKind::Linear), 0)));
    let mut upside_down = PackConfig::default();
    (upside_down.noise.t_min, upside_down.noise.t_max) = (0.9, 0.1);
    assert!(matches!(pack(&good, 4, &upside_down, 0), Err(PackError::NoiseRange { .. })));
    let long = sample(4, FinishReason::Eos, vec![state(0, 0, 2, &[9; 3])]);
    let expected = PackError::StateLength { sample_id: "s".to_owned(), block: 0, found: 5, expected: 4 };
    assert_eq!(pack(&long, 4, &PackConfig::default(), 0).unwrap_err(), expected);
}

/// Few token values, so that tails repeat clean tokens by chance.
fn any_sample() -> impl Strategy<Value = (Trajectory, usize)> {
    let ids = |len| proptest::collection::vec(0_u32..3, len);
    (ids(0..4), ids(1..14), any::<bool>(), 1_usize..6, ids(64..65)).prop_map(
        |(prompt_tokens, response_tokens, eos, block_size, noise)| {
            let blocks = response_tokens.chunks(block_size).enumerate();
            let states = blocks
                .flat_map(|(block, clean)| {
                    let noise = noise.clone();
                    (0..=clean.len()).map(move |c| {
                        let tail: Vec<u32> =
                            (c..clean.len()).map(|o| noise[(7 * block + 3 * c + o) % 64]).collect();
                        state(block as u32, c as u32, c as u32, &tail)
                    })
                })
                .collect();
            let finish_reason = if eos { FinishReason::Eos } else { FinishReason::Length };
            let sample_id = "p".to_owned();
            (Trajectory { sample_id, prompt_tokens, response_tokens, finish_reason, states }, block_size)
        },
    )
}

proptest! {
    /// Position by position: which rows stand at position `x`, and must they agree on what follows?
    #[test]
    fn targets_and_pairs_match_their_definition((sample, block_size) in any_sample(), window in 1_usize..5) {
        let result = pack(&sample, block_size, &config(window, ScheduleKind::Linear), 0);
        let (p, r) = (sample.prompt_tokens.len(), sample.response_tokens.len());
        let Ok(packed) = result else {
            prop_assert!(p == 0 && r == 1);
            return Ok(());
        };
        let truth = [sample.prompt_tokens.clone(), sample.response_tokens.clone()].concat();
        prop_assert_eq!(&packed.tokens[..p + r], &truth[..]);

        let mut expected_ar = Vec::new();
        let mut expected_pc = Vec::new();
        for x in 0..p + r {
            if x + 1 < p + r && x + 1 >= p {
                expected_ar.push((x, truth[x + 1]));
            }
            if x < p || (sample.finish_reason == FinishReason::Eos && x + 1 == p + r) {
                continue;
            }
            let block = (x - p) / block_size;
            let block_start = p + block * block_size;
            let wrong: Vec<usize> = (block_start..=x).filter(|&y| packed.tokens[y] != packed.tokens[y + r]).collect();
            if let Some(first) = wrong.first() {
                expected_pc.push((x + r, x, block, x - first));
            }
        }
        prop_assert_eq!(ar(&packed), expected_ar);
        prop_assert_eq!(pc(&packed), expected_pc);
        for pair in &packed.pc {
            prop_assert_eq!(packed.layout.position(pair.student), packed.layout.position(pair.teacher));
        }
    }
}
