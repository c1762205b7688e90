//! Noise schedules: which recorded state of each block becomes its noisy block.
//!
//! The schedule gives block j of a window of w blocks a target noise ratio t_j, and the state with the
//! nearest ratio is chosen. Example: `linear` with w = 3 has the targets 0, 0.5, 1, 0, 0.5, 1, .. A block of
//! 4 tokens whose states have 1, 2 and 4 converged tokens (ratios 0.75, 0.5, 0) enters as its fixed point for
//! target 0, with 2 converged tokens for 0.5 and with 1 for 1.
//!
//! Source: arXiv 2512.14681, the progressive noise schedule (there: linear, random, reverse). Departures:
//! `constant` is ours; linear and reverse windows of one block have the target `t_max`, because a one-step
//! `linspace` would give `t_min`, by default no noise and thus no consistency loss.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::rng::Rng;
use crate::schema::trajectory::{State, noise_ratio};

/// How the target noise ratio changes over the blocks of a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ScheduleKind {
    /// Rises from the lowest to the highest ratio in even steps.
    #[default]
    Linear,
    /// Drawn uniformly between the lowest and the highest ratio, fixed by the seed.
    Random,
    /// Falls from the highest to the lowest ratio in even steps.
    Reverse,
    /// Always the highest ratio.
    Constant,
}

/// The schedule and its range. A noise ratio is 0 at the fixed point and 1 where no token is right yet.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NoiseScheduleConfig {
    /// How the target changes over a window.
    pub schedule: ScheduleKind,
    /// Smallest target noise ratio, in 0..=1.
    pub t_min: f64,
    /// Largest target noise ratio, in 0..=1.
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

    /// Target noise ratio of block `block` with windows of `window` blocks. Only the random schedule uses `seed`.
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

/// The state of a block of `block_len` tokens with the noise ratio nearest to `target`, the earlier one on a
/// tie. `None` without states.
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

/// Whether [`choose_state`] can choose no state after one with `converged` right tokens: each iteration makes at
/// least one more token right, so if one more token is not nearer to `target`, no later state is.
pub fn is_settled(converged: usize, block_len: usize, target: f64) -> bool {
    distance(converged + 1, block_len, target) >= distance(converged, block_len, target)
}

/// Whether [`choose_state`] chooses the fixed point, whatever states come before it.
pub fn wants_fixed_point(block_len: usize, target: f64) -> bool {
    block_len > 0 && distance(block_len, block_len, target) < distance(block_len - 1, block_len, target)
}

fn distance(converged: usize, block_len: usize, target: f64) -> f64 {
    (noise_ratio(converged, block_len) - target).abs()
}

#[cfg(test)]
mod tests;
