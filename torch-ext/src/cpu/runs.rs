//! Attention over the runs of a training row, and its gradient. The tokens of a run see a prefix of earlier rows in full, and
//! each other causally. On a CPU libtorch's flash kernel computes prefix and own part separately, and the two are joined by
//! their log-sum-exps: so there is no mask and no masked product, and key/value heads are never repeated. On other devices
//! all runs go into one call, and all prefixes into another ([`crate::gpu::packed_runs`]).
//!
//! The prefixes can also be rows of an earlier pass, the context, of which only keys and values are needed. They have no
//! gradient.
//!
//! Legend: n rows, m rows of the context, t queries and s keys of a part,
//! h key/value heads, g query heads per key/value head, d head width.

use std::{
    cell::OnceCell,
    ops::{Deref, Range},
};

use tch::{Device, Kind, Tensor};

use crate::{
    HeadShape,
    cpu::{
        memory::{elements, elements_mut},
        threads::parallel_chunks,
    },
    gpu::packed_runs::PackedRuns,
    heads::part,
};

/// Rows of a task that joins parts.
const ROWS_PER_TASK: usize = 32;

/// Rows that see the same prefix. All runs together cover each row once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Rows that all of the run's rows see: of the context, if there is one.
    pub prefix: Range<usize>,
    /// The run's rows, each of which sees itself and those before it.
    pub own: Range<usize>,
}

/// The runs of a row.
#[derive(Default)]
pub struct Runs {
    runs: Vec<Run>,
    /// On the device of the row; made once for all layers.
    packed: OnceCell<PackedRuns>,
}

impl From<Vec<Run>> for Runs {
    fn from(runs: Vec<Run>) -> Self {
        Self { runs, packed: OnceCell::new() }
    }
}

impl Deref for Runs {
    type Target = [Run];

    fn deref(&self) -> &[Run] {
        &self.runs
    }
}

impl Runs {
    fn packed(&self, device: Device) -> &PackedRuns {
        self.packed.get_or_init(|| PackedRuns::new(&self.runs, device))
    }
}

/// The result of attention, and the sums that its gradient needs.
pub struct Attended {
    /// `[n, g * h * d]`.
    pub out: Tensor,
    /// The log-sum-exp of every row's scores, fp32 `[h, g, n]`.
    pub log_sums: Tensor,
}

/// Attention of the rows `qkv` `[n, g * h queries | h keys | h values]`, each head `d` wide. `context`: keys and values
/// `[m, h keys | h values]` that prefixes refer to, where they are not earlier rows of `qkv`.
///
/// # Panics
/// If the runs do not cover the rows one after the other, or a prefix does not end before its run or within the context.
pub fn attend_runs(qkv: &Tensor, context: Option<&Tensor>, heads: HeadShape, runs: &Runs) -> Attended {
    check(qkv, context, heads, runs);
    if qkv.device() != Device::Cpu {
        return runs.packed(qkv.device()).attend(qkv, context, heads);
    }
    if is_narrow(qkv) {
        let wide = |x: &Tensor| x.to_kind(Kind::Float);
        let Attended { out, log_sums } = attend_runs(&wide(qkv), context.map(wide).as_ref(), heads, runs);
        return Attended { out: out.to_kind(qkv.kind()), log_sums };
    }
    let (n, width) = (qkv.size()[0], (heads.queries * heads.width) as i64);
    let mut out = Tensor::empty([n, width], (qkv.kind(), qkv.device()));
    let shape = [heads.keys as i64, heads.group() as i64, n];
    let log_sums = Tensor::empty(shape, (Kind::Float, qkv.device()));
    for run in runs.iter() {
        let q = queries(qkv, heads, &run.own);
        let attend = |[k, v]: [Tensor; 2], causal: bool| flash(&q, &k, &v, causal);
        let (own, own_sums) = attend(keys_values(qkv, heads, &run.own), true);
        let target_sums = part(&log_sums, 2, &run.own);
        if run.prefix.is_empty() {
            queries(&out, heads, &run.own).copy_(&own);
            target_sums.shallow_clone().copy_(&own_sums);
            continue;
        }
        let (prefix, prefix_sums) = attend(prefix_keys_values(qkv, context, heads, &run.prefix), false);
        let sums = prefix_sums.logaddexp(&own_sums);
        let weights = [prefix_sums, own_sums].map(|part| (part - &sums).exp());
        join(&mut out, heads, &run.own, [(&prefix, &weights[0]), (&own, &weights[1])]);
        target_sums.shallow_clone().copy_(&sums);
    }
    Attended { out, log_sums }
}

