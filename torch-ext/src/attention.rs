//! Grouped-query attention of the rows of a pass over KV caches. On a CPU every row is computed for itself: its keys in the
//! order of their positions, whether they lie in the cache or among the rows of the pass, so that a row behind a branch
//! gives the same bits as the same token decoded alone.
//!
//! Legend: n rows of the pass, s keys, h key/value heads, g query heads per key/value head, d head width, c capacity.

use std::{
    cell::{OnceCell, RefCell},
    ops::Range,
};

use half::bf16;
use pulp::{Arch, Simd, WithSimd};
use tch::{Device, Kind, Tensor};

use crate::{
    dots::Dots,
    exp::exp,
    memory::{Element, Shared, elements, elements_mut, is_plain},
    rotary::HeadShape,
    threads::parallel,
};

/// Queries of a task.
const SHARE: usize = 48;
/// Multiply-adds below which one thread does everything.
const WORTH_A_TEAM: usize = 200_000;

/// The rows of one sequence in a pass, and what each of them sees: what is cached, the rows it follows, itself.
pub struct Span {
    /// Which rows of the pass.
    pub rows: Range<usize>,
    /// Tokens cached before them.
    pub cached: usize,
    /// `None` when every row follows the one before.
    paths: Option<Paths>,
    mask: OnceCell<Tensor>,
}

/// For each row the rows from the first one behind the cache down to itself.
struct Paths {
    starts: Vec<usize>,
    rows: Vec<usize>,
}

/// A span with its keys and values in one layer, each `[h, c, d]` and contiguous.
pub struct SpanCache<'a> {
    /// The span.
    pub span: &'a Span,
    /// The cache's keys; those of the span's rows go behind the cached ones.
    pub keys: Tensor,
    /// Its values.
    pub values: Tensor,
}

impl Span {
    /// Every row follows the one before.
    pub fn chain(rows: Range<usize>, cached: usize) -> Self {
        Self { rows, cached, paths: None, mask: OnceCell::new() }
    }

    /// `parents[row]` is the row that each row follows, counted within the span; none if it follows the cached tokens.
    pub fn tree(rows: Range<usize>, cached: usize, parents: &[Option<usize>]) -> Self {
        assert_eq!(rows.len(), parents.len(), "a parent for every row");
        let mut paths = Paths { starts: vec![0], rows: Vec::new() };
        for (row, parent) in parents.iter().enumerate() {
            if let Some(parent) = *parent {
                paths.rows.extend_from_within(paths.starts[parent]..paths.starts[parent + 1]);
            }
            paths.rows.push(row);
            paths.starts.push(paths.rows.len());
        }
        Self { rows, cached, paths: Some(paths), mask: OnceCell::new() }
    }

    fn seen(&self) -> Seen<'_> {
        Seen { rows: &self.rows, cached: self.cached, paths: self.paths.as_ref() }
    }

    /// The same as an additive mask `[rows, s]`: 0 where seen, -inf where not.
    fn mask(&self, kind: Kind, device: Device) -> &Tensor {
        self.mask.get_or_init(|| {
            let (t, s) = (self.rows.len(), self.cached + self.rows.len());
            let mut seen = vec![f32::NEG_INFINITY; t * s];
            for (row, seen) in seen.chunks_exact_mut(s).enumerate() {
                seen[..self.cached].fill(0.0);
                for depth in 0..self.paths.as_ref().map_or(row + 1, |paths| paths.of(row).len()) {
                    seen[self.cached + self.seen().place(row, depth)] = 0.0;
                }
            }
            Tensor::from_slice(&seen).view([t as i64, s as i64]).to_kind(kind).to_device(device)
        })
    }
}

/// A span without its mask, for the threads of a team.
#[derive(Clone, Copy)]
struct Seen<'a> {
    rows: &'a Range<usize>,
    cached: usize,
    paths: Option<&'a Paths>,
}

