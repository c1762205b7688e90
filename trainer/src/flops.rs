//! FLOPs of a training step, and the matrix-product peak they are compared with.

use std::{
    sync::{Mutex, PoisonError},
    time::Instant,
};

use jacobi_datasets::{EarlierWindow, LossRow, PackedRow, RowParts, StateSource};
use jacobi_model::Architecture;
use jacobi_torch_ext::product;
use tch::{Device, Kind, Tensor};

use crate::{AdapterRows, TrainConfig};

/// FLOPs of forward and backward over one row: 6 per parameter and token, the head only for rows with a loss (2
/// for rows that are teachers only), attention only over pairs that see each other. Recomputation does not
/// count. A frozen parameter has no gradient: 4 per token; a row of the text before a draft has none at all: 2.
pub(crate) fn model_flops(shape: &Architecture, config: &TrainConfig, row: &PackedRow) -> f64 {
    let Some(adapter) = &config.adapter else { return trained_flops(shape, row) };
    let low_rank = adapter.shape().parameter_count(shape) as f64;
    let RowParts { clean, noisy } = row.parts();
    let forward = |tokens: usize, low_rank: f64, pairs: usize| {
        2.0 * (layers_of(shape) + low_rank) * tokens as f64 + 4.0 * attention_of(shape) * pairs as f64
    };
    let drafts_alone = adapter.rows == AdapterRows::Draft;
    let text = forward(clean.tokens.len(), if drafts_alone { 0.0 } else { low_rank }, clean.seen_pairs());
    let earlier: f64 = noisy.earlier.iter().map(|window| earlier_flops(shape, low_rank, window)).sum();
    let learned = if drafts_alone { &noisy } else { row };
    let tokens = learned.tokens.len() as f64;
    let backward = (2.0 * layers_of(shape) + 4.0 * low_rank) * tokens
        + 8.0 * attention_of(shape) * learned.seen_pairs() as f64;
    let reads_text = drafts_alone || adapter.states.includes(StateSource::OnPolicy);
    let students = row.losses.iter().filter(|loss| loss.student.is_some()).count() as f64;
    let targets = row.losses.iter().filter(|loss| loss.token.is_some()).count() as f64;
    // Teachers forward, students forward and back to their hidden states, autoregressive targets too.
    let head = match drafts_alone {
        true => 6.0 * students,
        false => 4.0 * students + 4.0 * targets,
    };
    forward(learned.tokens.len(), low_rank, learned.seen_pairs())
        + backward
        + if reads_text { text + earlier } else { 0.0 }
        + head * (shape.hidden_size * shape.vocab_size) as f64
}

/// The passes of the drafter over an earlier window.
fn earlier_flops(shape: &Architecture, low_rank: f64, window: &EarlierWindow) -> f64 {
    let (rows, seen) = (window.tokens.len(), window.text.len());
    let pairs = rows * seen + rows * (rows + 1) / 2;
    let head = (shape.hidden_size * shape.vocab_size) as f64;
    let pass =
        2.0 * (layers_of(shape) + low_rank + head) * rows as f64 + 4.0 * attention_of(shape) * pairs as f64;
    window.passes as f64 * pass
}

/// Parameters of the linear layers.
fn layers_of(shape: &Architecture) -> f64 {
    let heads = (shape.num_attention_heads * shape.head_dim) as f64;
    let kv_heads = (shape.num_key_value_heads * shape.head_dim) as f64;
    let hidden = shape.hidden_size as f64;
    let layer = hidden * (2.0 * heads + 2.0 * kv_heads) + 3.0 * hidden * shape.intermediate_size as f64;
    shape.num_hidden_layers as f64 * layer
}

/// Widths of all heads of all layers.
fn attention_of(shape: &Architecture) -> f64 {
    (shape.num_hidden_layers * shape.num_attention_heads * shape.head_dim) as f64
}

fn trained_flops(shape: &Architecture, row: &PackedRow) -> f64 {
    let head_flops = |loss: &LossRow| {
        let clean = if loss.token.is_some() { 6.0 } else { 2.0 };
        clean + if loss.student.is_some() { 6.0 } else { 0.0 }
    };
    6.0 * layers_of(shape) * row.tokens.len() as f64
        + 12.0 * attention_of(shape) * row.seen_pairs() as f64
        + row.losses.iter().map(head_flops).sum::<f64>() * (shape.hidden_size * shape.vocab_size) as f64
}

/// FLOP/s of a square matrix product in `kind` by the kernel that training uses: the best within a third of a second,
/// measured once per process.
pub(crate) fn gemm_peak(kind: Kind, device: Device) -> f64 {
    static MEASURED: Mutex<Vec<((Kind, Device), f64)>> = Mutex::new(Vec::new());
    let mut measured = MEASURED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, peak)) = measured.iter().find(|(of, _)| *of == (kind, device)) {
        return *peak;
    }
    let peak = measure_gemm(kind, device);
    measured.push(((kind, device), peak));
    peak
}

/// The peak that the steps of a run are compared with.
pub(crate) struct Peak {
    kind: Kind,
    device: Device,
    flops_per_second: f64,
}

impl Peak {
    /// The peak of `device` in `kind`, as [`gemm_peak`].
    pub(crate) fn of(kind: Kind, device: Device) -> Self {
        Self { kind, device, flops_per_second: gemm_peak(kind, device) }
    }

    /// `rate`, in FLOP/s, as a share of the peak, at most 1. A step that beats the peak has it measured again: the first
    /// measurement may have met a busy machine.
    pub(crate) fn share(&mut self, rate: f64) -> f64 {
        if rate > self.flops_per_second {
            self.flops_per_second = measure_gemm(self.kind, self.device).max(rate);
        }
        rate / self.flops_per_second
    }
}

fn measure_gemm(kind: Kind, device: Device) -> f64 {
    // Large enough for a GPU to reach its peak, small enough for a CPU to finish in time.
    let size: i64 = if device == Device::Cpu { 1024 } else { 8192 };
    let a = Tensor::ones([size, size], (kind, device));
    let (begun, mut fastest) = (Instant::now(), f64::INFINITY);
    while begun.elapsed().as_secs_f64() < 0.3 || fastest.is_infinite() {
        let started = Instant::now();
        // Reading one element waits for the product.
        let _ = tch::no_grad(|| product(&a, &a, None)).double_value(&[0, 0]);
        fastest = fastest.min(started.elapsed().as_secs_f64());
    }
    2.0 * (size as f64).powi(3) / fastest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_step_is_faster_than_the_peak() {
        let mut peak = Peak { kind: Kind::Float, device: Device::Cpu, flops_per_second: 2.0 };
        assert_eq!(peak.share(1.0), 0.5);
        let share = peak.share(3.0);
        assert!(share < 0.01, "the peak is measured again, and is more than 300 FLOP/s: {share}");
        assert_eq!(peak.share(f64::MAX), 1.0);
    }
}
