//! Grouped-query attention of the rows of a pass over KV caches. On a CPU every row is computed for itself: its keys in the
//! order of their positions, whether they lie in the cache or among the rows of the pass, so that a row behind a branch
//! gives the same bits as the same token decoded alone.
//!
//! Legend: n rows of the pass, s keys, h key/value heads, g query heads per key/value head, d head width, c capacity.

use std::{cell::RefCell, ops::Range};

use half::bf16;
use pulp::{Arch, Simd, WithSimd};
use tch::{Kind, Tensor};

use crate::{
    dots::{Left, fetch},
    memory::{Element, Lined, Shared, elements, elements_mut, is_plain},
    rotary::HeadShape,
    threads::parallel,
    varlen::has_kernel,
};

mod average;
mod packed;
mod span;

pub(crate) use packed::heads_of;
pub(crate) use span::check_spans;
pub use span::{Span, SpanCache};

use average::Average;
use packed::Packed;
use span::Seen;

/// Queries of a task.
const SHARE: usize = 48;
/// Rows beside one text that share its widened keys and values.
const ASIDE_SHARE: usize = 64;
/// Numbers of a cache that are widened for one request of memory.
const LINE: usize = 32;
/// How far ahead of them memory is asked for, in bytes: a head's keys are a few of these.
const AHEAD: usize = 1 << 12;
/// Multiply-adds below which one thread does everything.
const WORTH_A_TEAM: usize = 200_000;

/// Attention outputs `[n, g * h * d]` of the queries in `qkv` `[n, (g * h + 2 * h) * d]`, rotated as the keys in the caches
/// are; the spans cover all rows.
pub fn attend(qkv: &Tensor, heads: HeadShape, spans: &[SpanCache]) -> Tensor {
    let (n, row) = qkv.size2().expect("qkv is [rows, heads]");
    assert_eq!(row as usize, heads.row_len(), "{heads:?}");
    check_spans(spans, heads, n as usize);
    if !is_plain(qkv) {
        return match packed(qkv, spans) {
            Some(packed) => packed.attend(qkv, heads, spans),
            None => composed(qkv, heads, spans),
        };
    }
    match qkv.kind() {
        Kind::Float => fused::<f32>(qkv, heads, spans),
        _ => fused::<bf16>(qkv, heads, spans),
    }
}

fn fused<T: Element>(qkv: &Tensor, heads: HeadShape, spans: &[SpanCache]) -> Tensor {
    let width = (heads.queries * heads.width) as i64;
    let mut out = Tensor::empty([qkv.size()[0], width], (qkv.kind(), qkv.device()));
    let groups = groups(spans, (SHARE / heads.group()).max(1));
    let tasks: Vec<Task<T>> = groups
        .iter()
        .flat_map(|group| {
            let cache = &spans[group.cache];
            let (keys, values): (&[T], &[T]) = (elements(cache.keys), elements(cache.values));
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
    let run = |task: &Task<T>| Arch::new().dispatch(Kernel { task, qkv, heads, out: &target });
    let work: usize = groups.iter().map(Group::work).sum();
    if work * heads.queries * heads.width * 2 < WORTH_A_TEAM {
        tasks.iter().for_each(run);
    } else {
        parallel(tasks.len(), &|at| run(&tasks[at]));
    }
    out
}

/// Rows that share a cache and are computed together.
struct Group<'a> {
    /// The span that has the cache.
    cache: usize,
    /// Keys of the cache that they see.
    reach: usize,
    /// Some rows of each span; at most the first is cached.
    members: Vec<Member<'a>>,
    /// Keys that are not in the cache.
    uncached: usize,
}

/// Some rows of a span.
struct Member<'a> {
    span: Seen<'a>,
    rows: Range<usize>,
    uncached: bool,
}

impl<'a> Group<'a> {
    /// Rows whose keys are in the cache.
    fn behind(cache: usize, span: &'a Span, rows: Range<usize>) -> Self {
        let reach = if span.paths.is_some() { span.reach() } else { span.cached + rows.end };
        let members = vec![Member { span: span.seen(), rows, uncached: false }];
        Self { cache, reach, members, uncached: 0 }
    }

    fn rows(&self) -> usize {
        self.members.iter().map(|member| member.rows.len()).sum()
    }

    /// Adds a whole span beside the cache.
    fn add_aside(&mut self, span: &'a Span) {
        let rows = span.rows.len();
        self.reach = self.reach.max(span.reach());
        self.members.push(Member {
            span: Seen { own: self.uncached, ..span.seen() },
            rows: 0..rows,
            uncached: true,
        });
        self.uncached += rows;
    }

