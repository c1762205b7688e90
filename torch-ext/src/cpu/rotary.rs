//! Rotary positions (arXiv 2104.09864) on the queries and keys of a projection, and keys and values into their caches.
//!
//! Legend: n rows, h key/value heads, g query heads per key/value head, d head width, c cache capacity.

use half::bf16;
use pulp::{Simd, WithSimd};
use tch::{Kind, Tensor};

use crate::{
    HeadShape, PassPlan,
    cpu::{
        instructions::arch,
        memory::{Element, elements, elements_mut, is_plain},
        threads::parallel_chunks,
    },
    heads::part,
    pass::Method,
};

const ROWS_PER_TASK: usize = 32;

/// Rotates the queries and keys of `qkv` `[n, (g * h + 2 * h) * d]` in place, and writes the rotated keys and the values of
/// each row to its cache, unless its span is uncached. `cos` and `sin` are `[n, d]`; halves are paired, as in the Hugging
/// Face layout. `caches` are the layer's keys and values by cache number, each `[h, c, d]`.
pub fn rotate_and_store(
    qkv: &mut Tensor,
    cos: &Tensor,
    sin: &Tensor,
    plan: &PassPlan,
    caches: &[[&Tensor; 2]],
) {
    plan.check(qkv);
    rotate_in_place(qkv, cos, sin, plan.heads, false);
    match &plan.method {
        Method::Kernel(_) if qkv.kind() == Kind::Float => store::<f32>(qkv, plan, caches),
        Method::Kernel(_) => store::<bf16>(qkv, plan, caches),
        Method::Flash(packed) => packed.store(qkv, plan.heads, caches),
        Method::Fallback(_) => fallback_store(qkv, plan, caches),
    }
}

/// Rotates the queries and keys of `qkv` `[n, (g * h + 2 * h) * d]` in place; with `back` the other way, which is the gradient
/// of a rotation. `cos` and `sin` are `[n, d]`, the same in both halves.
pub fn rotate_in_place(qkv: &mut Tensor, cos: &Tensor, sin: &Tensor, heads: HeadShape, back: bool) {
    let n = heads.rows_of(qkv) as i64;
    assert_eq!(cos.size(), [n, heads.width as i64], "one angle per row");
    let sin = if back { sin.neg() } else { sin.shallow_clone() };
    if !is_plain(qkv) {
        let width = (heads.queries + heads.keys) as i64 * heads.width as i64;
        let x = qkv.narrow(1, 0, width).view([n, -1, heads.width as i64]);
        qkv.narrow(1, 0, width).copy_(&fallback(&x, cos, &sin).reshape([n, width]));
        return;
    }
    match qkv.kind() {
        Kind::Float => kernel::<f32>(qkv, cos, &sin, heads),
        _ => kernel::<bf16>(qkv, cos, &sin, heads),
    }
}

fn kernel<T: Element>(qkv: &mut Tensor, cos: &Tensor, sin: &Tensor, heads: HeadShape) {
    let (cos, sin) = (cos.contiguous(), sin.contiguous());
    let (cos, sin): (&[T], &[T]) = (elements(&cos), elements(&sin));
    let (d, row_len) = (heads.width, heads.row_len());
    parallel_chunks(elements_mut::<T>(qkv), ROWS_PER_TASK * row_len, &|task, rows| {
        let first = task * ROWS_PER_TASK;
        let angles = first * d..(first + rows.len() / row_len) * d;
        arch().dispatch(Rotation { rows, cos: &cos[angles.clone()], sin: &sin[angles], heads });
    });
}

/// Some rows of a projection with their angles.
struct Rotation<'a, T> {
    rows: &'a mut [T],
    cos: &'a [T],
    sin: &'a [T],
    heads: HeadShape,
}

impl<T: Element> WithSimd for Rotation<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        let Self { rows, cos, sin, heads } = self;
        let d = heads.width;
        let angles = cos.chunks_exact(d).zip(sin.chunks_exact(d));
        for (row, angles) in rows.chunks_exact_mut(heads.row_len()).zip(angles) {
            for head in row[..(heads.queries + heads.keys) * d].chunks_exact_mut(d) {
                rotate(head, angles);
            }
        }
    }
}

#[inline(always)]
fn rotate<T: Element>(head: &mut [T], (cos, sin): (&[T], &[T])) {
    let half = head.len() / 2;
    let (low, high) = head.split_at_mut(half);
    let (cos_low, cos_high) = cos.split_at(half);
    let (sin_low, sin_high) = sin.split_at(half);
    for i in 0..half {
        let (a, b) = (low[i].to_f32(), high[i].to_f32());
        low[i] = T::from_f32(a * cos_low[i].to_f32() - b * sin_low[i].to_f32());
        high[i] = T::from_f32(b * cos_high[i].to_f32() + a * sin_high[i].to_f32());
    }
}

fn store<T: Element>(qkv: &Tensor, plan: &PassPlan, caches: &[[&Tensor; 2]]) {
    let (heads, d) = (plan.heads, plan.heads.width);
    let qkv: &[T] = elements(qkv);
    for span in &plan.spans {
        let Some(stored) = span.stored() else { continue };
        let [mut keys, mut values] = caches[span.cache].map(Tensor::shallow_clone);
        let keys: &mut [T] = elements_mut(&mut keys);
        let values: &mut [T] = elements_mut(&mut values);
        let capacity = keys.len() / (heads.keys * d);
        for (row, at) in span.rows.clone().zip(stored) {
            let row = &qkv[row * heads.row_len()..(row + 1) * heads.row_len()];
            let (new_keys, new_values) = row[heads.queries * d..].split_at(heads.keys * d);
            for head in 0..heads.keys {
                let place = (head * capacity + at) * d;
                keys[place..place + d].copy_from_slice(&new_keys[head * d..(head + 1) * d]);
                values[place..place + d].copy_from_slice(&new_values[head * d..(head + 1) * d]);
            }
        }
    }
}

/// `x` `[n, heads, d]` rotated.
fn fallback(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Tensor {
    let half = x.size()[2] / 2;
    let swapped = Tensor::cat(&[x.narrow(2, half, half).neg(), x.narrow(2, 0, half)], 2);
    x * cos.unsqueeze(1) + swapped * sin.unsqueeze(1)
}

fn fallback_store(qkv: &Tensor, plan: &PassPlan, caches: &[[&Tensor; 2]]) {
    let [_, keys, values] = plan.heads.split(qkv);
    for span in &plan.spans {
        let Some(stored) = span.stored() else { continue };
        for (cache, own) in caches[span.cache].into_iter().zip([&keys, &values]) {
            part(cache, 1, &stored).copy_(&part(own, 0, &span.rows).transpose(0, 1));
        }
    }
}

#[cfg(test)]
mod tests;
