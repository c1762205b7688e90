//! Forward and backward pass over one row, without an autograd graph: the layers forward, head and loss in chunks, the
//! layers backward. Between the two passes a layer keeps its activations, or only its input. Sharded parameters are
//! gathered before a layer and released after it; the reduction of a layer's gradients starts when they are complete.
//!
//! Legend: n tokens, h hidden width, v vocabulary.

use jacobi_model::{Gradients, LayerCache, RopeTable, Transformer};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use jacobi_datasets::PackedRow;

use crate::{
    batch::Batch,
    loss::{Counts, Head, LossConfig, Losses, Teacher, dual_loss},
    shards::Shards,
    watch::RankFailure,
};

/// What a layer keeps from its forward to its backward pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ActivationCheckpointing {
    /// All tensors that the backward pass needs.
    #[default]
    None,
    /// Their input only; the backward pass recomputes the rest.
    Full,
}

/// Bytes of logits computed at a time.
pub(crate) const CHUNK_BYTES: usize = 128 << 20;

/// Computes losses and gradients of rows.
pub(crate) struct Learner<'a> {
    pub(crate) model: &'a Transformer,
    /// The teacher, where it is not the model itself.
    pub(crate) base: Option<&'a Transformer>,
    pub(crate) rope: &'a RopeTable,
    pub(crate) shards: &'a Shards,
    pub(crate) checkpointing: ActivationCheckpointing,
}

/// What a layer keeps for its backward pass.
enum Kept {
    Input(Tensor),
    Cache(LayerCache),
}

impl Learner<'_> {
    /// Returns L_ar and L_pc of `row` and, if the loss is finite, adds its gradients. `is_last`: whether this is the
    /// last pass of the step.
    ///
    /// # Errors
    /// Another rank failed.
    pub(crate) fn learn(
        &self,
        row: &PackedRow,
        config: &LossConfig,
        counts: Counts,
        is_last: bool,
    ) -> Result<(f64, f64), RankFailure> {
        tch::no_grad(|| {
            let batch = Batch::new(row, self.rope, self.model.device());
            let (kept, output_nh) = self.forward(&batch)?;
            let head = self.model.buckets_of_head();
            head.iter().try_for_each(|&bucket| self.shards.gather(bucket))?;
            let Losses { ar, pc, gradient_nh } = self.losses(row, &output_nh, config, counts);
            head.iter().for_each(|&bucket| self.shards.release(bucket));
            drop(output_nh);
            if config.total(ar, pc).is_finite() {
                self.backward(&batch, kept, gradient_nh, is_last)?;
            }
            Ok((ar, pc))
        })
    }

    fn forward(&self, batch: &Batch) -> Result<(Vec<Kept>, Tensor), RankFailure> {
        let layers = self.model.num_layers();
        let mut kept = Vec::with_capacity(layers);
        self.shards.gather(Transformer::EMBEDDING)?;
        let mut x_nh = self.model.embed(&batch.tokens_n);
        self.shards.release(Transformer::EMBEDDING);
        for layer in 0..layers {
            let bucket = self.model.bucket_of_layer(layer);
            self.shards.gather(bucket)?;
            if layer + 1 < layers {
                self.shards.prefetch(bucket + 1)?;
            }
            let cache = self.model.layer_cache(layer, &x_nh, &batch.row);
            let output = self.model.layer_output(layer, &cache);
            // The backward pass starts with the last layer, so recomputing it would save nothing.
            let recompute = self.checkpointing == ActivationCheckpointing::Full && layer + 1 < layers;
            kept.push(if recompute { Kept::Input(x_nh) } else { Kept::Cache(cache) });
            x_nh = output;
            self.shards.release(bucket);
        }
        Ok((kept, x_nh))
    }

    fn losses(&self, row: &PackedRow, output_nh: &Tensor, config: &LossConfig, counts: Counts) -> Losses {
        let vocabulary = self.model.architecture().vocab_size as usize;
        let chunk_rows = CHUNK_BYTES / (vocabulary * self.model.kind().elt_size_in_bytes());
        let mut head = ModelHead { model: self.model, gradients: self.shards.gradients() };
        let mut losses = |teacher: &Teacher| {
            dual_loss(output_nh, &mut head, teacher, &row.losses, (config, counts), chunk_rows.max(1))
        };
        let Some(base) = self.base.filter(|_| config.pc_weight > 0.0) else { return losses(&Teacher::Own) };
        let (clean, clean_rows) = row.clean_part();
        let batch = Batch::new(&clean, self.rope, base.device());
        let base_nh = base.last_layer(&batch.tokens_n, &batch.row);
        let logits = |rows: &[usize]| {
            let rows: Vec<i64> = rows.iter().map(|&row| clean_rows[row] as i64).collect();
            base.head(&base_nh.index_select(0, &Tensor::from_slice(&rows).to_device(base.device())))
        };
        losses(&Teacher::Other(&logits))
    }

    fn backward(
        &self,
        batch: &Batch,
        kept: Vec<Kept>,
        mut grad_nh: Tensor,
        is_last: bool,
    ) -> Result<(), RankFailure> {
        let gradients = self.shards.gradients();
        // The weights of a tied head are in the embedding's bucket, which is complete only after `embed_backward`.
        let untied_head =
            self.model.buckets_of_head().into_iter().filter(|&bucket| bucket != Transformer::EMBEDDING);
        untied_head.into_iter().try_for_each(|bucket| self.shards.reduce(bucket, is_last))?;
        for (layer, kept) in kept.into_iter().enumerate().rev() {
            let bucket = self.model.bucket_of_layer(layer);
            self.shards.gather(bucket)?;
            if layer > 0 {
                self.shards.prefetch(bucket - 1)?;
            }
            let cache = match kept {
                Kept::Input(x_nh) => self.model.layer_cache(layer, &x_nh, &batch.row),
                Kept::Cache(cache) => cache,
            };
            grad_nh = self.model.layer_backward(layer, cache, grad_nh, &batch.row, gradients);
            self.shards.release(bucket);
            self.shards.reduce(bucket, is_last)?;
        }
        self.model.embed_backward(&batch.tokens_n, &grad_nh, gradients);
        self.shards.reduce(Transformer::EMBEDDING, is_last)?;
        self.shards.finish_reductions()
    }
}

struct ModelHead<'a> {
    model: &'a Transformer,
    gradients: &'a Gradients,
}

impl Head for ModelHead<'_> {
    fn logits(&self, rows: &Tensor) -> Tensor {
        self.model.head(rows)
    }

    fn backward(&mut self, rows: &Tensor, grad_logits: &Tensor) -> Tensor {
        self.model.head_backward(rows, grad_logits, self.gradients)
    }
}
