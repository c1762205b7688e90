//! The `[train]` section.

use jacobi_datasets::{NoiseContext, NoiseScheduleConfig, PackConfig, ScheduleKind};
use serde::{Deserialize, Serialize};

use crate::{
    TrainError,
    adamw::AdamWConfig,
    loss::{LossConfig, PcNormalization, PcPositionWeight},
    lr::LrSchedule,
};

/// How to train. Defaults follow round 1 of arXiv 2512.14681 where they do not depend on the machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// Passes over the samples.
    pub epochs: usize,
    /// Ends earlier, or later, than `epochs` would.
    pub max_steps: Option<usize>,
    /// Samples per forward pass.
    pub batch_size: usize,
    /// Forward passes per optimizer step.
    pub gradient_accumulation_steps: usize,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Its course after the warm-up.
    pub lr_schedule: LrSchedule,
    /// Share of the steps over which the rate rises from 0.
    pub warmup_ratio: f64,
    /// Decoupled weight decay of matrices.
    pub weight_decay: f64,
    /// Decay of the first moment.
    pub adam_beta1: f64,
    /// Decay of the second moment.
    pub adam_beta2: f64,
    /// Added to the root of the second moment.
    pub adam_eps: f64,
    /// Gradients are scaled down to this norm.
    pub max_grad_norm: f64,
    /// Weight of the autoregressive loss, lambda.
    pub ar_weight: f64,
    /// Weight of the consistency loss; 0 trains an ordinary language model.
    pub pc_weight: f64,
    /// Temperature of teacher and student, tau.
    pub temperature: f64,
    /// How the consistency loss is averaged.
    pub pc_normalization: PcNormalization,
    /// How much a consistency position counts, by its distance from the divergence.
    pub pc_position_weight: PcPositionWeight,
    /// The base of `pc_position_weight = "decay"`.
    pub pc_decay: f64,
    /// Blocks per noise cycle, w.
    pub window_size: usize,
    /// What a noisy block sees of its own window.
    pub noise_context: NoiseContext,
    /// Course of the noise ratio over a window.
    pub noise_schedule: ScheduleKind,
    /// Least noise ratio.
    pub min_noise_ratio: f64,
    /// Greatest noise ratio.
    pub max_noise_ratio: f64,
    /// Packed samples longer than this many tokens are left out, and counted.
    pub max_length: usize,
    /// Steps between checkpoints.
    pub save_steps: usize,
    /// Checkpoints kept.
    pub save_total_limit: usize,
    /// Steps between lines of metrics.
    pub logging_steps: usize,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            epochs: 1,
            max_steps: None,
            batch_size: 4,
            gradient_accumulation_steps: 1,
            learning_rate: 1e-5,
            lr_schedule: LrSchedule::Cosine,
            warmup_ratio: 0.03,
            weight_decay: 0.0,
            adam_beta1: 0.9,
            adam_beta2: 0.95,
            adam_eps: 1e-8,
            max_grad_norm: 1.0,
            ar_weight: 1.0,
            pc_weight: 1.0,
            temperature: 1.0,
            pc_normalization: PcNormalization::TokenMean,
            pc_position_weight: PcPositionWeight::Uniform,
            pc_decay: 0.8,
            window_size: 16,
            noise_context: NoiseContext::Window,
            noise_schedule: ScheduleKind::Linear,
            min_noise_ratio: 0.0,
            max_noise_ratio: 1.0,
            max_length: 16_384,
            save_steps: 500,
            save_total_limit: 3,
            logging_steps: 1,
        }
    }
}

impl TrainConfig {
    /// Refuses values that no run can have.
    ///
    /// # Errors
    /// [`TrainError::Setting`] naming the key, the value and the rule.
    pub fn validate(&self) -> Result<(), TrainError> {
        let counts = [
            ("epochs", self.epochs),
            ("max_steps", self.max_steps.unwrap_or(1)),
            ("batch_size", self.batch_size),
            ("gradient_accumulation_steps", self.gradient_accumulation_steps),
            ("window_size", self.window_size),
            ("save_steps", self.save_steps),
            ("save_total_limit", self.save_total_limit),
            ("logging_steps", self.logging_steps),
        ];
        for (field, value) in counts {
            check(field, value > 0, value, "must be at least 1")?;
        }
        let positive = [
            ("learning_rate", self.learning_rate),
            ("adam_eps", self.adam_eps),
            ("max_grad_norm", self.max_grad_norm),
            ("temperature", self.temperature),
        ];
        for (field, value) in positive {
            check(field, value > 0.0 && value.is_finite(), value, "must be a positive number")?;
        }
        let weights = [
            ("weight_decay", self.weight_decay),
            ("ar_weight", self.ar_weight),
            ("pc_weight", self.pc_weight),
        ];
        for (field, value) in weights {
            check(field, value >= 0.0 && value.is_finite(), value, "must not be negative")?;
        }
        let shares = [
            ("warmup_ratio", self.warmup_ratio),
            ("pc_decay", self.pc_decay),
            ("adam_beta1", self.adam_beta1),
            ("adam_beta2", self.adam_beta2),
            ("min_noise_ratio", self.min_noise_ratio),
            ("max_noise_ratio", self.max_noise_ratio),
        ];
        for (field, value) in shares {
            check(field, (0.0..=1.0).contains(&value), value, "must lie between 0 and 1")?;
        }
        let ordered = self.min_noise_ratio <= self.max_noise_ratio;
        check("min_noise_ratio", ordered, self.min_noise_ratio, "must not exceed max_noise_ratio")?;
        let total = self.ar_weight + self.pc_weight;
        check("ar_weight", total > 0.0, self.ar_weight, "ar_weight and pc_weight must not both be 0")
    }

    pub(crate) fn pack(&self) -> PackConfig {
        PackConfig {
            window_size: self.window_size,
            noise_context: self.noise_context,
            noise: NoiseScheduleConfig {
                schedule: self.noise_schedule,
                t_min: self.min_noise_ratio,
                t_max: self.max_noise_ratio,
            },
        }
    }

    /// Weight of a consistency pair at this distance from the divergence.
    pub(crate) fn position_weight(&self, distance: usize) -> f64 {
        match self.pc_position_weight {
            PcPositionWeight::Uniform => 1.0,
            PcPositionWeight::Decay => self.pc_decay.powi(distance as i32),
        }
    }

    pub(crate) fn loss(&self) -> LossConfig {
        LossConfig { ar_weight: self.ar_weight, pc_weight: self.pc_weight, temperature: self.temperature }
    }

    pub(crate) fn adamw(&self) -> AdamWConfig {
        AdamWConfig {
            beta1: self.adam_beta1,
            beta2: self.adam_beta2,
            eps: self.adam_eps,
            weight_decay: self.weight_decay,
        }
    }
}

fn check(
    field: &'static str,
    holds: bool,
    value: impl ToString,
    rule: &'static str,
) -> Result<(), TrainError> {
    if holds { Ok(()) } else { Err(TrainError::Setting { field, value: value.to_string(), rule }) }
}
