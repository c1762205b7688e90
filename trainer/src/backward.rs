//! Forward and backward pass over one row, without an autograd graph: the layers forward, head and loss in chunks, the
//! layers backward. Between the two passes a layer keeps its activations, or only its input. Sharded parameters are
//! gathered before a layer and released after it; the reduction of a layer's gradients starts when they are complete.
//!
//! An adapter that drafts has the noisy stream as its row. A pass of the base over prompts and clean streams comes first and
//! leaves keys and values for it ([`Text`]), and the teacher's hidden states.
//!
//! Legend: n tokens, h hidden width, v vocabulary.

use std::borrow::Cow;

use jacobi_model::{Adapter, Gradients, LayerCache, LayerPass, RopeTable, Transformer};
use jacobi_torch_ext::argmax;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use jacobi_datasets::{EarlierWindow, MAX_PASSES, PackedRow, RowParts, StateSource};

use crate::{
    AdapterRows, AdapterSettings, TeacherModel,
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

/// Bytes of logits computed at a time on a CPU.
const CHUNK_BYTES: usize = 128 << 20;

/// The part of a GPU's memory that they are there. Their gradient and the copies in fp32 are several times as large.
const GPU_PART: u64 = 64;

/// Bytes of logits computed at a time, on a GPU with `total` bytes of memory; `None` for a CPU.
pub(crate) fn chunk_bytes(total: Option<u64>) -> usize {
    total.map_or(CHUNK_BYTES, |total| CHUNK_BYTES.max((total / GPU_PART) as usize))
}

/// Rows of logits of a chunk.
fn chunk_rows(bytes: usize, vocabulary: usize, kind: Kind) -> usize {
    (bytes / (vocabulary * kind.elt_size_in_bytes())).max(1)
}

/// Computes losses and gradients of rows.
pub(crate) struct Learner<'a> {
    pub(crate) model: &'a Transformer,
    /// The frozen copy of `teacher = "base"`.
    pub(crate) base: Option<&'a Transformer>,
    /// The adapter that is trained, if not the model itself, and how.
    pub(crate) adapter: Option<(&'a Adapter, &'a AdapterSettings)>,
    pub(crate) teacher: TeacherModel,
    pub(crate) rope: &'a RopeTable,
    pub(crate) shards: &'a Shards,
    pub(crate) checkpointing: ActivationCheckpointing,
    /// Bytes of logits computed at a time.
    pub(crate) chunk_bytes: usize,
}

/// What a layer keeps for its backward pass.
enum Kept {
    Input(Tensor),
    Cache(LayerCache),
}

/// One forward pass, and the backward pass over the same rows.
struct Pass<'a> {
    batch: Batch,
    /// The adapter of all rows.
    adapter: Option<&'a Adapter>,
    /// By layer, the keys and values that the prefixes of the row refer to, if those of another pass.
    context: Option<&'a [Tensor]>,
}

impl Pass<'_> {
    fn layer(&self, layer: usize) -> LayerPass<'_> {
        let context = self.context.map(|layers| &layers[layer]);
        LayerPass { row: &self.batch.row, adapter: self.adapter, context }
    }
}

/// Prompts and clean streams after their pass.
struct Text {
    /// By layer, their keys and values.
    context: Vec<Tensor>,
    output_nh: Tensor,
}

/// The hidden states that a teacher's logits come from.
struct TeacherOutput<'a> {
    model: &'a Transformer,
    output_nh: Tensor,
    /// The row of each loss.
    rows: Vec<usize>,
}

impl TeacherOutput<'_> {
    fn logits(&self, losses: &[usize]) -> Tensor {
        let rows: Vec<i64> = losses.iter().map(|&loss| self.rows[loss] as i64).collect();
        let rows = Tensor::from_slice(&rows).to_device(self.model.device());
        self.model.head(&self.output_nh.index_select(0, &rows))
    }
}

fn rows_of_losses(row: &PackedRow) -> Vec<usize> {
    row.losses.iter().map(|loss| loss.row).collect()
}

