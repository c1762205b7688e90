//! Rows of packed samples as tensors.
//!
//! Legend: n tokens of the row.

use jacobi_datasets::{CausalRun, PackedRow, PackedSample, row_len};
use jacobi_model::{RopeTable, Run, TrainingRow, token_tensor};
use tch::{Device, Tensor};

use crate::division::divide;

/// One forward pass.
pub(crate) struct Batch {
    /// Token ids, int64 `[n]`.
    pub(crate) tokens_n: Tensor,
    /// RoPE angles, and which tokens each token attends to.
    pub(crate) row: TrainingRow,
}

impl Batch {
    pub(crate) fn new(row: &PackedRow, rope: &RopeTable, device: Device) -> Self {
        let positions: Vec<i64> = row.positions.iter().map(|&position| position as i64).collect();
        let positions = Tensor::from_slice(&positions).to_device(device);
        let run = |run: &CausalRun| Run { prefix: run.prefix.clone(), own: run.own.clone() };
        Self {
            tokens_n: token_tensor(&row.tokens).to_device(device),
            row: TrainingRow {
                rope: rope.at(&positions),
                runs: row.runs.iter().map(run).collect::<Vec<_>>().into(),
            },
        }
    }
}

/// Packs the samples into rows of at most `tokens_per_row` tokens, the same number of rows for each rank:
/// `[rank][row]`. A longer sample gets a row to itself.
pub(crate) fn rows(samples: &[PackedSample], tokens_per_row: usize, ranks: usize) -> Vec<Vec<PackedRow>> {
    let lengths: Vec<usize> = samples.iter().map(row_len).collect();
    let row = |row: &Vec<usize>| match row.is_empty() {
        true => PackedRow::idle(),
        false => PackedRow::new(row.iter().map(|&at| &samples[at])),
    };
    let divided = divide(&lengths, ranks, tokens_per_row);
    divided.iter().map(|rows| rows.iter().map(row).collect()).collect()
}
