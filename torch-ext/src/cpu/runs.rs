//! Attention over the runs of a training row, and its gradient. The tokens of a run see a prefix of earlier rows in full, and
//! each other causally. On a CPU libtorch's flash kernel computes prefix and own part separately, and the two are joined by
//! their log-sum-exps: so there is no mask over the whole row, and key/value heads are never repeated. Short runs share calls
//! ([`bundles`]). On other devices all runs go into one call, and all prefixes into another ([`crate::gpu::packed_runs`]).
//!
//! The prefixes can also be rows of an earlier pass, the context, of which only keys and values are needed. They have no
//! gradient.
//!
//! Legend: n rows, m rows of the context, t queries and s keys of a part,
//! h key/value heads, g query heads per key/value head, d head width.

mod bundles;

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

use bundles::{Bundle, Seen};

/// Groups of bundles whose gradients of keys and values are summed in parallel: each needs memory for all of them. The number
/// does not depend on the machine, so sums have one order.
const GROUPS: usize = 4;

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
    /// On a CPU; made once for all layers.
    bundles: OnceCell<Vec<Bundle>>,
    /// On another device, that of the row; made once for all layers.
    packed: OnceCell<PackedRuns>,
}

impl From<Vec<Run>> for Runs {
    fn from(runs: Vec<Run>) -> Self {
        Self { runs, bundles: OnceCell::new(), packed: OnceCell::new() }
    }
}

impl Deref for Runs {
    type Target = [Run];

    fn deref(&self) -> &[Run] {
        &self.runs
    }
}