    /// Pairs of rows and keys.
    fn work(&self) -> usize {
        self.members.iter().map(|member| member.rows.len() * (member.span.cached + member.rows.end)).sum()
    }
}

/// Spans in shares of some rows: long ones in several, neighbours of one cache in one where they are uncached.
fn groups<'a>(spans: &'a [SpanCache], share: usize) -> Vec<Group<'a>> {
    let mut groups: Vec<Group> = Vec::new();
    for (at, cache) in spans.iter().enumerate() {
        let span = cache.span;
        let rows = span.rows.len();
        if !span.uncached {
            let shares = (0..rows).step_by(share);
            groups.extend(shares.map(|first| Group::behind(at, span, first..(first + share).min(rows))));
            continue;
        }
        let fits = groups.last().is_some_and(|group| {
            spans[group.cache].shares_cache(cache) && group.rows() + rows <= ASIDE_SHARE
        });
        if !fits {
            groups.push(Group { cache: at, reach: 0, members: Vec::new(), uncached: 0 });
        }
        groups.last_mut().expect("there is one").add_aside(span);
    }
    for group in &mut groups {
        for member in group.members.iter_mut().filter(|member| member.uncached) {
            member.span.own += group.reach;
        }
    }
    groups
}

/// A group under one key/value head.
struct Task<'a, T> {
    group: &'a Group<'a>,
    head: usize,
    /// `[c, d]`.
    keys: &'a [T],
    values: &'a [T],
}

struct Kernel<'a, T> {
    task: &'a Task<'a, T>,
    qkv: &'a [T],
    heads: HeadShape,
    out: &'a Shared<'a, T>,
}

/// Buffers of a thread, kept from one task to the next.
#[derive(Default)]
struct Scratch {
    queries: Lined,
    scores: Lined,
    keys: Lined,
    values: Lined,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl<T: Element> WithSimd for Kernel<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // Taken out, so that the kernel is not inside a closure: the compiler would leave vector instructions out of it.
        let mut scratch = SCRATCH.take();
        self.run(simd, &mut scratch);
        SCRATCH.set(scratch);
    }
}

impl<T: Element> Kernel<'_, T> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S, scratch: &mut Scratch) {
        let Task { group, head, keys, values } = self.task;
        let (d, queries) = (self.heads.width, self.heads.queries);
        let reach = group.reach * d;
        let Scratch { queries: room, scores, keys: wide_keys, values: wide_values } = scratch;
        // The values while the keys are widened, and the next head's keys, which lie behind these, while the values are.
        ask_for(values.as_ptr());
        self.widen(wide_keys, &keys[..reach], (queries + head) * d);
        ask_for(keys.as_ptr_range().end);
        self.widen(wide_values, &values[..reach], (queries + self.heads.keys + head) * d);
        for Member { span, rows, .. } in &group.members {
            let width = span.cached + span.own_reach(rows.end - 1);
            self.queries(span, rows, room);
            self.scores(room, wide_keys, (span, width), scores);
            self.averages(simd, span, rows, (scores, width), wide_values);
        }
    }

    /// Keys or values of the cache as f32, and behind them those of uncached rows, which are `offset` into a row of `qkv`.
    #[inline(always)]
    fn widen(&self, wide: &mut Lined, cached: &[T], offset: usize) {
        let (d, group) = (self.heads.width, self.task.group);
        wide.resize(cached.len() + group.uncached * d);
        let (of_cache, uncached) = wide.split_at_mut(cached.len());
        for (wide, cached) in of_cache.chunks_mut(LINE).zip(cached.chunks(LINE)) {
            fetch(cached.as_ptr().wrapping_byte_add(AHEAD));
            for (wide, value) in wide.iter_mut().zip(cached) {
                *wide = value.to_f32();
            }
        }
        if group.uncached == 0 {
            return;
        }
        let members = group.members.iter().filter(|member| member.uncached);
        let rows = members.flat_map(|member| member.span.rows.clone());
        for (wide, row) in uncached.chunks_exact_mut(d).zip(rows) {
            let from = row * self.heads.row_len() + offset;
            for (wide, value) in wide.iter_mut().zip(&self.qkv[from..from + d]) {
                *wide = value.to_f32();
            }
        }
    }

    /// The scaled queries of some rows.
    #[inline(always)]
    fn queries(&self, span: &Seen, rows: &Range<usize>, queries: &mut Lined) {
        let (d, g) = (self.heads.width, self.heads.group());
        let scale = 1.0 / (d as f32).sqrt();
        queries.resize(rows.len() * g * d);
        for (row, queries) in rows.clone().zip(queries.chunks_exact_mut(g * d)) {
            let from = (span.rows.start + row) * self.heads.row_len() + self.task.head * g * d;
            for (query, value) in queries.iter_mut().zip(&self.qkv[from..from + g * d]) {
                *query = value.to_f32() * scale;
            }
        }
    }

    /// The products of queries with the first `width` keys that a span sees, `width` for each.
    #[inline(always)]
    fn scores(&self, queries: &[f32], keys: &[f32], (span, width): (&Seen, usize), scores: &mut Lined) {
        let d = self.heads.width;
        scores.resize(queries.len() / d * width);
        let own = width - span.cached;
        let parts = match span.own == span.cached {
            true => [(0, 0, width), (0, 0, 0)],
            false => [(0, 0, span.cached), (span.cached, span.own, own)],
        };
        let mut room = Vec::new();
        let left = Left::new(queries, d, &mut room);
        for (offset, first, count) in parts {
            let mut sink = |query: usize, key: usize, products: &[f32]| {
                scores[query * width + offset + key..][..products.len()].copy_from_slice(products);
            };
            left.products(&keys[first * d..(first + count) * d], d, &mut sink);
        }
    }

    /// The averages of values under the scores of some rows.
    #[inline(always)]
    fn averages<S: Simd>(
        &self,
        simd: S,
        span: &Seen,
        rows: &Range<usize>,
        (scores, width): (&mut [f32], usize),
        values: &[f32],
    ) {
        let (d, g) = (self.heads.width, self.heads.group());
        let scores = scores[..rows.len() * g * width].chunks_exact_mut(g * width);
        for (row, scores) in rows.clone().zip(scores) {
            let at = (span.rows.start + row) * self.heads.queries * d + self.task.head * g * d;
            // SAFETY: no other task has this row and these heads.
            let out = unsafe { self.out.part(at..at + g * d) };
            let average = Average { span: *span, row, width, values, d };
            let mut query = 0;
            while query < g {
                let (scores, out) = (&mut scores[query * width..], &mut out[query * d..]);
                // The sums of all queries and a value, all in registers.
                query += match g - query {
                    3.. if S::REGISTER_COUNT >= 32 => average.of::<T, S, 3>(simd, scores, out),
                    _ => average.of::<T, S, 1>(simd, scores, out),
                };
            }
        }
    }
}

