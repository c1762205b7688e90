//! One optimizer step: forward, loss, backward, update. What is stepped over, when, and what becomes of the figures is
//! the training loop's business.

use jacobi_datasets::PackedSample;
use jacobi_model::{RopeTable, Transformer};

use crate::{
    TrainConfig,
    adamw::{AdamW, clip_factor},
    batch::{Batch, Counts},
    flops::model_flops,
    loss::{LossConfig, dual_loss},
};

/// A model being trained, with all that a step changes.
pub(crate) struct Stepper<'a> {
    pub(crate) model: Transformer,
    pub(crate) optimizer: AdamW,
    rope: RopeTable,
    config: &'a TrainConfig,
}

/// What the course of the run decides about a step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StepSettings {
    pub(crate) learning_rate: f64,
    pub(crate) loss: LossConfig,
}

/// What a step did.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct StepReport {
    pub(crate) loss: f64,
    pub(crate) loss_ar: f64,
    pub(crate) loss_pc: f64,
    /// Before clipping.
    pub(crate) grad_norm: f64,
    /// Model FLOPs.
    pub(crate) flops: f64,
    /// Packed tokens.
    pub(crate) tokens: usize,
}

/// The quantity that was NaN or infinite. Neither weights nor moments were touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotFinite(pub(crate) &'static str);

impl<'a> Stepper<'a> {
    /// `longest_text`: no position lies beyond.
    pub(crate) fn new(model: Transformer, config: &'a TrainConfig, longest_text: usize) -> Self {
        let optimizer = AdamW::new(model.parameters(), config.adamw());
        Self { rope: model.rope_table(longest_text as i64), model, optimizer, config }
    }

    /// One step over `samples`, in micro-batches.
    ///
    /// # Errors
    /// A loss or gradient that is not finite, before the update.
    pub(crate) fn step(
        &mut self,
        samples: &[PackedSample],
        settings: &StepSettings,
    ) -> Result<StepReport, NotFinite> {
        let counts = Counts::of(samples, self.config);
        let mut report = StepReport::default();
        for micro_batch in samples.chunks(self.config.batch_size) {
            self.accumulate(micro_batch, counts, &settings.loss, &mut report)?;
        }
        report.grad_norm = self.optimizer.gradient_norm();
        finite("the gradient norm", report.grad_norm)?;
        let scale = clip_factor(report.grad_norm, self.config.max_grad_norm);
        self.optimizer.update(settings.learning_rate, scale);
        Ok(report)
    }

    /// Adds the loss of one forward pass to `report` and its gradient to the optimizer's.
    fn accumulate(
        &mut self,
        samples: &[PackedSample],
        counts: Counts,
        loss: &LossConfig,
        report: &mut StepReport,
    ) -> Result<(), NotFinite> {
        let batch = Batch::new(samples, counts, self.config, self.model.kind(), self.model.device());
        let rope = self.rope.at(&batch.positions_bl);
        let hidden = self.model.hidden(&batch.tokens_bl, &rope, &batch.mask);
        let rows = hidden.view([-1, self.model.architecture().hidden_size]);
        let losses = dual_loss(&rows, &|x| self.model.logits(x), &batch.plan, loss);
        report.loss += losses.total.double_value(&[]);
        report.loss_ar += losses.ar.double_value(&[]);
        report.loss_pc += losses.pc.double_value(&[]);
        finite("the loss", report.loss)?;
        losses.total.backward();
        self.optimizer.accumulate();
        report.flops += samples.iter().map(|s| model_flops(self.model.architecture(), s)).sum::<f64>();
        report.tokens += samples.iter().map(|s| s.tokens.len()).sum::<usize>();
        Ok(())
    }
}

fn finite(what: &'static str, value: f64) -> Result<(), NotFinite> {
    if value.is_finite() { Ok(()) } else { Err(NotFinite(what)) }
}
