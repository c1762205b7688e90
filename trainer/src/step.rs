//! One optimizer step: forward, loss, backward, update. What is stepped over, when, and what becomes of the figures is
//! the training loop's business.

use std::sync::atomic::{AtomicBool, Ordering};

use jacobi_datasets::PackedSample;
use jacobi_model::{RopeTable, Transformer};
use jacobi_torch_ext::keep_freed_memory;

use crate::{
    TrainConfig,
    adamw::{AdamW, clip_factor},
    backward::Learner,
    batch::rows,
    flops::model_flops,
    loss::{Counts, LossConfig},
};

/// A model being trained, with all that a step changes.
pub struct Stepper<'a> {
    /// The model.
    pub model: Transformer,
    /// Its masters, moments and gradients.
    pub optimizer: AdamW,
    /// The frozen teacher of `teacher = "base"`.
    base: Option<Transformer>,
    rope: RopeTable,
    config: &'a TrainConfig,
}

/// What the course of the run decides about a step.
#[derive(Clone, Copy, Debug)]
pub struct StepSettings {
    /// Of this step.
    pub learning_rate: f64,
    /// Of this step.
    pub loss: LossConfig,
}

/// What a step did.
#[derive(Clone, Copy, Debug, Default)]
pub struct StepReport {
    /// Total loss.
    pub loss: f64,
    /// L_ar.
    pub loss_ar: f64,
    /// L_pc.
    pub loss_pc: f64,
    /// Before clipping.
    pub grad_norm: f64,
    /// Model FLOPs.
    pub flops: f64,
    /// Packed tokens.
    pub tokens: usize,
}

/// Why there was no update: neither weights nor moments were touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoStep {
    /// This quantity was NaN or infinite.
    NotFinite(&'static str),
    /// Asked to stop, between two rows.
    Stopped,
}

impl<'a> Stepper<'a> {
    /// `base` is the teacher, where it is not the model itself; no position lies beyond `longest_text`.
    pub fn new(
        model: Transformer,
        base: Option<Transformer>,
        config: &'a TrainConfig,
        longest_text: usize,
    ) -> Self {
        // Every step takes what the one before it freed.
        keep_freed_memory();
        let optimizer = AdamW::new(model.parameters(), config.adamw());
        Self { rope: model.rope_table(longest_text as i64), model, optimizer, base, config }
    }

    /// One step over `samples`. Asked to `stop`, it gives up what it has summed so far.
    ///
    /// # Errors
    /// A loss or gradient that is not finite, before the update; a wish to stop.
    pub fn step(
        &mut self,
        samples: &[PackedSample],
        settings: &StepSettings,
        stop: &AtomicBool,
    ) -> Result<StepReport, NoStep> {
        let mut report = self.accumulate(samples, &settings.loss, stop)?;
        report.grad_norm = self.optimizer.gradient_norm();
        finite("the gradient norm", report.grad_norm)?;
        let scale = clip_factor(report.grad_norm, self.config.max_grad_norm);
        self.optimizer.update(settings.learning_rate, scale);
        Ok(report)
    }

    /// The losses of `samples`, row by row, their gradients added to the optimizer's.
    ///
    /// # Errors
    /// A loss that is not finite; a wish to stop.
    pub fn accumulate(
        &self,
        samples: &[PackedSample],
        loss: &LossConfig,
        stop: &AtomicBool,
    ) -> Result<StepReport, NoStep> {
        let rows = rows(samples, self.config.tokens_per_row);
        let counts = rows.iter().map(|row| loss.counts(&row.losses));
        let counts = counts.fold(Counts::default(), |a, b| Counts { ar: a.ar + b.ar, pc: a.pc + b.pc });
        let mut report =
            StepReport { tokens: samples.iter().map(|s| s.tokens.len()).sum(), ..StepReport::default() };
        let learner = Learner {
            model: &self.model,
            base: self.base.as_ref(),
            rope: &self.rope,
            gradients: self.optimizer.gradients(),
            checkpointing: self.config.activation_checkpointing,
        };
        for row in &rows {
            if stop.load(Ordering::Relaxed) {
                return Err(NoStep::Stopped);
            }
            let (ar, pc) = learner.learn(row, loss, counts);
            report.loss_ar += ar;
            report.loss_pc += pc;
            report.loss = loss.total(report.loss_ar, report.loss_pc);
            finite("the loss", report.loss)?;
            report.flops += model_flops(self.model.architecture(), row);
        }
        Ok(report)
    }
}

fn finite(what: &'static str, value: f64) -> Result<(), NoStep> {
    if value.is_finite() { Ok(()) } else { Err(NoStep::NotFinite(what)) }
}