impl Seen<'_> {
    /// Keys among which a row up to `row` finds all it sees.
    #[inline(always)]
    fn reach(self, row: usize) -> usize {
        self.cached + if self.paths.is_some() { self.rows.len() } else { row + 1 }
    }

    /// Moves the scores of the keys that `row` sees together, in the order of their positions; how many they are.
    #[inline(always)]
    fn gather(self, row: usize, scores: &mut [f32]) -> usize {
        match self.paths {
            None => self.cached + row + 1,
            Some(paths) => {
                let path = paths.of(row);
                for (depth, &at) in path.iter().enumerate() {
                    scores[self.cached + depth] = scores[self.cached + at];
                }
                self.cached + path.len()
            }
        }
    }

    /// Where the key at a position that `row` sees lies behind the cached ones.
    #[inline(always)]
    fn place(self, row: usize, depth: usize) -> usize {
        self.paths.map_or(depth, |paths| paths.of(row)[depth])
    }
}

impl Paths {
    #[inline(always)]
    fn of(&self, row: usize) -> &[usize] {
        &self.rows[self.starts[row]..self.starts[row + 1]]
    }
}

/// The spans cover the `n` rows of a pass, and their caches have the right shape and enough room.
pub(crate) fn check_spans(spans: &[SpanCache], heads: HeadShape, n: usize) {
    let mut next = 0;
    for SpanCache { span, keys, values } in spans {
        let (h, c, d) = keys.size3().expect("keys are [heads, capacity, width]");
        assert_eq!((h as usize, d as usize, values.size()), (heads.keys, heads.width, keys.size()));
        let Span { rows, cached, .. } = span;
        assert!(
            rows.start == next && cached + rows.len() <= c as usize,
            "{rows:?} after {next}, at {cached} of {c}"
        );
        next = rows.end;
    }
    assert_eq!(next, n, "every row belongs to a span");
}

/// Attention outputs `[n, g * h * d]` of the queries in `qkv` `[n, (g * h + 2 * h) * d]`, rotated as the keys in the caches
/// are; the spans cover all rows.
pub fn attend(qkv: &Tensor, heads: HeadShape, spans: &[SpanCache]) -> Tensor {
    let (n, row) = qkv.size2().expect("qkv is [rows, heads]");
    assert_eq!(row as usize, heads.row_len(), "{heads:?}");
    check_spans(spans, heads, n as usize);
    if !is_plain(qkv) {
        return composed(qkv, heads, spans);
    }
    match qkv.kind() {
        Kind::Float => fused::<f32>(qkv, heads, spans),
        _ => fused::<bf16>(qkv, heads, spans),
    }
}

fn fused<T: Element>(qkv: &Tensor, heads: HeadShape, spans: &[SpanCache]) -> Tensor {
    let width = (heads.queries * heads.width) as i64;
    let mut out = Tensor::empty([qkv.size()[0], width], (qkv.kind(), qkv.device()));
    let share = (SHARE / heads.group()).max(1);
    let tasks: Vec<Task<T>> = spans
        .iter()
        .flat_map(|cache| {
            let (keys, values): (&[T], &[T]) = (elements(&cache.keys), elements(&cache.values));
            let len = keys.len() / heads.keys;
            let of_head = move |head: usize| {
                let memory = head * len..(head + 1) * len;
                (0..cache.span.rows.len()).step_by(share).map(move |first| Task {
                    span: cache.span.seen(),
                    rows: first..(first + share).min(cache.span.rows.len()),
                    head,
                    keys: &keys[memory.clone()],
                    values: &values[memory.clone()],
                })
            };
            (0..heads.keys).flat_map(of_head)
        })
        .collect();
    let qkv: &[T] = elements(qkv);
    let target = Shared::new(elements_mut::<T>(&mut out));
    let run = |task: &Task<T>| Arch::new().dispatch(Kernel { task, qkv, heads, out: &target });
    let work: usize = tasks.iter().map(|task| task.rows.len() * task.span.reach(task.rows.end - 1)).sum();
    if work * heads.group() * heads.width * 2 < WORTH_A_TEAM {
        tasks.iter().for_each(run);
    } else {
        parallel(tasks.len(), &|at| run(&tasks[at]));
    }
    out
}