/// The gradient of `qkv`, for the gradient `grad` of `attended.out`; `context` as in [`attend_runs`].
pub fn attend_runs_backward(
    qkv: &Tensor,
    context: Option<&Tensor>,
    heads: HeadShape,
    runs: &Runs,
    (attended, grad): (&Attended, &Tensor),
) -> Tensor {
    if qkv.device() != Device::Cpu {
        return runs.packed(qkv.device()).backward(qkv, context, heads, (attended, grad));
    }
    if is_narrow(qkv) {
        let [wide, out, grad] = [qkv, &attended.out, grad].map(|x| x.to_kind(Kind::Float));
        let context = context.map(|x| x.to_kind(Kind::Float));
        let attended = Attended { out, log_sums: attended.log_sums.shallow_clone() };
        let found = attend_runs_backward(&wide, context.as_ref(), heads, runs, (&attended, &grad));
        return found.to_kind(qkv.kind());
    }
    let (h, g, d) = (heads.keys as i64, heads.group() as i64, heads.width as i64);
    let n = qkv.size()[0];
    // Several runs see the same keys and values: their gradients are summed in fp32.
    let sums = Tensor::zeros([2, h, n, d], (Kind::Float, qkv.device()));
    let grad_qkv = qkv.empty_like();
    for run in runs.iter() {
        let [q, out, grad, mut grad_q] =
            [qkv, &attended.out, grad, &grad_qkv].map(|x| queries(x, heads, &run.own));
        let log_sums = part(&attended.log_sums, 2, &run.own).contiguous();
        let prefix = (!run.prefix.is_empty()).then_some((&run.prefix, false));
        for (index, (keys, causal)) in prefix.into_iter().chain([(&run.own, true)]).enumerate() {
            let [k, v] = match causal {
                true => keys_values(qkv, heads, keys),
                false => prefix_keys_values(qkv, context, heads, keys),
            };
            let [dq, dk, dv] = flash_backward(&grad, [&q, &k, &v], (&out, &log_sums), causal);
            if index == 0 {
                grad_q.copy_(&dq);
            } else {
                let _ = grad_q.g_add_(&dq);
            }
            if !causal && context.is_some() {
                continue;
            }
            for (side, gradient) in [dk, dv].iter().enumerate() {
                let mut target = part(&sums.get(side as i64), 1, keys);
                let _ = target.g_add_(&gradient.sum_dim_intlist([1i64].as_slice(), false, Kind::Float));
            }
        }
    }
    let target = grad_qkv.narrow(1, h * g * d, 2 * h * d).view([n, 2, h, d]);
    target.permute([1, 2, 0, 3]).copy_(&sums);
    grad_qkv
}

/// On a CPU libtorch's flash kernel is several times slower in bf16 than in fp32, above all its backward pass: its blocks are
/// too small for bf16 products to pay off.
fn is_narrow(x: &Tensor) -> bool {
    x.kind() != Kind::Float
}

fn check(qkv: &Tensor, context: Option<&Tensor>, heads: HeadShape, runs: &[Run]) {
    let n = heads.rows_of(qkv);
    if let Some(context) = context {
        let (m, width) = context.size2().expect("the context is [rows, keys and values]");
        assert_eq!(width as usize, 2 * heads.keys * heads.width, "keys and values of the context");
        assert!(runs.iter().all(|run| run.prefix.end <= m as usize), "prefixes in {m} rows: {runs:?}");
    }
    let mut covered = 0;
    for run in runs {
        assert_eq!(run.own.start, covered, "runs follow each other: {runs:?}");
        let is_before = context.is_some() || run.prefix.end <= run.own.start;
        assert!(!run.own.is_empty() && is_before, "{run:?}");
        covered = run.own.end;
    }
    assert_eq!(covered, n, "runs cover every row: {runs:?}");
}

/// `[h, g, t, d]` of some rows that begin with queries, as a view.
fn queries(x: &Tensor, heads: HeadShape, rows: &Range<usize>) -> Tensor {
    let (h, g, d, t) = (heads.keys as i64, heads.group() as i64, heads.width as i64, rows.len() as i64);
    part(x, 0, rows).narrow(1, 0, h * g * d).view([t, h, g, d]).permute([1, 2, 0, 3])
}

