//! Noise schedules: how far from its fixed point each block of a window is shown to the student.
//!
//! Source: arXiv 2512.14681, the progressive noise schedule (there: linear, random, reverse). Departures: `constant`
//! is ours; a linear or reverse window of one block asks for `t_max`, because a one-step `linspace` would ask for
//! `t_min`, by default no noise and so no consistency loss at all.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::rng::Rng;
use crate::schema::trajectory::{State, noise_ratio};

/// How the target noise ratio moves over the blocks of a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ScheduleKind {
    /// From the least to the greatest ratio in even steps.
    #[default]
    Linear,
    /// Uniform between the least and the greatest ratio, fixed by the seed.
    Random,
    /// From the greatest down to the least ratio in even steps.
    Reverse,
    /// Always the greatest ratio.
    Constant,
}

/// The schedule and its range. A noise ratio is 0 at the fixed point and 1 where no token is right yet.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NoiseScheduleConfig {
    /// Shape of the cycle.
    pub schedule: ScheduleKind,
    /// Least target noise ratio, in 0..=1.
    pub t_min: f64,
    /// Greatest target noise ratio, in 0..=1.
    pub t_max: f64,
}

impl Default for NoiseScheduleConfig {
    fn default() -> Self {
        Self { schedule: ScheduleKind::Linear, t_min: 0.0, t_max: 1.0 }
    }
}

impl NoiseScheduleConfig {
    /// Whether `0 <= t_min <= t_max <= 1`.
    pub fn is_valid(&self) -> bool {
        0.0 <= self.t_min && self.t_min <= self.t_max && self.t_max <= 1.0
    }

    /// Target noise ratio of block `block` in windows of `window` blocks. `seed` matters to the random schedule only.
    ///
    /// # Panics
    /// When `window` is 0.
    pub fn target(&self, block: usize, window: usize, seed: u64) -> f64 {
        assert!(window > 0, "a window of 0 blocks");
        let Self { t_min, t_max, .. } = *self;
        let fraction = match self.schedule {
            ScheduleKind::Constant => return t_max,
            ScheduleKind::Random => Rng::new(&[seed, block as u64]).next_f64(),
            ScheduleKind::Linear | ScheduleKind::Reverse if window == 1 => 1.0,
            ScheduleKind::Linear => (block % window) as f64 / (window - 1) as f64,
            ScheduleKind::Reverse => 1.0 - (block % window) as f64 / (window - 1) as f64,
        };
        t_min + (t_max - t_min) * fraction
    }
}

/// The state of a block of `block_len` tokens whose noise ratio is nearest to `target`; of equals the earlier one.
/// `None` when there is no state.
pub fn choose_state<'a>(
    states: impl Iterator<Item = &'a State>,
    block_len: usize,
    target: f64,
) -> Option<&'a State> {
    let mut best: Option<(&State, f64)> = None;
    for state in states {
        let candidate = distance(state.converged as usize, block_len, target);
        if best.is_none_or(|(_, least)| candidate < least) {
            best = Some((state, candidate));
        }
    }
    best.map(|(state, _)| state)
}

/// Whether [`choose_state`] will choose the state with so many converged tokens or one before it, whatever comes after:
/// every iteration makes at least one more token right.
pub fn is_settled(converged: usize, block_len: usize, target: f64) -> bool {
    distance(converged + 1, block_len, target) >= distance(converged, block_len, target)
}

/// Whether [`choose_state`] will choose the fixed point, whatever comes before.
pub fn wants_fixed_point(block_len: usize, target: f64) -> bool {
    block_len > 0 && distance(block_len, block_len, target) < distance(block_len - 1, block_len, target)
}

fn distance(converged: usize, block_len: usize, target: f64) -> f64 {
    (noise_ratio(converged, block_len) - target).abs()
}

#[cfg(test)]
mod tests {
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
    fn what_is_known_of_the_choice_beforehand_is_what_is_chosen() {
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
}
