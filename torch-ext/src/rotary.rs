//! The step between the query/key/value projection and attention: rotary positions (arXiv 2104.09864) on queries and
//! keys, keys and values into their caches. One pass over the projection's rows.
//!
//! Legend: n rows, h key/value heads, g query heads per key/value head, d head width, c cache capacity.

use half::bf16;
use pulp::{Arch, Simd, WithSimd};
use tch::{Kind, Tensor};

use crate::{
    attention::{SpanCache, check_spans, packed},
    memory::{Element, Shared, elements, elements_mut, is_plain},
    threads::parallel,
};

/// Rows of a task.
const ROWS_OF_TASK: usize = 32;

/// Heads of one projection row `[g * h queries | h keys | h values]`, each `d` wide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadShape {
    /// Query heads, g * h.
    pub queries: usize,
    /// Key/value heads, h.
    pub keys: usize,
    /// Width, d.
    pub width: usize,
}

impl HeadShape {
    /// Query heads per key/value head, g.
    pub(crate) fn group(self) -> usize {
        self.queries / self.keys
    }

    /// Elements of a projection row.
    pub(crate) fn row_len(self) -> usize {
        (self.queries + 2 * self.keys) * self.width
    }
}

/// Rotates the queries and keys of `qkv` `[n, (g * h + 2 * h) * d]` in place, and writes the rotated keys and the values of
/// every row behind the cached ones of its span, unless that is uncached. `cos` and `sin` are `[n, d]`; halves are paired, as in the Hugging Face layout.
pub fn rotate_and_store(qkv: &mut Tensor, cos: &Tensor, sin: &Tensor, heads: HeadShape, spans: &[SpanCache]) {
    let (n, row) = qkv.size2().expect("qkv is [rows, heads]");
    assert_eq!(row as usize, heads.row_len(), "{heads:?}");
    assert_eq!(cos.size(), [n, heads.width as i64], "one angle per row");
    check_spans(spans, heads, n as usize);
    if !is_plain(qkv) {
        return composed(qkv, cos, sin, heads, spans);
    }
    match qkv.kind() {
        Kind::Float => fused::<f32>(qkv, cos, sin, heads, spans),
        _ => fused::<bf16>(qkv, cos, sin, heads, spans),
    }
}

/// Rotates the queries and keys of `qkv` `[n, (g * h + 2 * h) * d]` in place; `back` rotates them the other way, which is
/// what the gradient of a rotation does. `cos` and `sin` are `[n, d]`, alike in both halves.
pub fn rotate_in_place(qkv: &mut Tensor, cos: &Tensor, sin: &Tensor, heads: HeadShape, back: bool) {
    let (n, row) = qkv.size2().expect("qkv is [rows, heads]");
    assert_eq!(row as usize, heads.row_len(), "{heads:?}");
    assert_eq!(cos.size(), [n, heads.width as i64], "one angle per row");
    let sin = if back { sin.neg() } else { sin.shallow_clone() };
    if !is_plain(qkv) {
        let width = (heads.queries + heads.keys) as i64 * heads.width as i64;
        let x = qkv.narrow(1, 0, width).view([n, -1, heads.width as i64]);
        qkv.narrow(1, 0, width).copy_(&turned(&x, cos, &sin).reshape([n, width]));
        return;
    }
    match qkv.kind() {
        Kind::Float => rows_in_place::<f32>(qkv, cos, &sin, heads),
        _ => rows_in_place::<bf16>(qkv, cos, &sin, heads),
    }
}

fn rows_in_place<T: Element>(qkv: &mut Tensor, cos: &Tensor, sin: &Tensor, heads: HeadShape) {
    let (cos, sin) = (cos.contiguous(), sin.contiguous());
    let (cos, sin): (&[T], &[T]) = (elements(&cos), elements(&sin));
    let (d, row_len) = (heads.width, heads.row_len());
    let rows = qkv.size()[0] as usize;
    let target = Shared::new(elements_mut::<T>(qkv));
    parallel(rows.div_ceil(ROWS_OF_TASK), &|task| {
        let rows = task * ROWS_OF_TASK..((task + 1) * ROWS_OF_TASK).min(rows);
        // SAFETY: these rows are this task's alone.
        let turning = unsafe { target.part(rows.start * row_len..rows.end * row_len) };
        let angles = (&cos[rows.start * d..rows.end * d], &sin[rows.start * d..rows.end * d]);
        Arch::new().dispatch(Rotation { rows: turning, angles, heads });
    });
}

/// Some rows of a projection, and the cosines and sines of each.
struct Rotation<'a, T> {
    rows: &'a mut [T],
    angles: (&'a [T], &'a [T]),
    heads: HeadShape,
}

impl<T: Element> WithSimd for Rotation<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        let Self { rows, angles: (cos, sin), heads } = self;
        let d = heads.width;
        let angles = cos.chunks_exact(d).zip(sin.chunks_exact(d));
        for (row, angles) in rows.chunks_exact_mut(heads.row_len()).zip(angles) {
            for head in row[..(heads.queries + heads.keys) * d].chunks_exact_mut(d) {
                rotate(head, angles);
            }
        }
    }
}

