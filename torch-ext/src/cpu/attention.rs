//! Grouped-query attention of the rows of a pass over KV caches. The kernel computes every row by itself and takes its keys
//! in the order of their positions, whether these are in the cache or among the rows of the pass. So a row of a branch has
//! the same bits as the same token decoded alone.
//!
//! Legend: n rows of the pass, s keys, h key/value heads, g query heads per key/value head, d head width, c capacity.

use std::{cell::RefCell, ops::Range};

use half::bf16;
use pulp::{Simd, WithSimd};
use tch::{Kind, Tensor};

use crate::{
    HeadShape, PassPlan,
    cpu::{
        dots::{Left, prefetch},
        instructions::arch,
        memory::{AlignedBuffer, Element, Shared, elements, elements_mut},
        pool::parallel,
    },
    heads::part,
    pass::{Method, Span},
};

mod average;
mod groups;

use average::Average;
use groups::Member;
pub(crate) use groups::{RowGroup, row_groups};

/// Numbers of a cache that are widened for each prefetch.
const NUMBERS_PER_PREFETCH: usize = 32;
/// Bytes from the numbers being widened to those being prefetched. A head's keys are a few times as long.
const PREFETCH_DISTANCE: usize = 1 << 12;
/// Multiply-adds from which several threads are faster than one.
const PARALLEL_FROM: usize = 200_000;

/// Attention outputs `[n, g * h * d]` of the queries in `qkv` `[n, (g * h + 2 * h) * d]`. `caches` are the layer's keys and
/// values by cache number, each `[h, c, d]`. Queries and cached keys are rotated.
pub fn attend(qkv: &Tensor, plan: &PassPlan, caches: &[[&Tensor; 2]]) -> Tensor {
    plan.check(qkv);
    match &plan.method {
        Method::Kernel(groups) if qkv.kind() == Kind::Float => kernel::<f32>(qkv, plan, groups, caches),
        Method::Kernel(groups) => kernel::<bf16>(qkv, plan, groups, caches),
        Method::Flash(packed) => packed.attend(qkv, plan.heads, caches),
        Method::Fallback(masks) => fallback(qkv, plan, masks, caches),
    }
}

fn kernel<T: Element>(qkv: &Tensor, plan: &PassPlan, groups: &[RowGroup], caches: &[[&Tensor; 2]]) -> Tensor {
    let PassPlan { heads, spans, .. } = plan;
    let width = (heads.queries * heads.width) as i64;
    let mut out = Tensor::empty([qkv.size()[0], width], (qkv.kind(), qkv.device()));
    let tasks: Vec<Task<T>> = groups
        .iter()
        .flat_map(|group| {
            let [keys, values]: [&[T]; 2] = caches[group.cache].map(elements);
            let len = keys.len() / heads.keys;
            (0..heads.keys).map(move |head| Task {
                group,
                head,
                keys: &keys[head * len..(head + 1) * len],
                values: &values[head * len..(head + 1) * len],
            })
        })
        .collect();
    let qkv: &[T] = elements(qkv);
    let target = Shared::new(elements_mut::<T>(&mut out));
    let run = |task: &Task<T>| {
        arch().dispatch(AttentionKernel { task, spans, qkv, heads: *heads, out: &target });
    };
    let work: usize = groups.iter().map(|group| group.pairs(spans)).sum();
    if work * heads.queries * heads.width * 2 < PARALLEL_FROM {
        tasks.iter().for_each(run);
    } else {
        parallel(tasks.len(), &|at| run(&tasks[at]));
    }
    out
}

/// A group under one key/value head.
struct Task<'a, T> {
    group: &'a RowGroup,
    head: usize,
    /// `[c, d]`.
    keys: &'a [T],
    values: &'a [T],
}

struct AttentionKernel<'a, T> {
    task: &'a Task<'a, T>,
    spans: &'a [Span],
    qkv: &'a [T],
    heads: HeadShape,
    out: &'a Shared<'a, T>,
}

