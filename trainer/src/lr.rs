//! The learning-rate curve: linear warm-up, then one of three courses.

use serde::{Deserialize, Serialize};

/// Course after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LrSchedule {
    /// The peak, to the end.
    Constant,
    /// A straight line to 0.
    Linear,
    /// Half a cosine to 0.
    Cosine,
}

/// The factor on the peak rate at `step` (from 0) of `total`. The first step already moves: it has 1/warm-up of
/// the peak, not 0.
pub fn lr_factor(schedule: LrSchedule, warmup_ratio: f64, step: usize, total: usize) -> f64 {
    let warmup = (warmup_ratio * total as f64).ceil() as usize;
    if step < warmup {
        return (step + 1) as f64 / warmup as f64;
    }
    let progress = (step - warmup) as f64 / (total - warmup).max(1) as f64;
    match schedule {
        LrSchedule::Constant => 1.0,
        LrSchedule::Linear => 1.0 - progress,
        LrSchedule::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_curve_at_its_corners() {
        let rows = [
            (LrSchedule::Constant, 0, 10, 0.5),
            (LrSchedule::Constant, 1, 10, 1.0),
            (LrSchedule::Constant, 9, 10, 1.0),
            (LrSchedule::Linear, 2, 10, 1.0),
            (LrSchedule::Linear, 6, 10, 0.5),
            (LrSchedule::Cosine, 2, 10, 1.0),
            (LrSchedule::Cosine, 6, 10, 0.5),
        ];
        for (schedule, step, total, expected) in rows {
            let found = lr_factor(schedule, 0.2, step, total);
            assert!((found - expected).abs() < 1e-12, "{schedule:?} at {step}: {found}");
        }
        assert!((lr_factor(LrSchedule::Cosine, 0.0, 0, 1) - 1.0).abs() < 1e-12);
    }
}