impl<'a> Learner<'a> {
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
            self.shards.gather_adapter()?;
            let (row, text) = self.with_drafts(row)?;
            let context = text.as_ref().map(|text| &text.context[..]);
            let pass = self.pass(&row, self.adapter(), context);
            let mut kept = Vec::with_capacity(self.model.num_layers());
            let output_nh = self.forward(&pass, &mut |layer, input_nh, cache| {
                // The backward pass starts with the last layer, so recomputing it would save nothing.
                let recompute = self.checkpointing == ActivationCheckpointing::Full
                    && layer + 1 < self.model.num_layers();
                kept.push(if recompute { Kept::Input(input_nh) } else { Kept::Cache(cache) });
            })?;
            let teacher = match &text {
                Some(text) => Some(self.as_teacher(&text.output_nh, &row)),
                None => self.frozen_teacher(&row, config)?,
            };
            let Losses { ar, pc, gradient_nh } =
                self.with_head(|| self.losses(&row, &output_nh, teacher.as_ref(), (config, counts)))?;
            drop((output_nh, teacher));
            if config.total(ar, pc).is_finite() {
                self.backward(&pass, kept, gradient_nh, is_last)?;
            }
            self.shards.release_adapter();
            Ok((ar, pc))
        })
    }

    fn pass<'p>(
        &self,
        row: &PackedRow,
        adapter: Option<&'p Adapter>,
        context: Option<&'p [Tensor]>,
    ) -> Pass<'p> {
        Pass { batch: Batch::new(row, self.rope, self.model.device()), adapter, context }
    }

    fn adapter(&self) -> Option<&'a Adapter> {
        self.adapter.map(|(adapter, _)| adapter)
    }

    /// The row to learn, with the states that the drafter makes, and the text that it follows if only the noisy stream is
    /// learned.
    fn with_drafts<'r>(&self, row: &'r PackedRow) -> Result<(Cow<'r, PackedRow>, Option<Text>), RankFailure> {
        let mut row = Cow::Borrowed(row);
        let Some((adapter, settings)) = self.adapter else { return Ok((row, None)) };
        let (drafts, on_policy) =
            (settings.rows == AdapterRows::Draft, settings.states.includes(StateSource::OnPolicy));
        if !drafts && !on_policy {
            return Ok((row, None));
        }
        let mut parts = row.parts();
        let text = self.read(&parts.clean, (!drafts).then_some(adapter))?;
        let made = if on_policy { self.drafts(&parts, &text)? } else { Vec::new() };
        if drafts {
            parts.noisy.set_drafts(&made);
            return Ok((Cow::Owned(parts.noisy), Some(text)));
        }
        row.to_mut().set_drafts(&made);
        Ok((row, None))
    }

    /// A pass over prompts and clean streams that keeps their keys and values.
    fn read(&self, clean: &PackedRow, adapter: Option<&Adapter>) -> Result<Text, RankFailure> {
        let mut context = Vec::with_capacity(self.model.num_layers());
        let pass = self.pass(clean, adapter, None);
        let output_nh = self.forward(&pass, &mut |layer, _, cache| {
            context.push(self.model.layer_keys_values(layer, &cache));
        })?;
        Ok(Text { context, output_nh })
    }

    /// The tokens that the drafter makes of each earlier window. All ranks make as many passes, whatever their rows need.
    fn drafts(&self, parts: &RowParts, text: &Text) -> Result<Vec<Vec<u32>>, RankFailure> {
        let mut windows = parts.noisy.earlier.clone();
        let mut drafts = vec![Vec::new(); windows.len()];
        for left in (1..=MAX_PASSES).rev() {
            let due = |window: &EarlierWindow| window.passes >= left;
            let row = parts.earlier_row(windows.iter().filter(|window| due(window)));
            let pass = self.pass(&row, self.adapter(), Some(&text.context));
            let output_nh = self.forward(&pass, &mut |_, _, _| {})?;
            let predictions = self.with_head(|| self.predictions(&output_nh))?;
            let runs = row.runs.iter().map(|run| &predictions[run.own.clone()]);
            let due = windows.iter_mut().zip(&mut drafts).filter(|(window, _)| due(window));
            for ((window, draft), predictions) in due.zip(runs) {
                *draft = window.block_tokens(predictions).to_vec();
                window.advance(predictions);
            }
        }
        Ok(drafts)
    }

    /// The most likely token behind each row.
    fn predictions(&self, output_nh: &Tensor) -> Vec<u32> {
        output_nh
            .split(self.chunk_rows() as i64, 0)
            .iter()
            .flat_map(|rows| argmax(&self.model.head(rows)))
            .collect()
    }

    /// Calls `work` with the head's parameters gathered.
    fn with_head<T>(&self, work: impl FnOnce() -> T) -> Result<T, RankFailure> {
        let head = self.model.buckets_of_head();
        head.iter().try_for_each(|&bucket| self.shards.gather(bucket))?;
        let done = work();
        head.iter().for_each(|&bucket| self.shards.release(bucket));
        Ok(done)
    }

    /// The output of the last layer. `keep` gets the input and the cache of each layer, in order.
    fn forward(
        &self,
        pass: &Pass,
        keep: &mut dyn FnMut(usize, Tensor, LayerCache),
    ) -> Result<Tensor, RankFailure> {
        let layers = self.model.num_layers();
        self.shards.gather(Transformer::EMBEDDING)?;
        let mut x_nh = self.model.embed(&pass.batch.tokens_n);
        self.shards.release(Transformer::EMBEDDING);
        for layer in 0..layers {
            let bucket = self.model.bucket_of_layer(layer);
            self.shards.gather(bucket)?;
            if layer + 1 < layers {
                self.shards.prefetch(bucket + 1)?;
            }
            let layer_pass = pass.layer(layer);
            let cache = self.model.layer_cache(layer, &x_nh, &layer_pass);
            let output = self.model.layer_output(layer, &cache, &layer_pass);
            keep(layer, x_nh, cache);
            x_nh = output;
            self.shards.release(bucket);
        }
        Ok(x_nh)
    }

    /// The model without adapter, as it has read the text of a noisy `row`.
    fn as_teacher(&self, output_nh: &Tensor, row: &PackedRow) -> TeacherOutput<'a> {
        TeacherOutput { model: self.model, output_nh: output_nh.shallow_clone(), rows: rows_of_losses(row) }
    }

    /// The teacher that is not what is trained, if there is one.
    fn frozen_teacher(
        &self,
        row: &PackedRow,
        config: &LossConfig,
    ) -> Result<Option<TeacherOutput<'a>>, RankFailure> {
        if (self.base.is_none() && self.teacher == TeacherModel::Own) || config.pc_weight == 0.0 {
            return Ok(None);
        }
        let RowParts { clean, noisy } = row.parts();
        let Some(base) = self.base else {
            let output_nh = self.forward(&self.pass(&clean, None, None), &mut |_, _, _| {})?;
            return Ok(Some(self.as_teacher(&output_nh, &noisy)));
        };
        let batch = Batch::new(&clean, self.rope, base.device());
        let output_nh = base.last_layer(&batch.tokens_n, &batch.row);
        Ok(Some(TeacherOutput { model: base, output_nh, rows: rows_of_losses(&noisy) }))
    }

    fn chunk_rows(&self) -> usize {
        chunk_rows(self.chunk_bytes, self.model.architecture().vocab_size as usize, self.model.kind())
    }

    fn losses(
        &self,
        row: &PackedRow,
        output_nh: &Tensor,
        teacher: Option<&TeacherOutput>,
        (config, counts): (&LossConfig, Counts),
    ) -> Losses {
        let mut head = ModelHead { model: self.model, gradients: self.shards.gradients() };
        let other = teacher.map(|teacher| |losses: &[usize]| teacher.logits(losses));
        let teacher = other.as_ref().map_or(Teacher::Own, |logits| Teacher::Other(logits));
        dual_loss(output_nh, &mut head, &teacher, &row.losses, (config, counts), self.chunk_rows())
    }

    fn backward(
        &self,
        pass: &Pass,
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
            let layer_pass = pass.layer(layer);
            let cache = match kept {
                Kept::Input(x_nh) => self.model.layer_cache(layer, &x_nh, &layer_pass),
                Kept::Cache(cache) => cache,
            };
            grad_nh = self.model.layer_backward(layer, cache, grad_nh, &layer_pass, gradients);
            self.shards.release(bucket);
            self.shards.reduce(bucket, is_last)?;
        }
        self.model.embed_backward(&pass.batch.tokens_n, &grad_nh, gradients);
        self.shards.reduce(Transformer::EMBEDDING, is_last)?;
        self.shards.reduce_adapter(is_last)?;
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

#[cfg(test)]
mod chunk_tests {
    use super::*;

    #[test]
    fn chunks_of_logits_grow_with_the_memory_of_a_gpu() {
        let rows = |total| chunk_rows(chunk_bytes(total), 152_064, Kind::BFloat16);
        assert_eq!(rows(None), 441);
        assert_eq!(rows(Some(8 << 30)), 441);
        assert!((4096..4500).contains(&rows(Some(80_000_000_000))));
        assert!((1000..1500).contains(&rows(Some(24 << 30))));
        assert_eq!(chunk_rows(1, 152_064, Kind::Float), 1);
    }
}