/// Buffers of a thread, kept from one task to the next.
#[derive(Default)]
struct Scratch {
    queries: AlignedBuffer,
    scores: AlignedBuffer,
    keys: AlignedBuffer,
    values: AlignedBuffer,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl<T: Element> WithSimd for AttentionKernel<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // Not `with_borrow_mut`: inside its closure the compiler would use no vector instructions.
        let mut scratch = SCRATCH.take();
        self.run(simd, &mut scratch);
        SCRATCH.set(scratch);
    }
}

impl<T: Element> AttentionKernel<'_, T> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S, scratch: &mut Scratch) {
        let Task { group, head, keys, values } = self.task;
        let (d, queries) = (self.heads.width, self.heads.queries);
        let reach = group.reach * d;
        let Scratch { queries: wide_queries, scores, keys: wide_keys, values: wide_values } = scratch;
        // The values are prefetched while the keys are widened, and the next head's keys, which follow in memory, while the
        // values are.
        prefetch_start(values.as_ptr());
        self.widen(wide_keys, &keys[..reach], (queries + head) * d);
        prefetch_start(keys.as_ptr_range().end);
        self.widen(wide_values, &values[..reach], (queries + self.heads.keys + head) * d);
        for member in &group.members {
            let span = &self.spans[member.span];
            let width = span.cached + span.own_reach(member.rows.end - 1);
            self.queries(member, wide_queries);
            self.scores(wide_queries, wide_keys, (member, width), scores);
            self.averages(simd, member, (scores, width), wide_values);
        }
    }

    /// Keys or values of the cache as f32, then those of uncached rows, which start at `offset` in a row of `qkv`.
    #[inline(always)]
    fn widen(&self, wide: &mut AlignedBuffer, cached: &[T], offset: usize) {
        let (d, group) = (self.heads.width, self.task.group);
        wide.resize(cached.len() + group.uncached * d);
        let (of_cache, of_rows) = wide.split_at_mut(cached.len());
        for (wide, cached) in
            of_cache.chunks_mut(NUMBERS_PER_PREFETCH).zip(cached.chunks(NUMBERS_PER_PREFETCH))
        {
            prefetch(cached.as_ptr().wrapping_byte_add(PREFETCH_DISTANCE));
            for (wide, value) in wide.iter_mut().zip(cached) {
                *wide = value.to_f32();
            }
        }
        if group.uncached == 0 {
            return;
        }
        let spans = group.members.iter().map(|member| &self.spans[member.span]);
        let rows = spans.filter(|span| span.uncached).flat_map(|span| span.rows.clone());
        for (wide, row) in of_rows.chunks_exact_mut(d).zip(rows) {
            let from = row * self.heads.row_len() + offset;
            for (wide, value) in wide.iter_mut().zip(&self.qkv[from..from + d]) {
                *wide = value.to_f32();
            }
        }
    }

    /// The scaled queries of the rows of `member`.
    #[inline(always)]
    fn queries(&self, member: &Member, queries: &mut AlignedBuffer) {
        let (d, g) = (self.heads.width, self.heads.group());
        let scale = 1.0 / (d as f32).sqrt();
        queries.resize(member.rows.len() * g * d);
        for (row, queries) in self.rows_of(member).zip(queries.chunks_exact_mut(g * d)) {
            let from = row * self.heads.row_len() + self.task.head * g * d;
            for (query, value) in queries.iter_mut().zip(&self.qkv[from..from + g * d]) {
                *query = value.to_f32() * scale;
            }
        }
    }

    /// Rows of the pass.
    #[inline(always)]
    fn rows_of(&self, member: &Member) -> Range<usize> {
        let start = self.spans[member.span].rows.start;
        start + member.rows.start..start + member.rows.end
    }

    /// The products of queries with the first `width` keys of the span: `[queries, width]`.
    #[inline(always)]
    fn scores(
        &self,
        queries: &[f32],
        keys: &[f32],
        (member, width): (&Member, usize),
        scores: &mut AlignedBuffer,
    ) {
        let (d, cached) = (self.heads.width, self.spans[member.span].cached);
        scores.resize(queries.len() / d * width);
        // The first score and the first key of each part, and the number of its keys.
        let parts = match member.own == cached {
            true => [(0, 0, width), (0, 0, 0)],
            false => [(0, 0, cached), (cached, member.own, width - cached)],
        };
        let mut buffer = Vec::new();
        let left = Left::new(queries, d, &mut buffer);
        for (offset, first, count) in parts {
            let mut sink = |query: usize, key: usize, products: &[f32]| {
                scores[query * width + offset + key..][..products.len()].copy_from_slice(products);
            };
            left.products(&keys[first * d..(first + count) * d], d, &mut sink);
        }
    }

    /// The averages of values under the softmax of the scores, for the rows of `member`.
    #[inline(always)]
    fn averages<S: Simd>(
        &self,
        simd: S,
        member: &Member,
        (scores, width): (&mut [f32], usize),
        values: &[f32],
    ) {
        let (d, g) = (self.heads.width, self.heads.group());
        let span = &self.spans[member.span];
        let scores = scores[..member.rows.len() * g * width].chunks_exact_mut(g * width);
        for (row, scores) in member.rows.clone().zip(scores) {
            let at = (span.rows.start + row) * self.heads.queries * d + self.task.head * g * d;
            // SAFETY: no other task has this row and these heads.
            let out = unsafe { self.out.part(at..at + g * d) };
            let average = Average { span, own: member.own, row, width, values, d };
            let mut query = 0;
            while query < g {
                let (scores, out) = (&mut scores[query * width..], &mut out[query * d..]);
                // The sums of these queries and one value fit into the registers.
                query += match g - query {
                    3.. if S::REGISTER_COUNT >= 32 => average.of::<T, S, 3>(simd, scores, out),
                    _ => average.of::<T, S, 1>(simd, scores, out),
                };
            }
        }
    }
}

