//! The `[train]` section.

use jacobi_datasets::{
    NoiseContext, NoiseScheduleConfig, PackConfig, RecordedSettings, ScheduleKind, Section, StateSource,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    TrainError,
    adamw::{AdamWConfig, MomentsDtype},
    adapter::AdapterSettings,
    backward::ActivationCheckpointing,
    data::CutResponses,
    loss::{LossConfig, PcNormalization, PcPositionWeight, PcTerms},
    lr::{LrCurve, LrSchedule, Warmup},
    schedule::ScalarSchedule,
    shards::Sharding,
};

/// The model whose clean logits the noisy stream learns from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TeacherModel {
    /// The trained model, in the same forward pass: the method of the paper.
    #[serde(rename = "self")]
    Own,
    /// The model that the round started from, frozen. Takes a second forward pass, and without an adapter a
    /// second copy of the weights.
    Base,
}

/// How to train. Defaults follow round 1 of arXiv 2512.14681 where they do not depend on the machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// Passes over the samples.
    pub epochs: usize,
    /// Number of optimizer steps; overrides `epochs`.
    pub max_steps: Option<usize>,
    /// Global batch size: samples per optimizer step, over all ranks. A step takes as many forward passes as
    /// `tokens_per_row` requires.
    pub batch_size: usize,
    /// Maximum tokens of a packed row, that is, of one forward pass. A row holds several samples, which do not see each
    /// other; a longer sample gets its own row. Affects memory and speed, not the result.
    pub tokens_per_row: usize,
    /// What layers keep from the forward to the backward pass.
    pub activation_checkpointing: ActivationCheckpointing,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Learning-rate schedule after the warm-up.
    pub lr_schedule: LrSchedule,
    /// Share of the steps over which the learning rate rises from 0.
    pub warmup_ratio: f64,
    /// The same as a number of steps; overrides `warmup_ratio`.
    pub warmup_steps: Option<usize>,
    /// Share of the steps over which the learning rate falls to 0 under `lr_schedule = "wsd"`.
    pub decay_ratio: f64,
    /// Decoupled weight decay, applied to matrices only.
    pub weight_decay: f64,
    /// Decay of AdamW's first moment.
    pub adam_beta1: f64,
    /// Decay of AdamW's second moment.
    pub adam_beta2: f64,
    /// Added to the root of AdamW's second moment.
    pub adam_eps: f64,
    /// Dtype of AdamW's moments.
    pub moments_dtype: MomentsDtype,
    /// State that is divided among the ranks (ZeRO 1, 2, 3). Affects memory and traffic, not the result.
    pub sharding: Sharding,
    /// Seconds that ranks wait for another rank before the run fails.
    pub dist_timeout: u64,
    /// Gradients with a greater global norm are scaled down to this norm.
    pub max_grad_norm: f64,
    /// Weight of the autoregressive loss, lambda: a number, or a schedule over the run,
    /// `{ from = 1.0, to = 0.1, curve = "cosine" }` (or `"linear"`).
    pub ar_weight: ScalarSchedule,
    /// Whether the prompt's tokens are also targets of the autoregressive loss, as in the reference code.
    pub ar_prompt_tokens: bool,
    /// Weight of the consistency loss; 0 trains an ordinary language model.
    pub pc_weight: f64,
    /// Terms of the consistency loss and their weights.
    pub pc_terms: PcTerms,
    /// Temperature of teacher and student, tau: a number, or a schedule as for `ar_weight`.
    pub temperature: ScalarSchedule,
    /// The model whose clean logits the noisy stream learns from.
    pub teacher: TeacherModel,
    /// How the consistency loss is averaged.
    pub pc_normalization: PcNormalization,
    /// Weight of a position in the consistency loss, by its distance from the divergence.
    pub pc_position_weight: PcPositionWeight,
    /// The base of `pc_position_weight = "decay"`.
    pub pc_decay: f64,
    /// Blocks per noise cycle, w.
    pub window_size: usize,
    /// In which form a noisy block sees the earlier blocks of its window.
    pub noise_context: NoiseContext,
    /// How the target noise ratio changes over a window.
    pub noise_schedule: ScheduleKind,
    /// Lowest target noise ratio, 0 to 1.
    pub min_noise_ratio: f64,
    /// Highest target noise ratio, 0 to 1.
    pub max_noise_ratio: f64,
    /// What training does with responses that were cut before their end (by `generate.max_new_tokens`, for instance):
    /// they do not teach the model to stop.
    pub cut_responses: CutResponses,
    /// Maximum tokens of a packed sample: its prompt, and its response twice, clean and noisy. Longer samples, and texts
    /// longer than the model's context, are skipped and counted.
    pub max_length: usize,
    /// Steps between checkpoints.
    pub save_steps: usize,
    /// Number of newest checkpoints to keep, besides the best one.
    pub save_total_limit: usize,
    /// Steps between lines of metrics.
    pub logging_steps: usize,
    /// Steps between evaluations, which decode held-out prompts. Without it nothing is held out.
    pub eval_steps: Option<usize>,
    /// Rows held out from training for evaluations.
    pub eval_samples: usize,
    /// Maximum tokens of a response decoded in an evaluation.
    pub eval_max_new_tokens: usize,
    /// Trains a LoRA adapter of a frozen base model. Without it all weights are trained. Default: none.
    pub adapter: Option<AdapterSettings>,
    /// By how much, in nats per token, `eval/loss_ar` of the best checkpoint may exceed that of the starting
    /// model.
    pub best_ar_tolerance: f64,
}

