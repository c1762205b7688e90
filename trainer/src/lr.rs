//! The learning-rate curve: linear warm-up, then one of four schedules.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Learning-rate schedule after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LrSchedule {
    /// Stays at the peak.
    Constant,
    /// Falls to 0 in a straight line.
    Linear,
    /// Falls to 0 along half a cosine.
    Cosine,
    /// Stays at the peak, then falls to 0 in a straight line over the last steps (warmup-stable-decay,
    /// arXiv 2404.06395).
    Wsd,
}

/// A learning-rate curve over a run of any length.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct LrCurve {
    /// Schedule after the warm-up.
    pub(crate) schedule: LrSchedule,
    /// Length of the warm-up.
    pub(crate) warmup: Warmup,
    /// Share of the steps over which [`LrSchedule::Wsd`] falls.
    pub(crate) decay_ratio: f64,
}

/// Length of the warm-up, over which the rate rises from 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Warmup {
    /// A share of all steps.
    Ratio(f64),
    /// A number of steps.
    Steps(usize),
}

impl LrCurve {
    /// The factor on the peak rate at `step` (from 0) of `total`. The first step has 1/warm-up of the peak, not 0, so
    /// that it updates the weights.
    pub(crate) fn factor(&self, step: usize, total: usize) -> f64 {
        let share = |ratio: f64| (ratio * total as f64).ceil() as usize;
        let warmup = match self.warmup {
            Warmup::Ratio(ratio) => share(ratio),
            Warmup::Steps(steps) => steps,
        };
        if step < warmup {
            return (step + 1) as f64 / warmup as f64;
        }
        let remaining = total.saturating_sub(step) as f64;
        let progress = 1.0 - remaining / total.saturating_sub(warmup).max(1) as f64;
        match self.schedule {
            LrSchedule::Constant => 1.0,
            LrSchedule::Linear => 1.0 - progress,
            LrSchedule::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
            LrSchedule::Wsd => (remaining / share(self.decay_ratio).max(1) as f64).min(1.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_curve_at_its_corners() {
        let fifth = Warmup::Ratio(0.2);
        let rows = [
            (LrSchedule::Constant, fifth, 0, 0.5),
            (LrSchedule::Constant, fifth, 1, 1.0),
            (LrSchedule::Constant, fifth, 9, 1.0),
            (LrSchedule::Constant, Warmup::Steps(5), 1, 0.4),
            (LrSchedule::Constant, Warmup::Steps(0), 0, 1.0),
            (LrSchedule::Constant, Warmup::Steps(20), 9, 0.5),
            (LrSchedule::Linear, fifth, 2, 1.0),
            (LrSchedule::Linear, fifth, 6, 0.5),
            (LrSchedule::Cosine, fifth, 2, 1.0),
            (LrSchedule::Cosine, fifth, 6, 0.5),
            (LrSchedule::Wsd, fifth, 0, 0.5),
            (LrSchedule::Wsd, fifth, 2, 1.0),
            (LrSchedule::Wsd, fifth, 6, 1.0),
            (LrSchedule::Wsd, fifth, 8, 0.5),
            (LrSchedule::Wsd, fifth, 9, 0.25),
        ];
        for (schedule, warmup, step, expected) in rows {
            let found = LrCurve { schedule, warmup, decay_ratio: 0.4 }.factor(step, 10);
            assert!((found - expected).abs() < 1e-12, "{schedule:?}, {warmup:?} at {step}: {found}");
        }
        let shortest = LrCurve { schedule: LrSchedule::Cosine, warmup: Warmup::Ratio(0.0), decay_ratio: 0.0 };
        assert!((shortest.factor(0, 1) - 1.0).abs() < 1e-12);
        assert_eq!(LrCurve { schedule: LrSchedule::Wsd, ..shortest }.factor(9, 10), 1.0, "no step decays");
    }
}
