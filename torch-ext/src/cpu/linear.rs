//! Projections. On a CPU each output is one dot product that depends on its own row alone, bit for bit (see
//! [`crate::cpu::dots`]), and the weight is read once: for one row a product is as fast as memory, for many rows it is near
//! the cores' peak.
//!
//! Legend: t rows, i inputs, o outputs.

use half::bf16;
use tch::{Kind, Tensor};

use crate::cpu::{
    dots::Left,
    memory::{Element, Shared, elements, elements_mut, is_plain},
    pool::parallel,
    predictions::argmax,
    sink::{Largest, Rounded},
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