impl Runs {
    fn bundles(&self) -> &[Bundle] {
        self.bundles.get_or_init(|| bundles::of(&self.runs))
    }

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
    let bundles = runs.bundles();
    in_tasks(bundles.len(), heads.keys, &|bundle, key_heads| {
        let (bundle, [qkv, prefixes, out, log_sums]) =
            (&bundles[bundle], parts.each_ref().map(SharedTensor::get));
        let of_heads = |x: Tensor| part(&x, 0, key_heads);
        let q = of_heads(queries(qkv, heads, &bundle.own));
        let attend = |[k, v]: [Tensor; 2], seen: &Seen| flash(&q, &k, &v, seen);
        let (mut found, mut sums) =
            attend(bundle.near(qkv, (prefixes, before), heads, key_heads), &bundle.seen_near());
        if !bundle.prefix.is_empty() {
            let (prefix, prefix_sums) =
                attend(keys_values(&[(prefixes, before, &bundle.prefix)], heads, key_heads), &Seen::All);
            let all = prefix_sums.logaddexp(&sums);
            let [own_weight, weight] = [&sums, &prefix_sums].map(|part| (part - &all).exp().unsqueeze(3));
            found = found.g_mul_(&own_weight).addcmul_(&prefix, &weight);
            sums = all;
        }
        of_heads(queries(out, heads, &bundle.own)).copy_(&found);
        part(&of_heads(log_sums.shallow_clone()), 2, &bundle.own).copy_(&sums);
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
    // Several bundles may see the same keys and values, so each group of them sums their gradients by itself, in fp32. Those of
    // a context are not wanted: what remains are the bundles' own rows, which do not overlap.
    let has_context = context.is_some();
    let (prefixes, before) = context.map_or((qkv, heads.queries), |context| (context, 0));
    let bundles = runs.bundles();
    let groups = if has_context { bundles.len() } else { bundles.len().min(GROUPS) };
    let copies = if has_context { 1 } else { groups };
    let sums = Tensor::zeros([copies as i64, 2, h, n, d], (Kind::Float, qkv.device()));
    let grad_qkv = qkv.empty_like();
    let parts = [qkv, prefixes, &attended.out, &attended.log_sums, grad, &grad_qkv, &sums];
    let parts = parts.map(SharedTensor);
    in_tasks(groups, heads.keys, &|group, key_heads| {
        let [qkv, prefixes, out, log_sums, grad, grad_qkv, sums] = parts.each_ref().map(SharedTensor::get);
        let of_heads = |x: Tensor| part(&x, 0, key_heads);
        let add = |kv: &[Tensor; 2], keys: &Range<usize>| {
            for (side, gradient) in kv.iter().enumerate() {
                let sums = of_heads(sums.get((group % copies) as i64).get(side as i64));
                let sum = gradient.sum_dim_intlist([1i64].as_slice(), false, Kind::Float);
                let _ = part(&sums, 1, keys).g_add_(&sum);
            }
        };
        for bundle in bundles.iter().skip(group).step_by(groups) {
            let [q, out, grad, mut grad_q] =
                [qkv, out, grad, grad_qkv].map(|x| of_heads(queries(x, heads, &bundle.own)));
            let log_sums = part(&of_heads(log_sums.shallow_clone()), 2, &bundle.own).contiguous();
            let backward = |[k, v]: [Tensor; 2], seen: &Seen| {
                flash_backward(&grad, [&q, &k, &v], (&out, &log_sums), seen)
            };
            let [dq, dk, dv] =
                backward(bundle.near(qkv, (prefixes, before), heads, key_heads), &bundle.seen_near());
            grad_q.copy_(&dq);
            let rest = bundle.rest.len();
            let [of_rest, of_own] = [0..rest, rest..rest + bundle.own.len()]
                .map(|rows| [&dk, &dv].map(|gradient| part(gradient, 2, &rows)));
            add(&of_own, &bundle.own);
            if !has_context {
                add(&of_rest, &bundle.rest);
            }
            if !bundle.prefix.is_empty() {
                let kv = keys_values(&[(prefixes, before, &bundle.prefix)], heads, key_heads);
                let [dq, dk, dv] = backward(kv, &Seen::All);
                let _ = grad_q.g_add_(&dq);
                if !has_context {
                    add(&[dk, dv], &bundle.prefix);
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

/// Keys and values of some of h heads, of the rows of all `parts` one after the other, each `[.., g, s, d]` and the same for
/// each of g. A part is a tensor, the heads in it before the keys, and the rows. As views of one part.
fn keys_values(
    parts: &[(&Tensor, usize, &Range<usize>)],
    heads: HeadShape,
    key_heads: &Range<usize>,
) -> [Tensor; 2] {
    let (d, count) = (heads.width, key_heads.len());
    [0, heads.keys].map(|side| {
        let columns = |&(x, before, rows): &(&Tensor, usize, &Range<usize>)| {
            let first = (before + side + key_heads.start) * d;
            part(&part(x, 0, rows), 1, &(first..first + count * d))
        };
        let x = match parts {
            [only] => columns(only),
            _ => Tensor::cat(&parts.iter().map(columns).collect::<Vec<_>>(), 0),
        };
        let (s, g, h, d) = (x.size()[0], heads.group() as i64, count as i64, d as i64);
        x.view([s, h, 1, d]).permute([1, 2, 0, 3]).expand([h, g, s, d], false)
    })
}

/// Attention of one part and its log-sum-exps `[h, g, t]`, fp32.
fn flash(q: &Tensor, k: &Tensor, v: &Tensor, seen: &Seen) -> (Tensor, Tensor) {
    let (causal, mask) = (seen.is_causal(), seen.mask());
    Tensor::internal_scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, causal, mask, None)
}

/// The gradients of queries, keys and values `[h, g, .., d]` that come from this part of the keys, in the attention over
/// all parts with the result `out` and the log-sum-exps `log_sums`.
fn flash_backward(
    grad: &Tensor,
    [q, k, v]: [&Tensor; 3],
    (out, log_sums): (&Tensor, &Tensor),
    seen: &Seen,
) -> [Tensor; 3] {
    let (dq, dk, dv) = Tensor::internal_scaled_dot_product_flash_attention_for_cpu_backward(
        grad,
        q,
        k,
        v,
        out,
        log_sums,
        0.0,
        seen.is_causal(),
        seen.mask(),
        None,
    );
    [dq, dk, dv]
}

#[cfg(test)]
mod tests;