impl Section for TrainConfig {
    const NAME: &'static str = "train";
    const NEUTRAL: &'static [(&'static str, &'static str)] = &[
        ("tokens_per_row", "decides memory and speed; losses are averaged over the whole step"),
        ("activation_checkpointing", "decides memory and speed"),
        ("sharding", "decides memory and traffic"),
        ("dist_timeout", "decides when ranks give up waiting"),
        ("save_steps", "decides which steps are saved"),
        ("save_total_limit", "decides which checkpoints are kept"),
        ("logging_steps", "decides which steps are logged"),
        (
            "eval_steps",
            "decides which steps are evaluated; whether rows are held out at all is recorded by `eval_samples`",
        ),
        ("best_ar_tolerance", "decides which checkpoint counts as the best"),
    ];

    fn deciding(&self) -> RecordedSettings {
        let mut settings = RecordedSettings::of_section(self);
        // Older checkpoints have no record of these.
        if self.pc_terms == PcTerms::default() {
            for term in ["kl_div", "tv", "nla"] {
                settings.set(&format!("train.pc_terms.{term}"), ());
            }
        }
        // Without evaluations nothing is held out, and these two do not matter.
        settings.set("train.eval_samples", self.eval_steps.map(|_| self.eval_samples));
        settings.set("train.eval_max_new_tokens", self.eval_steps.map(|_| self.eval_max_new_tokens));
        settings
    }
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            epochs: 1,
            max_steps: None,
            batch_size: 4,
            tokens_per_row: 4096,
            activation_checkpointing: ActivationCheckpointing::None,
            learning_rate: 1e-5,
            lr_schedule: LrSchedule::Cosine,
            warmup_ratio: 0.03,
            warmup_steps: None,
            decay_ratio: 0.1,
            weight_decay: 0.0,
            adam_beta1: 0.9,
            adam_beta2: 0.95,
            adam_eps: 1e-8,
            moments_dtype: MomentsDtype::Float32,
            sharding: Sharding::None,
            dist_timeout: 600,
            max_grad_norm: 1.0,
            ar_weight: ScalarSchedule::Constant(10.0),
            ar_prompt_tokens: false,
            pc_weight: 1.0,
            pc_terms: PcTerms::default(),
            temperature: ScalarSchedule::Constant(1.0),
            teacher: TeacherModel::Own,
            pc_normalization: PcNormalization::TokenMean,
            pc_position_weight: PcPositionWeight::Uniform,
            pc_decay: 0.8,
            window_size: 16,
            noise_context: NoiseContext::Window,
            noise_schedule: ScheduleKind::Linear,
            min_noise_ratio: 0.0,
            max_noise_ratio: 1.0,
            cut_responses: CutResponses::Drop,
            max_length: 16_384,
            save_steps: 500,
            save_total_limit: 3,
            logging_steps: 1,
            eval_steps: None,
            eval_samples: 8,
            eval_max_new_tokens: 256,
            adapter: None,
            best_ar_tolerance: 0.05,
        }
    }
}