/// Some rows of a span under one key/value head.
struct Task<'a, T> {
    span: Seen<'a>,
    rows: Range<usize>,
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
    queries: Vec<f32>,
    scores: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
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
        let Self { task: Task { span, rows, head, keys, values }, qkv, heads, out } = self;
        let (d, g) = (heads.width, heads.group());
        let s = span.reach(rows.end - 1);
        let scale = 1.0 / (d as f32).sqrt();
        scratch.queries.clear();
        for row in rows.clone() {
            let from = (span.rows.start + row) * heads.row_len() + head * g * d;
            for query in &qkv[from..from + g * d] {
                scratch.queries.push(query.to_f32() * scale);
            }
        }
        scratch.scores.resize(rows.len() * g * s, 0.0);
        let scores = &mut scratch.scores[..rows.len() * g * s];
        let sink = |query: usize, first: usize, products: &[f32]| {
            scores[query * s + first..][..products.len()].copy_from_slice(products);
        };
        Dots { left: &scratch.queries, right: &keys[..s * d], k: d, scratch: &mut scratch.keys, sink }
            .with_simd(simd);
        let values = T::widened(&values[..s * d], &mut scratch.values);
        for (query, scores) in scores.chunks_exact_mut(s).enumerate() {
            let row = rows.start + query / g;
            let seen = span.gather(row, scores);
            let total = softmax(&mut scores[..seen]);
            let at = (span.rows.start + row) * heads.queries * d + (head * g + query % g) * d;
            // SAFETY: no other task has this row and head.
            let out = unsafe { out.part(at..at + d) };
            let weights = Weights { span: *span, row, weights: &scores[..seen], total };
            let mut column = 0;
            while column < d {
                let out = &mut out[column..];
                column += match d - column {
                    64.. => weights.average::<T, 64>(&values[column..], d, out),
                    32.. => weights.average::<T, 32>(&values[column..], d, out),
                    8.. => weights.average::<T, 8>(&values[column..], d, out),
                    _ => weights.average::<T, 1>(&values[column..], d, out),
                };
            }
        }
    }
}

/// e^(score - largest score) in place, and the sum of those.
#[inline(always)]
fn softmax(scores: &mut [f32]) -> f32 {
    const LANES: usize = 16;
    let mut peaks = [f32::NEG_INFINITY; LANES];
    for chunk in scores.chunks(LANES) {
        for (peak, score) in peaks.iter_mut().zip(chunk) {
            *peak = if *score > *peak { *score } else { *peak };
        }
    }
    let peak = peaks.into_iter().fold(f32::NEG_INFINITY, f32::max);
    let mut sums = [0.0f32; LANES];
    let (chunks, rest) = scores.as_chunks_mut::<LANES>();
    for chunk in chunks {
        for (sum, score) in sums.iter_mut().zip(chunk) {
            *score = exp(*score - peak);
            *sum += *score;
        }
    }
    for (sum, score) in sums.iter_mut().zip(rest) {
        *score = exp(*score - peak);
        *sum += *score;
    }
    sums.iter().sum()
}

/// One query's softmax over the keys it sees.
struct Weights<'a> {
    span: Seen<'a>,
    row: usize,
    weights: &'a [f32],
    total: f32,
}

impl Weights<'_> {
    /// Where the key at a position lies.
    #[inline(always)]
    fn key(&self, position: usize) -> usize {
        let Seen { cached, .. } = self.span;
        if position < cached { position } else { cached + self.span.place(self.row, position - cached) }
    }

    /// The weighted average of `W` columns of `values`, whose rows are `d` apart.
    #[inline(always)]
    fn average<T: Element, const W: usize>(&self, values: &[f32], d: usize, out: &mut [T]) -> usize {
        // Two sums by the parity of the position: one chain of additions would wait for itself.
        let (mut sums, mut odd) = ([0.0f32; W], [0.0f32; W]);
        let (pairs, last) = self.weights.as_chunks::<2>();
        for (pair, [even_weight, odd_weight]) in pairs.iter().enumerate() {
            add(&mut sums, *even_weight, &values[self.key(2 * pair) * d..]);
            add(&mut odd, *odd_weight, &values[self.key(2 * pair + 1) * d..]);
        }
        if let [weight] = last {
            add(&mut sums, *weight, &values[self.key(2 * pairs.len()) * d..]);
        }
        for (sum, odd) in sums.iter_mut().zip(odd) {
            *sum += odd;
        }
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = T::from_f32(sum / self.total);
        }
        W
    }
}

