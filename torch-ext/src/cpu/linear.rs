//! Projections. On a CPU each output is one dot product that depends on its own row alone, bit for bit (see
//! [`crate::cpu::dots`]), and the weight is read once: for one row a product is as fast as memory, for many rows it is near
//! the cores' peak.
//!
//! Legend: t rows, i inputs, o outputs.

use std::ops::Range;

use half::bf16;
use tch::{Kind, Tensor};

use crate::cpu::{
    dots::Left,
    memory::{Element, Shared, elements, elements_mut, is_plain},
    pool::parallel,
    predictions::argmax,
    sink::{Added, Largest, Rounded},
    threads::parallel_map,
};

/// Multiply-adds of a task, at least: with fewer, starting a thread costs more than it saves.
const WORK_PER_TASK: usize = 100_000;
/// Outputs of a task are a multiple of this, which is a multiple of every tile's width.
const GRAIN: usize = 48;

/// `x` `[t, i]` times `weight` `[o, i]` transposed, plus `bias` `[o]`: `[t, o]` in the dtype of `x`, summed in fp32.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
    if !is_plain(x) || !x.is_contiguous() || !weight.is_contiguous() {
        return x.linear(weight, bias);
    }
    match x.kind() {
        Kind::Float => kernel::<f32>(x, weight, bias),
        _ => kernel::<bf16>(x, weight, bias),
    }
}

fn kernel<T: Element>(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
    let (t, i, o) = shape(x, weight);
    let mut out = Tensor::empty([t as i64, o as i64], (x.kind(), x.device()));
    let mut widened = Vec::new();
    let left = Left::new(elements::<T>(x), i, &mut widened);
    let weight = elements::<T>(weight);
    let bias = bias.map(elements::<T>);
    let share = outputs_per_task(o, t * i * o);
    let target = Shared::new(elements_mut::<T>(&mut out));
    parallel(o.div_ceil(share), &|task| {
        let outputs = task * share..((task + 1) * share).min(o);
        let mut sink = Rounded { target: &target, width: o, start: outputs.start, bias };
        left.products(&weight[outputs.start * i..outputs.end * i], i, &mut sink);
    });
    out
}

/// An update of low rank to some columns of a product.
pub struct LowRankUpdate<'a> {
    /// The first of its columns.
    pub first: usize,
    /// `[columns, r]`.
    pub b: &'a Tensor,
}

/// Adds `factor` times `x` `[t, i]` times a^T times b^T to the columns of each update in `y` `[t, o]`. `a` `[updates * r, i]` has
/// the matrices of all updates. Rows of `y` are contiguous. Sums are fp32, and x * a^T is rounded to the dtype of `x`.
pub fn add_low_rank(y: &mut Tensor, x: &Tensor, a: &Tensor, updates: &[LowRankUpdate], factor: f64) {
    if x.size()[0] == 0 {
        return;
    }
    let all = [x, a].into_iter().chain(updates.iter().map(|update| update.b));
    if !is_plain(x) || !y.is_contiguous() || all.into_iter().any(|tensor| !tensor.is_contiguous()) {
        let inner = x.linear(a, None::<&Tensor>) * factor;
        for (inner, update) in inner.chunk(updates.len() as i64, 1).iter().zip(updates) {
            let mut columns = y.narrow(1, update.first as i64, update.b.size()[0]);
            let _ = columns.g_add_(&inner.linear(update.b, None::<&Tensor>));
        }
        return;
    }
    match x.kind() {
        Kind::Float => low_rank_kernel::<f32>(y, x, a, updates, factor as f32),
        _ => low_rank_kernel::<bf16>(y, x, a, updates, factor as f32),
    }
}