impl TrainConfig {
    /// Checks the range of every value.
    ///
    /// # Errors
    /// [`TrainError::Setting`] naming the key, the value and the rule.
    pub fn validate(&self) -> Result<(), TrainError> {
        let counts = [
            ("epochs", self.epochs),
            ("max_steps", self.max_steps.unwrap_or(1)),
            ("batch_size", self.batch_size),
            ("tokens_per_row", self.tokens_per_row),
            ("dist_timeout", self.dist_timeout as usize),
            ("window_size", self.window_size),
            ("save_steps", self.save_steps),
            ("save_total_limit", self.save_total_limit),
            ("logging_steps", self.logging_steps),
            ("eval_steps", self.eval_steps.unwrap_or(1)),
            ("eval_samples", self.eval_samples),
            ("eval_max_new_tokens", self.eval_max_new_tokens),
        ];
        for (field, value) in counts {
            check(field, value > 0, value, "must be at least 1")?;
        }
        let positive = [
            ("learning_rate", self.learning_rate),
            ("adam_eps", self.adam_eps),
            ("max_grad_norm", self.max_grad_norm),
        ];
        let temperatures = self.temperature.ends().map(|value| ("temperature", value));
        for (field, value) in positive.into_iter().chain(temperatures) {
            check(field, value > 0.0 && value.is_finite(), value, "must be a positive number")?;
        }
        let weights = [
            ("weight_decay", self.weight_decay),
            ("pc_weight", self.pc_weight),
            ("best_ar_tolerance", self.best_ar_tolerance),
        ];
        let ar_weights = self.ar_weight.ends();
        for (field, value) in weights.into_iter().chain(ar_weights.map(|value| ("ar_weight", value))) {
            check(field, value >= 0.0 && value.is_finite(), value, "must not be negative")?;
        }
        let shares = [
            ("warmup_ratio", self.warmup_ratio),
            ("decay_ratio", self.decay_ratio),
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
        let least = ar_weights[0].min(ar_weights[1]);
        let learns = least + self.pc_weight > 0.0;
        check("ar_weight", learns, least, "ar_weight and pc_weight must not both be 0")?;
        let PcTerms { kl_div, tv, nla } = self.pc_terms;
        for (field, value) in [("pc_terms.kl_div", kl_div), ("pc_terms.tv", tv), ("pc_terms.nla", nla)] {
            check(field, value >= 0.0 && value.is_finite(), value, "must not be negative")?;
        }
        let sum = kl_div + tv + nla;
        check("pc_terms", sum > 0.0, sum, "kl_div, tv and nla must not all be 0")?;
        self.adapter.as_ref().map_or(Ok(()), |adapter| adapter.validate(self))
    }

    /// Number of rows that are held out from training.
    pub fn held_out_samples(&self) -> usize {
        self.eval_steps.map_or(0, |_| self.eval_samples)
    }

    /// Whether some samples have the states of their trajectories.
    pub fn uses_recorded_states(&self) -> bool {
        self.pc_weight > 0.0
            && self.adapter.as_ref().is_none_or(|adapter| adapter.states.includes(StateSource::Trajectory))
    }

    /// How samples are packed.
    pub fn pack(&self) -> PackConfig {
        let pack = PackConfig {
            window_size: self.window_size,
            noise_context: self.noise_context,
            noise: NoiseScheduleConfig {
                schedule: self.noise_schedule,
                t_min: self.min_noise_ratio,
                t_max: self.max_noise_ratio,
            },
            ar_prompt_tokens: self.ar_prompt_tokens,
            ..PackConfig::default()
        };
        match &self.adapter {
            Some(adapter) => adapter.pack(pack),
            None => pack,
        }
    }

    /// The loss in step `step` (from 0) of `total`.
    pub fn loss_at(&self, step: usize, total: usize) -> LossConfig {
        LossConfig {
            ar_weight: self.ar_weight.at(step, total),
            pc_weight: self.pc_weight,
            pc_terms: self.pc_terms,
            temperature: self.temperature.at(step, total),
            pc_normalization: self.pc_normalization,
            pc_position_weight: self.pc_position_weight,
            pc_decay: self.pc_decay,
        }
    }

    pub(crate) fn lr_curve(&self) -> LrCurve {
        let warmup = self.warmup_steps.map_or(Warmup::Ratio(self.warmup_ratio), Warmup::Steps);
        LrCurve { schedule: self.lr_schedule, warmup, decay_ratio: self.decay_ratio }
    }

    pub(crate) fn adamw(&self) -> AdamWConfig {
        AdamWConfig {
            beta1: self.adam_beta1,
            beta2: self.adam_beta2,
            eps: self.adam_eps,
            weight_decay: self.weight_decay,
            moments: self.moments_dtype,
        }
    }
}

pub(crate) fn check(
    field: &'static str,
    holds: bool,
    value: impl ToString,
    rule: &'static str,
) -> Result<(), TrainError> {
    if holds { Ok(()) } else { Err(TrainError::Setting { field, value: value.to_string(), rule }) }
}
