//! Races whose entrants have fixed speeds.

use jacobi_decoder::WidthStats;

use super::*;

fn race(seeded: usize, challengers: usize, prompts: usize) -> Race {
    Race { seeded, challengers, prompts, objective: Objective::Tps }
}

fn decoded(tokens: usize, forwards: usize, decode_seconds: f64) -> DecodeStats {
    DecodeStats { tokens, forwards, decode_seconds, ..DecodeStats::default() }
}

/// Entrant `e` makes `speed[e]` tokens in a second.
fn run(race: Race, speed: &[usize]) -> (Vec<usize>, Vec<Turn>) {
    let mut turns = Vec::new();
    let tallies = race.run(&mut |turn| {
        turns.push(turn);
        Some(decoded(speed[turn.entrant], 1, 1.0))
    });
    assert_eq!(turns.len(), race.turns());
    (tallies.iter().map(Vec::len).collect(), turns)
}

#[test]
fn challengers_halve_while_prompts_double() {
    let check = |challengers, prompts, expected: &[(usize, usize)]| {
        let rounds = race(1, challengers, prompts).rounds();
        assert_eq!(rounds.iter().map(|r| (r.challengers, r.prompts)).collect::<Vec<_>>(), expected);
    };
    check(32, 40, &[(32, 3), (16, 5), (8, 10), (4, 20), (2, 40)]);
    check(5, 8, &[(5, 2), (3, 4), (2, 8)]);
    check(2, 8, &[(2, 8)]);
    check(0, 8, &[(0, 8)]);
    check(32, 1, &[(32, 1), (16, 1), (8, 1), (4, 1), (2, 1)]);
}

#[test]
fn the_best_challengers_and_all_defaults_reach_the_last_round() {
    let speed = [0, 1, 50, 80, 20, 70, 10, 60, 30, 40];
    let (prompts, _) = run(race(2, 8, 8), &speed);
    // Of the eight challengers 50 80 20 70 10 60 30 40, four see the second round and two the last.
    assert_eq!(prompts, [8, 8, 4, 8, 2, 8, 2, 4, 2, 2]);
    // Equals: the earlier stay.
    let (prompts, _) = run(race(1, 5, 4), &[9; 6]);
    assert_eq!(prompts, [4, 4, 4, 2, 1, 1]);
}

#[test]
fn all_take_turns_in_alternating_order_and_no_prompt_is_decoded_twice() {
    let (_, turns) = run(race(1, 3, 4), &[1, 2, 3, 4]);
    let order: Vec<(usize, usize, usize)> =
        turns.iter().map(|turn| (turn.round, turn.prompt, turn.entrant)).collect();
    let first = [(0, 0, 0), (0, 0, 1), (0, 0, 2), (0, 0, 3), (0, 1, 3), (0, 1, 2), (0, 1, 1), (0, 1, 0)];
    let second = [(1, 2, 0), (1, 2, 2), (1, 2, 3), (1, 3, 3), (1, 3, 2), (1, 3, 0)];
    assert_eq!(order, [&first[..], &second[..]].concat());
}

#[test]
fn a_race_that_is_ended_keeps_the_prompts_that_all_have_decoded() {
    let decoded_before = |turns: usize| {
        let mut left = turns;
        let stats = race(1, 3, 4).run(&mut |_| {
            left = left.checked_sub(1)?;
            Some(DecodeStats::default())
        });
        stats.iter().map(Vec::len).collect::<Vec<_>>()
    };
    // Two prompts by all four, then two by three of them.
    assert_eq!(decoded_before(7), [1, 1, 1, 1]);
    assert_eq!(decoded_before(10), [2, 2, 2, 2]);
    assert_eq!(decoded_before(11), [3, 3, 3, 2]);
    // Something must be known.
    assert_eq!(decoded_before(2), [1, 1, 0, 0]);
}

#[test]
fn a_race_shrinks_to_the_turns_that_there_is_time_for() {
    let within = |turns| {
        let race = race(2, 34, 100).within(turns);
        (race.prompts, race.challengers)
    };
    let (whole, deciding) = (race(2, 34, 100).turns(), race(2, 34, 20).turns());
    assert_eq!(within(whole), (100, 34));
    assert_eq!(within(whole - 1), (50, 34));
    assert_eq!(within(deciding), (20, 34));
    assert_eq!(within(deciding - 1), (20, 17));
    assert_eq!(within(0), (20, 2));
    // What the user limits stays limited.
    let few = race(2, 34, 8).within(50);
    assert_eq!(few.prompts, 8);
}

#[test]
fn scores_are_sums_over_sums() {
    let mut stats = [decoded(10, 5, 2.0), decoded(20, 5, 1.0), DecodeStats::default()];
    for (stats, rows) in stats.iter_mut().zip([8, 4]) {
        stats.widths = [(rows, WidthStats { forwards: 5, seconds: stats.decode_seconds })].into();
    }
    assert_eq!(stats.iter().sum::<DecodeStats>().rows(), 60);
    assert_eq!((score(&stats, Objective::Tps), score(&stats, Objective::Tpf)), (10.0, 3.0));
    assert_eq!(score(&stats[2..], Objective::Tps), 0.0);
}