fn low_rank_kernel<T: Element>(
    y: &mut Tensor,
    x: &Tensor,
    a: &Tensor,
    updates: &[LowRankUpdate],
    factor: f32,
) {
    let (t, i, all) = shape(x, a);
    let (rank, width) = (all / updates.len(), y.size()[1] as usize);
    let mut widened = Vec::new();
    let left = Left::new(elements::<T>(x), i, &mut widened);
    let a = elements::<T>(a);
    // `[t, r]` of one update after the other.
    let mut inner = vec![T::from_f32(0.0); t * all];
    let target = Shared::new(&mut inner);
    let pieces = pieces(updates.iter().map(|_| rank), GRAIN);
    parallel(pieces.len(), &|task| {
        let (update, columns) = &pieces[task];
        let rows = update * rank + columns.start..update * rank + columns.end;
        let start = update * t * rank + columns.start;
        let mut sink = Rounded { target: &target, width: rank, start, bias: None };
        left.products(&a[rows.start * i..rows.end * i], i, &mut sink);
    });
    let mut widened = vec![Vec::new(); updates.len()];
    let parts = inner.chunks_exact(t * rank).zip(&mut widened);
    let lefts: Vec<Left> = parts.map(|(rows, widened)| Left::new(rows, rank, widened)).collect();
    let of_updates: Vec<(usize, &[T])> =
        updates.iter().map(|update| (update.first, elements::<T>(update.b))).collect();
    let outputs = of_updates.iter().map(|(_, b)| b.len() / rank);
    let share = outputs_per_task(outputs.clone().sum(), t * rank * outputs.clone().sum::<usize>());
    let pieces = self::pieces(outputs, share);
    let target = Shared::new(elements_mut::<T>(y));
    parallel(pieces.len(), &|task| {
        let (update, columns) = &pieces[task];
        let (first, b) = of_updates[*update];
        let mut sink = Added { target: &target, width, start: first + columns.start, factor };
        lefts[*update].products(&b[columns.start * rank..columns.end * rank], rank, &mut sink);
    });
}

/// Ranges of at most `share` columns, of one matrix after the other.
fn pieces(columns: impl Iterator<Item = usize>, share: usize) -> Vec<(usize, Range<usize>)> {
    let of_matrix = |(matrix, columns): (usize, usize)| {
        (0..columns).step_by(share).map(move |start| (matrix, start..(start + share).min(columns)))
    };
    columns.enumerate().flat_map(of_matrix).collect()
}

/// The column of the largest output of each row of `linear(x, weight, None)`, the first of equal ones. The outputs themselves,
/// which can take more memory than the weight, are not stored.
pub fn linear_argmax(x: &Tensor, weight: &Tensor) -> Vec<u32> {
    if !is_plain(x) || !x.is_contiguous() || !weight.is_contiguous() {
        return argmax(&linear(x, weight, None));
    }
    match x.kind() {
        Kind::Float => argmax_kernel::<f32>(x, weight),
        _ => argmax_kernel::<bf16>(x, weight),
    }
}

fn argmax_kernel<T: Element>(x: &Tensor, weight: &Tensor) -> Vec<u32> {
    let (t, i, o) = shape(x, weight);
    let mut widened = Vec::new();
    let left = Left::new(elements::<T>(x), i, &mut widened);
    let weight = elements::<T>(weight);
    let share = outputs_per_task(o, t * i * o);
    let none = (T::from_f32(f32::NEG_INFINITY), 0);
    let of_tasks = parallel_map(o.div_ceil(share), &|task| {
        let outputs = task * share..((task + 1) * share).min(o);
        let mut sink = Largest { start: outputs.start, best: vec![none; t] };
        left.products(&weight[outputs.start * i..outputs.end * i], i, &mut sink);
        sink.best
    });
    let of_row = |row: usize| {
        let greater = |best: (T, u32), found: (T, u32)| match found.0.to_f32() > best.0.to_f32() {
            true => found,
            false => best,
        };
        of_tasks.iter().map(|best| best[row]).fold(none, greater).1
    };
    (0..t).map(of_row).collect()
}

/// Rows, inputs, outputs.
fn shape(x: &Tensor, weight: &Tensor) -> (usize, usize, usize) {
    let (t, i) = x.size2().expect("x is [rows, inputs]");
    let (o, width) = weight.size2().expect("weight is [outputs, inputs]");
    assert_eq!(i, width, "x {:?} and weight {:?}", x.size(), weight.size());
    (t as usize, i as usize, o as usize)
}

/// Outputs of a task if all `o` outputs take `work` multiply-adds. There are several tasks per thread, since cores are not
/// equally fast at every moment.
fn outputs_per_task(o: usize, work: usize) -> usize {
    const TASKS: usize = 24;
    let tasks = (work / WORK_PER_TASK).clamp(1, TASKS);
    o.div_ceil(tasks).next_multiple_of(GRAIN)
}

#[cfg(test)]
mod tests;
