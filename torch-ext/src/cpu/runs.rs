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
        pool::{parallel, threads},
        threads::SharedTensor,
    },
    gpu::packed_runs::PackedRuns,
    heads::part,
};

/// Groups of runs whose gradients of keys and values are summed in parallel: each needs memory for all of them. The number
/// does not depend on the machine, so sums have one order.
const RUN_GROUPS: usize = 4;

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
    let out = Tensor::empty([n, width], (qkv.kind(), qkv.device()));
    let shape = [heads.keys as i64, heads.group() as i64, n];
    let log_sums = Tensor::empty(shape, (Kind::Float, qkv.device()));
    let (prefixes, before) = context.map_or((qkv, heads.queries), |context| (context, 0));
    let parts = [qkv, prefixes, &out, &log_sums].map(SharedTensor);
    let runs: &[Run] = runs;
    in_tasks(runs.len(), heads.keys, &|run, key_heads| {
        let (run, [qkv, prefixes, out, log_sums]) = (&runs[run], parts.each_ref().map(SharedTensor::get));
        let of_heads = |x: Tensor| part(&x, 0, key_heads);
        let q = of_heads(queries(qkv, heads, &run.own));
        let attend = |kv: [Tensor; 2], causal: bool| {
            let [k, v] = kv.map(of_heads);
            flash(&q, &k, &v, causal)
        };
        let (mut found, mut sums) = attend(keys_values(qkv, heads.queries, heads, &run.own), true);
        if !run.prefix.is_empty() {
            let (prefix, prefix_sums) = attend(keys_values(prefixes, before, heads, &run.prefix), false);
            let all = prefix_sums.logaddexp(&sums);
            let [own_weight, weight] = [&sums, &prefix_sums].map(|part| (part - &all).exp().unsqueeze(3));
            found = found.g_mul_(&own_weight).addcmul_(&prefix, &weight);
            sums = all;
        }
        of_heads(queries(out, heads, &run.own)).copy_(&found);
        part(&of_heads(log_sums.shallow_clone()), 2, &run.own).copy_(&sums);
    });
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
    // Several runs may see the same keys and values, so each group of runs sums their gradients by itself, in fp32. Those of a
    // context are not wanted: what remains are the runs' own rows, which do not overlap.
    let has_context = context.is_some();
    let (prefixes, before) = context.map_or((qkv, heads.queries), |context| (context, 0));
    let groups = if has_context { runs.len() } else { runs.len().min(RUN_GROUPS) };
    let copies = if has_context { 1 } else { groups };
    let sums = Tensor::zeros([copies as i64, 2, h, n, d], (Kind::Float, qkv.device()));
    let grad_qkv = qkv.empty_like();
    let parts = [qkv, prefixes, &attended.out, &attended.log_sums, grad, &grad_qkv, &sums];
    let parts = parts.map(SharedTensor);
    let runs: &[Run] = runs;
    in_tasks(groups, heads.keys, &|group, key_heads| {
        let [qkv, prefixes, out, log_sums, grad, grad_qkv, sums] = parts.each_ref().map(SharedTensor::get);
        let of_heads = |x: Tensor| part(&x, 0, key_heads);
        let add = |kv: [&Tensor; 2], keys: &Range<usize>| {
            for (side, gradient) in kv.into_iter().enumerate() {
                let sums = of_heads(sums.get((group % copies) as i64).get(side as i64));
                let sum = gradient.sum_dim_intlist([1i64].as_slice(), false, Kind::Float);
                let _ = part(&sums, 1, keys).g_add_(&sum);
            }
        };
        for run in runs.iter().skip(group).step_by(groups) {
            let [q, out, grad, mut grad_q] =
                [qkv, out, grad, grad_qkv].map(|x| of_heads(queries(x, heads, &run.own)));
            let log_sums = part(&of_heads(log_sums.shallow_clone()), 2, &run.own).contiguous();
            let backward = |kv: [Tensor; 2], causal: bool| {
                let [k, v] = kv.map(of_heads);
                flash_backward(&grad, [&q, &k, &v], (&out, &log_sums), causal)
            };
            let [dq, dk, dv] = backward(keys_values(qkv, heads.queries, heads, &run.own), true);
            grad_q.copy_(&dq);
            add([&dk, &dv], &run.own);
            if !run.prefix.is_empty() {
                let [dq, dk, dv] = backward(keys_values(prefixes, before, heads, &run.prefix), false);
                let _ = grad_q.g_add_(&dq);
                if !has_context {
                    add([&dk, &dv], &run.prefix);
                }
            }
        }
    });
    let target = grad_qkv.narrow(1, h * g * d, 2 * h * d).view([n, 2, h, d]);
    target.permute([1, 2, 0, 3]).copy_(&sums.sum_dim_intlist([0i64].as_slice(), false, Kind::Float));
    grad_qkv
}

/// Calls `run(item, key heads)` for some items, for all key heads at once or, if there are few items, for each by itself.
fn in_tasks(items: usize, key_heads: usize, run: &(dyn Fn(usize, &Range<usize>) + Sync)) {
    const TASKS_PER_THREAD: usize = 4;
    let parts = if items < TASKS_PER_THREAD * threads() { key_heads } else { 1 };
    let heads_per_task = key_heads / parts;
    parallel(items * parts, &|task| {
        let first = task % parts * heads_per_task;
        tch::no_grad(|| run(task / parts, &(first..first + heads_per_task)));
    });
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

/// Keys and values of some rows, each `[h, g, s, d]` and the same for each of g, as views; `before` heads precede the keys.
fn keys_values(x: &Tensor, before: usize, heads: HeadShape, rows: &Range<usize>) -> [Tensor; 2] {
    let (h, g, d, s) = (heads.keys as i64, heads.group() as i64, heads.width as i64, rows.len() as i64);
    [before as i64, before as i64 + h].map(|first| {
        let x = part(x, 0, rows).narrow(1, first * d, h * d).view([s, h, 1, d]);
        x.permute([1, 2, 0, 3]).expand([h, g, s, d], false)
    })
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
