//! From logits to tokens.
//!
//! Legend: n rows, v vocabulary.

use half::bf16;
use tch::{Device, Kind, Tensor};

use crate::{
    memory::{Element, Shared, elements, is_plain},
    threads::parallel,
};

/// Columns that are compared with the best so far at once.
const CHUNK: usize = 64;

/// The column of the largest value of each row of `logits` `[n, v]`, the first of equal ones.
pub fn argmax(logits: &Tensor) -> Vec<u32> {
    let (_, v) = logits.size2().expect("logits are [rows, vocabulary]");
    if !is_plain(logits) || !logits.is_contiguous() {
        return column_ids(&logits.argmax(-1, false));
    }
    match logits.kind() {
        Kind::Float => by_row(elements::<f32>(logits), v as usize, &|_, row| largest(row)),
        _ => by_row(elements::<bf16>(logits), v as usize, &|_, row| largest(row)),
    }
}

/// What `find` makes of each row of `v` numbers.
fn by_row<T: Sync, R: Send + Default>(
    logits: &[T],
    v: usize,
    find: &(dyn Fn(usize, &[T]) -> R + Sync),
) -> Vec<R> {
    let mut found: Vec<R> = Vec::new();
    found.resize_with(logits.len() / v, R::default);
    let target = Shared::new(&mut found);
    parallel(logits.len() / v, &|row| {
        let answer = find(row, &logits[row * v..(row + 1) * v]);
        // SAFETY: each task has a row of its own.
        let place = unsafe { target.part(row..row + 1) };
        place[0] = answer;
    });
    found
}

/// The `k` most probable columns of each row of `logits` `[n, v]` with their natural log-probabilities, best first.
pub fn top(logits: &Tensor, k: usize) -> Vec<Vec<(u32, f32)>> {
    let (n, v) = logits.size2().expect("logits are [rows, vocabulary]");
    if n == 0 {
        return Vec::new();
    }
    if logits.device() != Device::Cpu {
        return top_there(logits, k.min(v as usize));
    }
    let logits = logits.to_kind(Kind::Float).contiguous();
    let total = logits.logsumexp([-1i64].as_slice(), false);
    let total = elements::<f32>(&total);
    by_row(elements::<f32>(&logits), v as usize, &|at, row| best(row, k, total[at]))
}

/// The same by libtorch's operations: only what is asked for leaves the device. Which of equal ones are taken is its own choice.
fn top_there(logits: &Tensor, k: usize) -> Vec<Vec<(u32, f32)>> {
    let logits = logits.to_kind(Kind::Float);
    let (values, columns) = logits.topk(k as i64, -1, true, true);
    let scores = values - logits.logsumexp([-1i64].as_slice(), true);
    let scores = Vec::<f32>::try_from(&scores.view([-1])).expect("fp32 numbers in a row");
    let tokens = column_ids(&columns.view([-1]));
    let rows = tokens.chunks(k.max(1)).zip(scores.chunks(k.max(1)));
    rows.map(|(tokens, scores)| tokens.iter().copied().zip(scores.iter().copied()).collect()).collect()
}

fn largest<T: Element>(row: &[T]) -> u32 {
    let mut best = (f32::NEG_INFINITY, 0);
    for (start, chunk) in (0..).step_by(CHUNK).zip(row.chunks(CHUNK)) {
        if peak(chunk) > best.0 {
            for (column, value) in (start..).zip(chunk) {
                if value.to_f32() > best.0 {
                    best = (value.to_f32(), column);
                }
            }
        }
    }
    best.1
}

/// Sorted insertion into the `k` best so far: almost every chunk is dismissed by one comparison.
fn best(row: &[f32], k: usize, total: f32) -> Vec<(u32, f32)> {
    let mut kept: Vec<(u32, f32)> = Vec::with_capacity(k + 1);
    for (start, chunk) in (0..).step_by(CHUNK).zip(row.chunks(CHUNK)) {
        if kept.len() == k && kept.last().is_none_or(|worst| peak(chunk) <= worst.1) {
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

/// The largest value, in eight partial maxima.
fn peak<T: Element>(chunk: &[T]) -> f32 {
    let mut peaks = [f32::NEG_INFINITY; 8];
    let (eights, rest) = chunk.as_chunks::<8>();
    for eight in eights {
        for (peak, value) in peaks.iter_mut().zip(eight) {
            *peak = if value.to_f32() > *peak { value.to_f32() } else { *peak };
        }
    }
    rest.iter().map(|value| value.to_f32()).chain(peaks).fold(f32::NEG_INFINITY, f32::max)
}

/// Columns, int64 in a row, as numbers.
pub fn column_ids(columns: &Tensor) -> Vec<u32> {
    let columns = columns.to_device(tch::Device::Cpu).contiguous();
    let columns = Vec::<i64>::try_from(&columns).expect("a one-dimensional int64 tensor");
    columns.into_iter().map(|id| u32::try_from(id).expect("columns are not negative")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::devices;

    #[test]
    fn the_kernels_equal_the_operations() {
        for kind in [Kind::Float, Kind::BFloat16] {
            for v in [1, 2, 63, 64, 65, 1000] {
                let logits = Tensor::randn([7, v], (Kind::Float, Device::Cpu)).to_kind(kind);
                let found = argmax(&logits);
                // bf16 has ties; the value decides.
                for (row, &column) in (0..).zip(&found) {
                    let value = logits.double_value(&[row, i64::from(column)]);
                    assert_eq!(value, logits.get(row).max().double_value(&[]), "{kind:?} {v}");
                }
                let k = 5.min(v as usize);
                let (values, _) =
                    logits.to_kind(Kind::Float).log_softmax(-1, Kind::Float).topk(k as i64, -1, true, true);
                for (row, tokens) in (0..).zip(top(&logits, 5)) {
                    assert_eq!(tokens.len(), k);
                    assert!(kind == Kind::BFloat16 || tokens[0].0 == found[row as usize]);
                    for (rank, (_, score)) in (0..).zip(tokens) {
                        assert!((values.double_value(&[row, rank]) - f64::from(score)).abs() < 1e-5);
                    }
                }
            }
        }
    }

    #[test]
    fn the_best_of_each_row_are_found_where_the_logits_are() {
        for device in devices("the best tokens") {
            let logits = Tensor::randn([7, 1000], (Kind::Float, Device::Cpu));
            for (found, expected) in top_there(&logits.to_device(device), 5).iter().zip(top(&logits, 5)) {
                for (found, expected) in found.iter().zip(&expected) {
                    assert!(
                        found.0 == expected.0 && (found.1 - expected.1).abs() < 1e-4,
                        "{found:?} {expected:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn the_first_of_equal_values_wins() {
        assert_eq!(argmax(&Tensor::from_slice2(&[[1.0f32, 3.0, 3.0], [2.0, 2.0, 1.0]])), [1, 0]);
        assert_eq!(
            top(&Tensor::from_slice2(&[[1.0f32, 3.0, 3.0]]), 2)[0].iter().map(|t| t.0).collect::<Vec<_>>(),
            [1, 2]
        );
    }
}
