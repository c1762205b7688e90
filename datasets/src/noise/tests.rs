//! Targets of the schedules, the chosen state, and what can be said of it early.

use super::*;

fn targets(schedule: ScheduleKind, t_min: f64, t_max: f64, window: usize) -> Vec<f64> {
    let config = NoiseScheduleConfig { schedule, t_min, t_max };
    (0..6).map(|block| config.target(block, window, 0)).collect()
}

#[test]
fn targets_cycle_with_the_window() {
    use ScheduleKind::{Constant, Linear, Reverse};
    for (schedule, t_min, t_max, window, expected) in [
        (Linear, 0.0, 1.0, 3, [0.0, 0.5, 1.0, 0.0, 0.5, 1.0]),
        (Linear, 0.25, 0.75, 3, [0.25, 0.5, 0.75, 0.25, 0.5, 0.75]),
        (Linear, 0.0, 1.0, 2, [0.0, 1.0, 0.0, 1.0, 0.0, 1.0]),
        (Linear, 0.0, 1.0, 11, [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]),
        (Linear, 0.2, 0.8, 1, [0.8; 6]),
        (Reverse, 0.0, 1.0, 3, [1.0, 0.5, 0.0, 1.0, 0.5, 0.0]),
        (Reverse, 0.2, 0.8, 1, [0.8; 6]),
        (Constant, 0.1, 0.6, 3, [0.6; 6]),
    ] {
        let found = targets(schedule, t_min, t_max, window);
        let close = found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12);
        assert!(close, "{schedule:?} {t_min}..{t_max} w={window}: {found:?} is not {expected:?}");
    }
}

#[test]
fn random_targets_are_fixed_by_seed_and_block_and_stay_in_range() {
    let config = NoiseScheduleConfig { schedule: ScheduleKind::Random, t_min: 0.2, t_max: 0.5 };
    let run = |seed| -> Vec<f64> { (0..200).map(|block| config.target(block, 4, seed)).collect() };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
    assert!(run(1).iter().all(|t| (0.2..=0.5).contains(t)));
    let mean = run(1).iter().sum::<f64>() / 200.0;
    assert!((mean - 0.35).abs() < 0.02, "{mean}");
}

#[test]
fn nearest_state_wins_and_ties_go_to_the_earlier() {
    let state = |iteration: u32, converged: u32| State {
        block: 0,
        iteration,
        converged,
        tail: vec![9; 4 - converged as usize],
    };
    // Noise ratios 0.75, 0.5, 0.5, 0.
    let states = [state(0, 1), state(1, 2), state(2, 2), state(3, 4)];
    for (target, expected) in
        [(1.0, 0), (0.7, 0), (0.625, 0), (0.5, 1), (0.26, 1), (0.25, 1), (0.2, 3), (0.0, 3)]
    {
        let chosen = choose_state(states.iter(), 4, target).map(|state| state.iteration);
        assert_eq!(chosen, Some(expected), "target {target}");
    }
    assert_eq!(choose_state([].iter(), 4, 0.5), None);
}

#[test]
fn early_decisions_equal_the_choice_among_all_states() {
    let state = |converged: usize, len: usize| State {
        block: 0,
        iteration: converged as u32,
        converged: converged as u32,
        tail: vec![9; len - converged],
    };
    for (len, target) in (1..9).flat_map(|len| (0..=48).map(move |t| (len, f64::from(t) / 48.0))) {
        // Whatever states there are: all of them behind some, and the fixed point, or that one alone.
        let of = |passed: &[usize]| {
            let states: Vec<State> = passed.iter().map(|&converged| state(converged, len)).collect();
            choose_state(states.iter(), len, target).unwrap().converged as usize
        };
        for right in 0..len {
            let later: Vec<usize> = (right + 1..=len).filter(|&at| of(&[right, at]) == at).collect();
            assert_eq!(is_settled(right, len, target), later.is_empty(), "{right} of {len}, {target}");
        }
        let never = (0..len).all(|right| of(&[right, len]) == len);
        assert_eq!(wants_fixed_point(len, target), never, "{len}, {target}");
    }
}

#[test]
fn ranges_outside_zero_to_one_are_not_valid() {
    for (t_min, t_max, expected) in [
        (0.0, 1.0, true),
        (0.5, 0.5, true),
        (0.6, 0.5, false),
        (-0.1, 1.0, false),
        (0.0, 1.1, false),
        (f64::NAN, 1.0, false),
    ] {
        let config = NoiseScheduleConfig { t_min, t_max, ..Default::default() };
        assert_eq!(config.is_valid(), expected, "{t_min}..{t_max}");
    }
}