/// Asks for the first numbers at `start`, which need not exist.
#[inline(always)]
fn ask_for<T>(start: *const T) {
    for line in (0..AHEAD).step_by(LINE * size_of::<bf16>()) {
        fetch(start.wrapping_byte_add(line));
    }
}

/// All spans of a pass together, where libtorch has a kernel for that.
pub(crate) fn packed<'a>(qkv: &Tensor, spans: &'a [SpanCache]) -> Option<&'a Packed> {
    let first = spans.first().filter(|_| has_kernel(qkv.kind(), qkv.device(), spans[0].keys.size()[2]))?;
    first.span.of_pass.get_or_init(|| Packed::new(spans, qkv.device())).as_ref()
}

/// A key/value head is a batch of its query heads, so that the cache is read in place.
fn composed(qkv: &Tensor, heads: HeadShape, spans: &[SpanCache]) -> Tensor {
    let (h, g, d) = (heads.keys as i64, heads.group() as i64, heads.width as i64);
    let parts: Vec<Tensor> = spans
        .iter()
        .map(|SpanCache { span, keys, values }| {
            let (start, t) = (span.rows.start as i64, span.rows.len() as i64);
            let s = span.cached as i64 + t;
            let own = |from: i64| {
                qkv.narrow(0, start, t).narrow(1, from * d, h * d).view([t, h, d]).transpose(0, 1)
            };
            let q_hgtd =
                qkv.narrow(0, start, t).narrow(1, 0, g * h * d).view([t, h, g, d]).permute([1, 2, 0, 3]);
            let spread = |x: &Tensor, offset: i64| {
                let x = match span.stored() {
                    Some(_) => x.narrow(1, 0, s),
                    None => Tensor::cat(&[x.narrow(1, 0, s - t), own(offset)], 1),
                };
                x.unsqueeze(1).expand([h, g, s, d], false)
            };
            let mask = span.mask(qkv.kind(), qkv.device());
            let y_hgtd = Tensor::scaled_dot_product_attention(
                &q_hgtd,
                &spread(keys, h * g),
                &spread(values, h * g + h),
                Some(mask),
                0.0,
                false,
                None,
                false,
            );
            y_hgtd.permute([2, 0, 1, 3]).reshape([t, g * h * d])
        })
        .collect();
    Tensor::cat(&parts, 0)
}

#[cfg(test)]
mod tests;