/// Keys and values of some rows, each `[h, g, s, d]` and the same for each of g, as views.
fn keys_values(qkv: &Tensor, heads: HeadShape, rows: &Range<usize>) -> [Tensor; 2] {
    keys_values_behind(qkv, heads.queries, heads, rows)
}

/// The same of a prefix, in the context or in `qkv`.
fn prefix_keys_values(
    qkv: &Tensor,
    context: Option<&Tensor>,
    heads: HeadShape,
    rows: &Range<usize>,
) -> [Tensor; 2] {
    match context {
        Some(context) => keys_values_behind(context, 0, heads, rows),
        None => keys_values(qkv, heads, rows),
    }
}

/// The same, where `before` heads precede the keys.
fn keys_values_behind(x: &Tensor, before: usize, heads: HeadShape, rows: &Range<usize>) -> [Tensor; 2] {
    let (h, g, d, s) = (heads.keys as i64, heads.group() as i64, heads.width as i64, rows.len() as i64);
    [before as i64, before as i64 + h].map(|first| {
        let x = part(x, 0, rows).narrow(1, first * d, h * d).view([s, h, 1, d]);
        x.permute([1, 2, 0, 3]).expand([h, g, s, d], false)
    })
}

/// Writes weight * part, summed over both parts, to `rows` of `out`. Parts are `[h, g, t, d]` in the kernel's memory order,
/// weights `[h, g, t]`.
fn join(out: &mut Tensor, heads: HeadShape, rows: &Range<usize>, parts: [(&Tensor, &Tensor); 2]) {
    // The flash kernel's memory order is [h, t, g, d].
    let [a, b] = parts.map(|(part, _)| part.transpose(1, 2));
    if !a.is_contiguous() || !b.is_contiguous() {
        let scaled = parts.map(|(part, weight)| part.to_kind(Kind::Float) * weight.unsqueeze(3));
        queries(out, heads, rows).copy_(&(&scaled[0] + &scaled[1]));
        return;
    }
    let weights = parts.map(|(_, weight)| weight.contiguous());
    join_kernel(out, heads, rows, [(&a, &weights[0]), (&b, &weights[1])]);
}

fn join_kernel(out: &mut Tensor, heads: HeadShape, rows: &Range<usize>, parts: [(&Tensor, &Tensor); 2]) {
    let (h, g, d, t) = (heads.keys, heads.group(), heads.width, rows.len());
    let [(a, a_weights), (b, b_weights)] =
        parts.map(|(part, weights)| (elements::<f32>(part), elements::<f32>(weights)));
    let width = h * g * d;
    let out = &mut elements_mut::<f32>(out)[rows.start * width..rows.end * width];
    parallel_chunks(out, ROWS_PER_TASK * width, &|task, out| {
        for (row, out) in (task * ROWS_PER_TASK..).zip(out.chunks_exact_mut(width)) {
            for (head, out) in out.chunks_exact_mut(d).enumerate() {
                let (key_head, member) = (head / g, head % g);
                let part = ((key_head * t + row) * g + member) * d;
                let (a, b) = (&a[part..part + d], &b[part..part + d]);
                let weight = head * t + row;
                let (wa, wb) = (a_weights[weight], b_weights[weight]);
                for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
                    *out = a * wa + b * wb;
                }
            }
        }
    });
}

/// Attention of one part and its log-sum-exps `[h, g, t]`, fp32.
fn flash(q: &Tensor, k: &Tensor, v: &Tensor, causal: bool) -> (Tensor, Tensor) {
    Tensor::internal_scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, causal, None::<&Tensor>, None)
}

/// The gradients of queries, keys and values `[h, g, .., d]` that come from this part of the keys, in the attention over
/// all parts with the result `out` and the log-sum-exps `log_sums`.
fn flash_backward(
    grad: &Tensor,
    [q, k, v]: [&Tensor; 3],
    (out, log_sums): (&Tensor, &Tensor),
    causal: bool,
) -> [Tensor; 3] {
    let (dq, dk, dv) = Tensor::internal_scaled_dot_product_flash_attention_for_cpu_backward(
        grad,
        q,
        k,
        v,
        out,
        log_sums,
        0.0,
        causal,
        None::<&Tensor>,
        None,
    );
    [dq, dk, dv]
}

#[cfg(test)]
mod tests;
