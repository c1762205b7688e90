//! Packed samples to tensors: one row per sample, padded to the longest, with a dense mask.
//!
//! Legend: b samples, l tokens of the longest.

use jacobi_datasets::PackedSample;
use jacobi_model::AttentionMask;
use tch::{Device, Kind, Tensor};

use crate::{
    config::TrainConfig,
    loss::{LossPlan, PcNormalization},
};

/// One forward pass worth of samples.
pub(crate) struct Batch {
    /// Token ids, int64 `[b, l]`.
    pub(crate) tokens_bl: Tensor,
    /// Position ids, int64 `[b, l]`.
    pub(crate) positions_bl: Tensor,
    /// The noise-aware causal mask, `[b, 1, l, l]`.
    pub(crate) mask: AttentionMask,
    /// Which of the `b * l` rows carry which loss.
    pub(crate) plan: LossPlan,
}

/// Divisors of the two losses, counted over a whole optimizer step so that accumulation changes nothing.
#[derive(Clone, Copy)]
pub(crate) struct Counts {
    pub(crate) ar: f64,
    pub(crate) pc: f64,
}

impl Counts {
    pub(crate) fn of(samples: &[PackedSample], config: &TrainConfig) -> Self {
        let pairs = samples.iter().flat_map(|s| &s.pc);
        Self {
            ar: samples.iter().map(|s| s.ar.len()).sum::<usize>() as f64,
            pc: pairs.map(|pair| config.position_weight(pair.distance)).sum(),
        }
    }
}

impl Batch {
    pub(crate) fn new(
        samples: &[PackedSample],
        counts: Counts,
        config: &TrainConfig,
        kind: Kind,
        device: Device,
    ) -> Self {
        let longest = samples.iter().map(|s| s.tokens.len()).max().expect("a batch has samples");
        let size = [samples.len() as i64, longest as i64];
        let mut tokens = vec![0i64; samples.len() * longest];
        let mut positions = vec![0i64; samples.len() * longest];
        for (b, sample) in samples.iter().enumerate() {
            for (t, &token) in sample.tokens.iter().enumerate() {
                tokens[b * longest + t] = i64::from(token);
                positions[b * longest + t] = sample.layout.position(t) as i64;
            }
        }
        Self {
            tokens_bl: Tensor::from_slice(&tokens).view(size).to_device(device),
            positions_bl: Tensor::from_slice(&positions).view(size).to_device(device),
            mask: mask(samples, longest, kind, device),
            plan: plan(samples, longest, counts, config, device),
        }
    }
}

/// The noise-aware causal mask. Without noisy streams it is ordinary causal attention: padding lies behind every
/// token, where nothing sees it.
fn mask(samples: &[PackedSample], longest: usize, kind: Kind, device: Device) -> AttentionMask {
    if !samples.iter().any(|sample| sample.layout.with_noise) {
        return AttentionMask::Causal;
    }
    let mut seen = vec![false; samples.len() * longest * longest];
    for (row, seen) in seen.chunks_exact_mut(longest).enumerate() {
        let (sample, q) = (&samples[row / longest], row % longest);
        if q < sample.tokens.len() {
            for run in sample.layout.visible(q) {
                seen[run].fill(true);
            }
        } else {
            // A padding row sees itself: a softmax over nothing would be NaN.
            seen[q] = true;
        }
    }
    let (b, l) = (samples.len() as i64, longest as i64);
    AttentionMask::from_bool(&Tensor::from_slice(&seen).view([b, l, l]).to_device(device), kind)
}

fn plan(
    samples: &[PackedSample],
    longest: usize,
    counts: Counts,
    config: &TrainConfig,
    device: Device,
) -> LossPlan {
    let rows = |of: &dyn Fn(&PackedSample) -> Vec<usize>| {
        let rows: Vec<i64> = samples
            .iter()
            .enumerate()
            .flat_map(|(b, s)| of(s).into_iter().map(move |row| (b * longest + row) as i64))
            .collect();
        Tensor::from_slice(&rows).to_device(device)
    };
    let targets: Vec<i64> = samples.iter().flat_map(|s| s.ar.iter().map(|a| i64::from(a.token))).collect();
    let of_sample = |sample: &PackedSample| match config.pc_normalization {
        PcNormalization::TokenMean => 1.0,
        PcNormalization::Reference => 1.0 / sample.layout.num_blocks() as f64,
    };
    let of_pair =
        |s: &PackedSample, at: usize| (of_sample(s) * config.position_weight(s.pc[at].distance)) as f32;
    let weights: Vec<f32> =
        samples.iter().flat_map(|s| (0..s.pc.len()).map(move |at| of_pair(s, at))).collect();
    LossPlan {
        ar_rows: rows(&|s| s.ar.iter().map(|a| a.row).collect()),
        ar_targets: Tensor::from_slice(&targets).to_device(device),
        student_rows: rows(&|s| s.pc.iter().map(|p| p.student).collect()),
        teacher_rows: rows(&|s| s.pc.iter().map(|p| p.teacher).collect()),
        pair_weights: Tensor::from_slice(&weights).to_device(device),
        ar_count: counts.ar,
        pc_count: counts.pc,
    }
}
