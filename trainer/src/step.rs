//! One optimizer step: forward, loss, backward, update. The training loop chooses the samples, evaluates, logs
//! and saves.

use std::sync::atomic::{AtomicBool, Ordering};

use jacobi_datasets::PackedSample;
use jacobi_model::{Adapter, Gradients, RopeTable, Transformer};
use jacobi_torch_ext::{gpu_memory, keep_freed_memory};

use crate::{
    TrainConfig,
    adamw::{AdamW, clip_factor},
    backward::{Learner, chunk_bytes},
    batch::rows,
    flops::model_flops,
    loss::{Counts, LossConfig},
    ranks::Ranks,
    shards::Shards,
    watch::RankFailure,
};

/// A model in training, with all state that a step changes.
pub struct Stepper<'a> {
    /// The model.
    pub model: Transformer,
    /// The adapter that is trained while the model is frozen, where `[train.adapter]` is set.
    pub adapter: Option<Adapter>,
    /// Master weights and moments of this rank's share.
    pub optimizer: AdamW,
    pub(crate) shards: Shards,
    /// The frozen teacher of `teacher = "base"`.
    base: Option<Transformer>,
    rope: RopeTable,
    config: &'a TrainConfig,
    /// Bytes of logits computed at a time.
    chunk_bytes: usize,
}

/// Settings that may differ from step to step.
#[derive(Clone, Copy, Debug)]
pub struct StepSettings {
    /// Learning rate.
    pub learning_rate: f64,
    /// Weights and temperature of the loss.
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
    /// Gradient norm before clipping.
    pub grad_norm: f64,
    /// Model FLOPs.
    pub flops: f64,
    /// Packed tokens of all ranks.
    pub tokens: usize,
    /// Packed tokens of this rank.
    pub own_tokens: usize,
}

/// Why a step made no update. Weights and moments are unchanged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoStep {
    /// This quantity was NaN or infinite.
    NotFinite(&'static str),
    /// This rank or another was asked to stop, between two rows.
    Stopped,
    /// Another rank failed.
    Ranks(RankFailure),
}

impl From<RankFailure> for NoStep {
    fn from(failure: RankFailure) -> Self {
        Self::Ranks(failure)
    }
}

impl<'a> Stepper<'a> {
    /// `base` is the frozen teacher of `teacher = "base"`. All positions must be below `longest_text`.
    pub fn new(
        model: Transformer,
        base: Option<Transformer>,
        config: &'a TrainConfig,
        longest_text: usize,
    ) -> Self {
        let adapter = config.adapter.as_ref().map(|adapter| adapter.start(&model, 0));
        Self::with_ranks(Ranks::alone(), (model, base), adapter, config, longest_text)
    }

    /// The same on one of several ranks, each of which has the same `model`, and the same `adapter` if one is trained.
    pub fn with_ranks(
        ranks: Ranks,
        (mut model, base): (Transformer, Option<Transformer>),
        adapter: Option<Adapter>,
        config: &'a TrainConfig,
        longest_text: usize,
    ) -> Self {
        let mut adapter = adapter.map(|start| start.to(model.architecture(), model.kind(), model.device()));
        let shards = Shards::new(&mut model, adapter.as_mut(), config.sharding, ranks);
        let optimizer = AdamW::new(shards.pieces(), config.adamw());
        let rope = model.rope_table(longest_text as i64);
        // Each step reuses the memory that the previous one freed.
        keep_freed_memory();
        let chunk_bytes = chunk_bytes(gpu_memory(model.device()).map(|memory| memory.total));
        Self { rope, model, adapter, optimizer, shards, base, config, chunk_bytes }
    }

    /// Sends the restored parameters of this rank's share to the other ranks.
    pub(crate) fn publish(&self) -> Result<(), RankFailure> {
        self.shards.publish()
    }

    /// The gradients for the next update, summed over the passes of a step.
    pub fn gradients(&self) -> &Gradients {
        self.shards.gradients()
    }

    /// One step over `samples`, which are divided among the ranks. A request to `stop` ends it without an update.
    ///
    /// # Errors
    /// A loss or gradient that is not finite; a request to stop; another rank failed.
    pub fn step(
        &mut self,
        samples: &[PackedSample],
        settings: &StepSettings,
        stop: &AtomicBool,
    ) -> Result<StepReport, NoStep> {
        let mut report = self.accumulate(samples, &settings.loss, stop)?;
        let ranks = self.shards.ranks();
        // Unsharded gradients are the same on every rank, so only rank 0 contributes them.
        let contributes = self.shards.are_gradients_sharded() || ranks.is_first();
        let squares = if contributes { self.optimizer.gradient_squares() } else { 0.0 };
        let mut sums = [report.loss_ar, report.loss_pc, report.flops, squares];
        ranks.sum(&mut sums)?;
        [report.loss_ar, report.loss_pc, report.flops, _] = sums;
        report.loss = settings.loss.total(report.loss_ar, report.loss_pc);
        report.grad_norm = sums[3].sqrt();
        finite("the gradient norm", report.grad_norm)?;
        let scale = clip_factor(report.grad_norm, self.config.max_grad_norm);
        self.optimizer.update(settings.learning_rate, scale);
        self.shards.publish()?;
        Ok(report)
    }

    /// Forward and backward passes over this rank's rows of `samples`. Returns this rank's part of the losses and adds
    /// to the gradients.
    ///
    /// # Errors
    /// A loss that is not finite; a request to stop; another rank failed.
    pub fn accumulate(
        &self,
        samples: &[PackedSample],
        loss: &LossConfig,
        stop: &AtomicBool,
    ) -> Result<StepReport, NoStep> {
        let ranks = self.shards.ranks();
        let all = rows(samples, self.config.tokens_per_row, ranks.world_size());
        let counts = all.iter().flatten().map(|row| loss.counts(&row.losses));
        let rows = &all[ranks.rank()];
        let counts = counts.fold(Counts::default(), |a, b| Counts { ar: a.ar + b.ar, pc: a.pc + b.pc });
        let mut report =
            StepReport { tokens: samples.iter().map(|s| s.tokens.len()).sum(), ..StepReport::default() };
        report.own_tokens = rows.iter().map(|row| row.tokens.len()).sum();
        let learner = Learner {
            model: &self.model,
            base: self.base.as_ref(),
            adapter: self.adapter.as_ref().zip(self.config.adapter.as_ref()),
            teacher: self.config.teacher,
            rope: &self.rope,
            shards: &self.shards,
            checkpointing: self.config.activation_checkpointing,
            chunk_bytes: self.chunk_bytes,
        };
        for (at, row) in rows.iter().enumerate() {
            if ranks.any(stop.load(Ordering::Relaxed))? {
                return Err(NoStep::Stopped);
            }
            let (ar, pc) = learner.learn(row, loss, counts, at + 1 == rows.len())?;
            report.loss_ar += ar;
            report.loss_pc += pc;
            report.loss = loss.total(report.loss_ar, report.loss_pc);
            finite("the loss", report.loss)?;
            report.flops += model_flops(self.model.architecture(), self.config, row);
        }
        Ok(report)
    }
}

fn finite(what: &'static str, value: f64) -> Result<(), NoStep> {
    if value.is_finite() { Ok(()) } else { Err(NoStep::NotFinite(what)) }
}
