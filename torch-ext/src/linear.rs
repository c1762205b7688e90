//! Projections of a few rows. On a CPU each output is one dot product that depends on its own row alone, bit for bit
//! (see [`crate::dots`]), and the weights are read once, whatever their dtype: the product is as fast as memory gives
//! them for one row, and near the cores' peak for many.
//!
//! Legend: t rows, i inputs, o outputs.

use half::bf16;
use tch::{Kind, Tensor};

use crate::{
    dots::Left,
    memory::{Element, Shared, elements, elements_mut, is_plain},
    predictions::argmax,
    sink::{Largest, Rounded},
    threads::parallel,
};

/// Multiply-adds of a task: below twice this, one thread is faster than telling a second one.
const WORTH_A_TASK: usize = 100_000;
/// Outputs of a task are a multiple of this, which every tile divides.
const GRAIN: usize = 48;

/// `x` `[t, i]` times `weight` `[o, i]` transposed, plus `bias` `[o]`: `[t, o]` in the dtype of `x`, summed in fp32.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
    if !is_plain(x) || !x.is_contiguous() || !weight.is_contiguous() {
        return x.linear(weight, bias);
    }
    match x.kind() {
        Kind::Float => rows::<f32>(x, weight, bias),
        _ => rows::<bf16>(x, weight, bias),
    }
}

fn rows<T: Element>(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
    let (t, i, o) = shape(x, weight);
    let mut out = Tensor::empty([t as i64, o as i64], (x.kind(), x.device()));
    let mut widened = Vec::new();
    let left = Left::new(elements::<T>(x), i, &mut widened);
    let weight = elements::<T>(weight);
    let bias = bias.map(elements::<T>);
    let share = share(o, t * i * o);
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
        Kind::Float => largest::<f32>(x, weight),
        _ => largest::<bf16>(x, weight),
    }
}

fn largest<T: Element>(x: &Tensor, weight: &Tensor) -> Vec<u32> {
    let (t, i, o) = shape(x, weight);
    let mut widened = Vec::new();
    let left = Left::new(elements::<T>(x), i, &mut widened);
    let weight = elements::<T>(weight);
    let share = share(o, t * i * o);
    let tasks = o.div_ceil(share);
    let none = (T::from_f32(f32::NEG_INFINITY), 0);
    let mut best = vec![none; tasks * t];
    let target = Shared::new(&mut best);
    parallel(tasks, &|task| {
        let outputs = task * share..((task + 1) * share).min(o);
        let mut sink = Largest { start: outputs.start, best: vec![none; t] };
        left.products(&weight[outputs.start * i..outputs.end * i], i, &mut sink);
        // SAFETY: this part is this task's alone.
        unsafe { target.part(task * t..(task + 1) * t) }.copy_from_slice(&sink.best);
    });
    let of_row = |row: usize| {
        let mut greatest = none;
        for task in 0..tasks {
            let found = best[task * t + row];
            if found.0.to_f32() > greatest.0.to_f32() {
                greatest = found;
            }
        }
        greatest.1
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

/// Outputs of a task, when all `o` of them take `work` multiply-adds: several tasks a thread, because cores are not
/// equally fast at every moment.
fn share(o: usize, work: usize) -> usize {
    const TASKS: usize = 24;
    let tasks = (work / WORTH_A_TASK).clamp(1, TASKS);
    o.div_ceil(tasks).next_multiple_of(GRAIN)
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;
    use crate::memory::assert_close;

    fn random(shape: &[i64], kind: Kind) -> Tensor {
        Tensor::randn(shape, (Kind::Float, Device::Cpu)).to_kind(kind)
    }

    #[test]
    fn the_kernel_equals_the_operation() {
        for kind in [Kind::Float, Kind::BFloat16] {
            for (t, i, o) in [(1, 1, 1), (1, 64, 100), (5, 33, 48), (16, 576, 960), (67, 128, 50)] {
                let (x, weight, bias) = (random(&[t, i], kind), random(&[o, i], kind), random(&[o], kind));
                for bias in [None, Some(&bias)] {
                    let expected = x.linear(&weight, bias);
                    assert_close(&linear(&x, &weight, bias), &expected, &format!("{t} x {i} x {o}"));
                }
            }
        }
    }

    #[test]
    fn the_largest_output_is_found_without_the_outputs() {
        for kind in [Kind::Float, Kind::BFloat16] {
            for (t, i, o) in [(1, 1, 1), (3, 33, 100), (16, 64, 960), (50, 96, 5000), (67, 577, 3001)] {
                let (x, weight) = (random(&[t, i], kind), random(&[o, i], kind));
                let check = |x: &Tensor| {
                    let expected = argmax(&linear(x, &weight, None));
                    assert_eq!(linear_argmax(x, &weight), expected, "{t} x {i} x {o}");
                    expected
                };
                check(&x);
                // All equal: the first.
                assert_eq!(check(&x.zeros_like()), vec![0; t as usize]);
                // One input far larger than the others, as in some models; rows of NaN, infinities and zeros.
                let _ = x.narrow(1, i / 2, 1).g_mul_scalar_(1e4);
                for (row, number) in [(0, f64::NAN), (t / 2, f64::INFINITY), (t - 1, 0.0)] {
                    let _ = x.narrow(0, row, 1).fill_(number);
                }
                check(&x);
                let _ = weight.narrow(0, o / 2, 1).fill_(f64::NAN);
                check(&x);
            }
        }
    }

    #[test]
    fn the_first_of_outputs_that_are_equal_when_rounded_is_the_largest() {
        let (t, i, o) = (40, 64, 2000);
        let x = random(&[t, i], Kind::BFloat16);
        // Ten copies of each row that differ by less than bf16 can tell apart in most outputs.
        let rows = random(&[o / 10, i], Kind::BFloat16).repeat([10, 1]);
        let weight = &rows + (&rows * 0.004) * Tensor::rand([o, 1], (Kind::BFloat16, Device::Cpu));
        assert_eq!(linear_argmax(&x, &weight), argmax(&linear(&x, &weight, None)));
    }

    #[test]
    fn a_row_does_not_depend_on_the_others() {
        for kind in [Kind::Float, Kind::BFloat16] {
            let (x, weight) = (random(&[70, 96], kind), random(&[1000, 96], kind));
            let together = linear(&x, &weight, None);
            for (start, rows) in [(0, 1), (1, 1), (69, 1), (3, 2), (5, 16), (6, 64)] {
                let apart = linear(&x.narrow(0, start, rows), &weight, None);
                assert!(apart.equal(&together.narrow(0, start, rows)), "{kind:?} rows {start} + {rows}");
            }
        }
    }
}