/// `x` `[n, heads, d]` rotated.
fn turned(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Tensor {
    let half = x.size()[2] / 2;
    let swapped = Tensor::cat(&[x.narrow(2, half, half).neg(), x.narrow(2, 0, half)], 2);
    x * cos.unsqueeze(1) + swapped * sin.unsqueeze(1)
}

fn fused<T: Element>(qkv: &mut Tensor, cos: &Tensor, sin: &Tensor, heads: HeadShape, spans: &[SpanCache]) {
    rows_in_place::<T>(qkv, cos, sin, heads);
    let d = heads.width;
    let qkv: &[T] = elements(qkv);
    for SpanCache { span, keys, values } in spans {
        let Some(stored) = span.stored() else { continue };
        let (mut keys, mut values) = (keys.shallow_clone(), values.shallow_clone());
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

fn composed(qkv: &mut Tensor, cos: &Tensor, sin: &Tensor, heads: HeadShape, spans: &[SpanCache]) {
    let (queries, keys, d) = (heads.queries as i64, heads.keys as i64, heads.width as i64);
    let n = qkv.size()[0];
    let part = |from: i64, count: i64| qkv.narrow(1, from * d, count * d).view([n, count, d]);
    let rotated = turned(&part(0, queries + keys), cos, sin);
    part(0, queries + keys).copy_(&rotated);
    if let Some(packed) = packed(qkv, spans) {
        return packed.store(qkv, heads, spans);
    }
    let (k_hnd, v_hnd) = (part(queries, keys).transpose(0, 1), part(queries + keys, keys).transpose(0, 1));
    for SpanCache { span, keys, values } in spans {
        let Some(stored) = span.stored() else { continue };
        let (start, len, at) = (span.rows.start as i64, span.rows.len() as i64, stored.start as i64);
        keys.narrow(1, at, len).copy_(&k_hnd.narrow(1, start, len));
        values.narrow(1, at, len).copy_(&v_hnd.narrow(1, start, len));
    }
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;
    use crate::{Span, memory::assert_close};

    /// Each span with two of the tensors.
    fn behind<'a>(spans: &'a [Span; 2], caches: &'a [Tensor; 4]) -> Vec<SpanCache<'a>> {
        let pairs = spans.iter().zip(caches.as_chunks::<2>().0);
        pairs.map(|(span, [keys, values])| SpanCache { span, keys, values }).collect()
    }

    #[test]
    fn the_kernel_equals_the_operations() {
        for kind in [Kind::Float, Kind::BFloat16] {
            let heads = HeadShape { queries: 6, keys: 2, width: 8 };
            let random = |shape: &[i64]| Tensor::randn(shape, (Kind::Float, Device::Cpu)).to_kind(kind);
            let (qkv, cos, sin) = (random(&[5, 80]), random(&[5, 8]), random(&[5, 8]));
            let spans = [Span::chain(0..2, 3), Span::chain(2..5, 0)];
            // Keys and values of two caches.
            let empty = || [(); 4].map(|()| Tensor::zeros([2, 10, 8], (kind, Device::Cpu)));
            let (mut a, mut b) = (qkv.copy(), qkv.copy());
            let (caches_a, caches_b) = (empty(), empty());
            rotate_and_store(&mut a, &cos, &sin, heads, &behind(&spans, &caches_a));
            composed(&mut b, &cos, &sin, heads, &behind(&spans, &caches_b));
            assert_close(&a.narrow(1, 0, 48), &b.narrow(1, 0, 48), "queries");
            for (a, b) in caches_a.iter().zip(&caches_b) {
                assert_close(a, b, "keys and values");
            }
        }
    }

    #[test]
    fn turning_back_is_the_transpose_of_turning() {
        for kind in [Kind::Float, Kind::BFloat16] {
            let heads = HeadShape { queries: 6, keys: 2, width: 8 };
            let random = |shape: &[i64]| Tensor::randn(shape, (Kind::Float, Device::Cpu)).to_kind(kind);
            let (qkv, angles, grad) = (random(&[50, 80]), random(&[50, 4]), random(&[50, 80]));
            let angles = Tensor::cat(&[&angles, &angles], 1);
            let (cos, sin) = (angles.cos(), angles.sin());
            let x = qkv.copy().set_requires_grad(true);
            let (turning, kept) = (x.narrow(1, 0, 64).view([50, 8, 8]), x.narrow(1, 64, 16));
            let expected = Tensor::cat(&[turned(&turning, &cos, &sin).view([50, 64]), kept], 1);
            let mut found = qkv.copy();
            rotate_in_place(&mut found, &cos, &sin, heads, false);
            assert_close(&found, &expected.detach(), "turned");
            (expected * &grad).sum(Kind::Float).backward();
            let mut found = grad.copy();
            rotate_in_place(&mut found, &cos, &sin, heads, true);
            assert_close(&found, &x.grad(), "turned back");
        }
    }
}
