//! From logits to tokens.
//!
//! Legend: n rows, v vocabulary.

use half::bf16;
use tch::{Device, Kind, Tensor};

use crate::cpu::{
    memory::{Element, elements, is_plain},
    sink::largest,
    threads::parallel_map,
};

/// Columns whose largest value is compared with the best so far.
const CHUNK: usize = 64;

/// The column of the largest value of each row of `logits` `[n, v]`, the first of equal ones.
pub fn argmax(logits: &Tensor) -> Vec<u32> {
    let (_, v) = logits.size2().expect("logits are [rows, vocabulary]");
    if !is_plain(logits) || !logits.is_contiguous() {
        return column_ids(&logits.argmax(-1, false));
    }
    match logits.kind() {
        Kind::Float => argmax_kernel::<f32>(logits, v as usize),
        _ => argmax_kernel::<bf16>(logits, v as usize),
    }
}

fn argmax_kernel<T: Element>(logits: &Tensor, v: usize) -> Vec<u32> {
    let logits = elements::<T>(logits);
    parallel_map(logits.len() / v, &|row| argmax_of_row(&logits[row * v..(row + 1) * v]))
}

/// The `k` most probable columns of each row of `logits` `[n, v]` with their natural log-probabilities, best first.
pub fn top(logits: &Tensor, k: usize) -> Vec<Vec<(u32, f32)>> {
    let (n, v) = logits.size2().expect("logits are [rows, vocabulary]");
    if n == 0 {
        return Vec::new();
    }
    if logits.device() != Device::Cpu {
        return top_on_device(logits, k.min(v as usize));
    }
    let logits = logits.to_kind(Kind::Float).contiguous();
    let totals = logits.logsumexp([-1i64].as_slice(), false);
    let (totals, logits, v) = (elements::<f32>(&totals), elements::<f32>(&logits), v as usize);
    parallel_map(n as usize, &|row| top_of_row(&logits[row * v..(row + 1) * v], k, totals[row]))
}

/// By libtorch's operations, so that only the result leaves the device. Which of equal columns are chosen is not defined.
fn top_on_device(logits: &Tensor, k: usize) -> Vec<Vec<(u32, f32)>> {
    let logits = logits.to_kind(Kind::Float);
    let (values, columns) = logits.topk(k as i64, -1, true, true);
    let scores = values - logits.logsumexp([-1i64].as_slice(), true);
    let scores = Vec::<f32>::try_from(&scores.view([-1])).expect("fp32 numbers in a row");
    let tokens = column_ids(&columns.view([-1]));
    let rows = tokens.chunks(k.max(1)).zip(scores.chunks(k.max(1)));
    rows.map(|(tokens, scores)| tokens.iter().copied().zip(scores.iter().copied()).collect()).collect()
}

fn argmax_of_row<T: Element>(row: &[T]) -> u32 {
    let mut best = (f32::NEG_INFINITY, 0);
    for (start, chunk) in (0..).step_by(CHUNK).zip(row.chunks(CHUNK)) {
        if largest(chunk) > best.0 {
            for (column, value) in (start..).zip(chunk) {
                if value.to_f32() > best.0 {
                    best = (value.to_f32(), column);
                }
            }
        }
    }
    best.1
}

/// Sorted insertion into the `k` best so far. Almost every chunk is ruled out by its largest value.
fn top_of_row(row: &[f32], k: usize, total: f32) -> Vec<(u32, f32)> {
    let mut kept: Vec<(u32, f32)> = Vec::with_capacity(k + 1);
    for (start, chunk) in (0..).step_by(CHUNK).zip(row.chunks(CHUNK)) {
        if kept.len() == k && kept.last().is_none_or(|worst| largest(chunk) <= worst.1) {
            continue;
        }
        for (column, &value) in (start..).zip(chunk) {
            let place = kept.partition_point(|(_, better)| *better >= value);
            if place < k {
                kept.insert(place, (column, value));
                kept.truncate(k);
            }
        }
    }
    kept.iter().map(|&(column, value)| (column, value - total)).collect()
}

/// Column numbers of a one-dimensional int64 tensor.
pub fn column_ids(columns: &Tensor) -> Vec<u32> {
    let columns = columns.to_device(tch::Device::Cpu).contiguous();
    let columns = Vec::<i64>::try_from(&columns).expect("a one-dimensional int64 tensor");
    columns.into_iter().map(|id| u32::try_from(id).expect("columns are not negative")).collect()
}

#[cfg(test)]
mod tests;