/// Prefetches the first numbers at `start`; any address is allowed.
#[inline(always)]
fn prefetch_start<T>(start: *const T) {
    for line in (0..PREFETCH_DISTANCE).step_by(NUMBERS_PER_PREFETCH * size_of::<bf16>()) {
        prefetch(start.wrapping_byte_add(line));
    }
}

/// A key/value head is a batch of its query heads, so that the cache is read in place.
fn fallback(qkv: &Tensor, plan: &PassPlan, masks: &[Tensor], caches: &[[&Tensor; 2]]) -> Tensor {
    let heads = plan.heads;
    let (h, g, d) = (heads.keys as i64, heads.group() as i64, heads.width as i64);
    let [q, own_k, own_v] = heads.split(qkv);
    let attend = |(span, mask): (&Span, &Tensor)| {
        let (t, s) = (span.rows.len() as i64, (span.cached + span.rows.len()) as i64);
        let q_hgtd = part(&q, 0, &span.rows).view([t, h, g, d]).permute([1, 2, 0, 3]);
        let [k_hgsd, v_hgsd] = [0, 1].map(|side| {
            let cache = caches[span.cache][side];
            let x = match span.uncached {
                false => cache.narrow(1, 0, s),
                true => {
                    let own = part([&own_k, &own_v][side], 0, &span.rows).transpose(0, 1);
                    Tensor::cat(&[cache.narrow(1, 0, s - t), own], 1)
                }
            };
            x.unsqueeze(1).expand([h, g, s, d], false)
        });
        let y_hgtd = Tensor::scaled_dot_product_attention(
            &q_hgtd,
            &k_hgsd,
            &v_hgsd,
            Some(mask),
            0.0,
            false,
            None,
            false,
        );
        y_hgtd.permute([2, 0, 1, 3]).reshape([t, g * h * d])
    };
    Tensor::cat(&plan.spans.iter().zip(masks).map(attend).collect::<Vec<_>>(), 0)
}

#[cfg(test)]
mod tests;