#[inline(always)]
fn add<const W: usize>(sums: &mut [f32; W], weight: f32, value: &[f32]) {
    for (sum, value) in sums.iter_mut().zip(&value[..W]) {
        *sum = value.mul_add(weight, *sum);
    }
}

/// A key/value head is a batch of its query heads, so that the cache is read in place.
fn composed(qkv: &Tensor, heads: HeadShape, spans: &[SpanCache]) -> Tensor {
    let (h, g, d) = (heads.keys as i64, heads.group() as i64, heads.width as i64);
    let parts: Vec<Tensor> = spans
        .iter()
        .map(|SpanCache { span, keys, values }| {
            let (start, t) = (span.rows.start as i64, span.rows.len() as i64);
            let s = span.cached as i64 + t;
            let q_hgtd =
                qkv.narrow(0, start, t).narrow(1, 0, g * h * d).view([t, h, g, d]).permute([1, 2, 0, 3]);
            let spread = |x: &Tensor| x.narrow(1, 0, s).unsqueeze(1).expand([h, g, s, d], false);
            let mask = span.mask(qkv.kind(), qkv.device());
            let y_hgtd = Tensor::scaled_dot_product_attention(
                &q_hgtd,
                &spread(keys),
                &spread(values),
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
mod tests {
    use super::*;
    use crate::memory::assert_close;

    fn random(shape: &[i64], kind: Kind) -> Tensor {
        Tensor::randn(shape, (Kind::Float, Device::Cpu)).to_kind(kind)
    }

    const HEADS: [HeadShape; 3] = [
        HeadShape { queries: 6, keys: 2, width: 8 },
        HeadShape { queries: 9, keys: 3, width: 64 },
        HeadShape { queries: 4, keys: 4, width: 108 },
    ];

    #[test]
    fn the_kernel_equals_the_operation() {
        for kind in [Kind::Float, Kind::BFloat16] {
            for heads in HEADS {
                let parents: Vec<Option<usize>> =
                    vec![None, Some(0), Some(1), Some(0), Some(3), None, Some(5)];
                let spans = [
                    Span::chain(0..1, 17),
                    Span::tree(1..8, 5, &parents),
                    Span::chain(8..60, 0),
                    Span::chain(60..63, 40),
                ];
                let qkv = random(&[63, heads.row_len() as i64], kind);
                let cache = || random(&[heads.keys as i64, 70, heads.width as i64], kind);
                let spans: Vec<SpanCache> =
                    spans.iter().map(|span| SpanCache { span, keys: cache(), values: cache() }).collect();
                let found = attend(&qkv, heads, &spans);
                assert_close(&found, &composed(&qkv, heads, &spans), &format!("{heads:?}"));
            }
        }
    }

    /// The same tokens as a branch among others, and as the only ones.
    #[test]
    fn a_row_sees_its_path_alone_and_nothing_of_where_it_lies() {
        for kind in [Kind::Float, Kind::BFloat16] {
            let heads = HEADS[1];
            let (h, d) = (heads.keys as i64, heads.width as i64);
            let qkv = random(&[7, heads.row_len() as i64], kind);
            let (keys, values) = (random(&[h, 40, d], kind), random(&[h, 40, d], kind));
            let parents: Vec<Option<usize>> =
                vec![None, Some(0), Some(1), Some(0), Some(3), Some(4), Some(1)];
            let tree = Span::tree(0..7, 20, &parents);
            let together = SpanCache { span: &tree, keys: keys.copy(), values: values.copy() };
            let together = attend(&qkv, heads, &[together]);
            let path = [0, 3, 4, 5];
            let moved = |x: &Tensor| {
                let x = x.copy();
                for (depth, row) in (0..).zip(path) {
                    x.narrow(1, 20 + depth, 1).copy_(&x.narrow(1, 20 + row, 1).copy());
                }
                x
            };
            let (keys, values) = (moved(&keys), moved(&values));
            for (depth, row) in path.into_iter().enumerate() {
                let alone = Span::chain(0..1, 20 + depth);
                let cache =
                    SpanCache { span: &alone, keys: keys.shallow_clone(), values: values.shallow_clone() };
                let found = attend(&qkv.narrow(0, row, 1).contiguous(), heads, &[cache]);
                assert!(found.equal(&together.narrow(0, row, 1)), "{kind:?} row {row}");
            }
        }
    }
}
