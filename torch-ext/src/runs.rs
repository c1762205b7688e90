//! Attention over runs of a training row, and its gradient: the tokens of a run see a prefix of earlier rows wholly and
//! each other causally. On a CPU by libtorch's flash kernel, prefix and own part apart: the two are joined by their
//! log-sum-exps, so there is no mask and no masked product. Key/value heads are never repeated. Elsewhere all runs go into
//! one call, and all prefixes into another.
//!
//! Legend: n rows, t queries and s keys of a part, h key/value heads, g query heads per key/value head, d head width.

use std::{
    cell::OnceCell,
    ops::{Deref, Range},
};

use tch::{Device, Kind, Tensor};

use crate::{
    HeadShape,
    memory::{Shared, elements, elements_mut},
    threads::parallel,
};

mod packed;

use packed::Packed;

/// Rows of a task when parts are joined.
const ROWS_OF_TASK: usize = 32;

/// Rows that attend alike. All runs together cover each row once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Rows that each of the run's rows sees.
    pub prefix: Range<usize>,
    /// The run's rows, each of which sees those before it and itself.
    pub own: Range<usize>,
}

/// The runs of a row.
#[derive(Default)]
pub struct Runs {
    runs: Vec<Run>,
    /// On the device of the row, once for all layers.
    packed: OnceCell<Packed>,
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
    fn packed(&self, device: Device) -> &Packed {
        self.packed.get_or_init(|| Packed::new(&self.runs, device))
    }
}

/// What attention gives, and what its gradient needs.
pub struct Attended {
    /// `[n, g * h * d]`.
    pub out: Tensor,
    /// Log-sum-exp of every row's scores, fp32 `[h, g, n]`.
    pub log_sums: Tensor,
}

/// Attention of the rows `qkv` `[n, g * h queries | h keys | h values]`, each head `d` wide.
///
/// # Panics
/// If the runs do not cover the rows one after the other, or a prefix does not lie before its run.
pub fn attend_runs(qkv: &Tensor, heads: HeadShape, runs: &Runs) -> Attended {
    check(qkv, heads, runs);
    if qkv.device() != Device::Cpu {
        return runs.packed(qkv.device()).attend(qkv, heads);
    }
    if is_narrow(qkv) {
        let Attended { out, log_sums } = attend_runs(&qkv.to_kind(Kind::Float), heads, runs);
        return Attended { out: out.to_kind(qkv.kind()), log_sums };
    }
    let (n, width) = (qkv.size()[0], (heads.queries * heads.width) as i64);
    let mut out = Tensor::empty([n, width], (qkv.kind(), qkv.device()));
    let shape = [heads.keys as i64, heads.group() as i64, n];
    let log_sums = Tensor::empty(shape, (Kind::Float, qkv.device()));
    for run in runs.iter() {
        let [q, _, _] = split(qkv, heads, &run.own);
        let parts: Vec<(Tensor, Tensor)> = parts(run)
            .map(|(keys, causal)| {
                let [_, k, v] = split(qkv, heads, &keys);
                flash(&q, &k, &v, causal)
            })
            .collect();
        let rows = |of: &Tensor| of.narrow(2, run.own.start as i64, run.own.len() as i64);
        match &parts[..] {
            [(own, sums)] => {
                let [target, ..] = split_queries(&out, heads, &run.own);
                target.shallow_clone().copy_(own);
                rows(&log_sums).copy_(sums);
            }
            [(prefix, prefix_sums), (own, own_sums)] => {
                let sums = prefix_sums.logaddexp(own_sums);
                let weights = [prefix_sums, own_sums].map(|part| (part - &sums).exp());
                join(&mut out, heads, &run.own, [(prefix, &weights[0]), (own, &weights[1])]);
                rows(&log_sums).copy_(&sums);
            }
            _ => unreachable!("a run has one part or two"),
        }
    }
    Attended { out, log_sums }
}

/// The gradient of `qkv`, for the gradient `grad` of `attended.out`.
pub fn attend_runs_backward(
    qkv: &Tensor,
    heads: HeadShape,
    runs: &Runs,
    attended: &Attended,
    grad: &Tensor,
) -> Tensor {
    if qkv.device() != Device::Cpu {
        return runs.packed(qkv.device()).backward(qkv, heads, attended, grad);
    }
    if is_narrow(qkv) {
        let [wide, out, grad] = [qkv, &attended.out, grad].map(|x| x.to_kind(Kind::Float));
        let attended = Attended { out, log_sums: attended.log_sums.shallow_clone() };
        return attend_runs_backward(&wide, heads, runs, &attended, &grad).to_kind(qkv.kind());
    }
    let (h, g, d) = (heads.keys as i64, heads.group() as i64, heads.width as i64);
    let n = qkv.size()[0];
    // Keys and values are seen by several runs: their gradients are summed in fp32.
    let sums = Tensor::zeros([2, h, n, d], (Kind::Float, qkv.device()));
    let grad_qkv = qkv.empty_like();
    for run in runs.iter() {
        let [q, _, _] = split(qkv, heads, &run.own);
        let [out] = split_queries(&attended.out, heads, &run.own);
        let [grad] = split_queries(grad, heads, &run.own);
        let log_sums = attended.log_sums.narrow(2, run.own.start as i64, run.own.len() as i64).contiguous();
        let [mut grad_q] = split_queries(&grad_qkv, heads, &run.own);
        for (index, (keys, causal)) in parts(run).enumerate() {
            let [_, k, v] = split(qkv, heads, &keys);
            let [dq, dk, dv] = flash_backward(&grad, [&q, &k, &v], (&out, &log_sums), causal);
            if index == 0 {
                grad_q.copy_(&dq);
            } else {
                let _ = grad_q.g_add_(&dq);
            }
            for (part, gradient) in [dk, dv].iter().enumerate() {
                let mut target = sums.get(part as i64).narrow(1, keys.start as i64, keys.len() as i64);
                let _ = target.g_add_(&gradient.sum_dim_intlist([1i64].as_slice(), false, Kind::Float));
            }
        }
    }
    let target = grad_qkv.narrow(1, h * g * d, 2 * h * d).view([n, 2, h, d]);
    target.permute([1, 2, 0, 3]).copy_(&sums);
    grad_qkv
}

/// libtorch's flash kernel on a CPU is several times slower in bf16 than in fp32, its backward pass above all: its blocks are
/// too small to pay for bf16 products.
fn is_narrow(x: &Tensor) -> bool {
    x.kind() != Kind::Float
}

/// The keys of each part of a run, and whether they are its own.
fn parts(run: &Run) -> impl Iterator<Item = (Range<usize>, bool)> {
    let prefix = (!run.prefix.is_empty()).then(|| (run.prefix.clone(), false));
    prefix.into_iter().chain([(run.own.clone(), true)])
}

fn check(qkv: &Tensor, heads: HeadShape, runs: &[Run]) {
    let (n, row) = qkv.size2().expect("qkv is [rows, heads]");
    assert_eq!(row as usize, heads.row_len(), "{heads:?}");
    let mut covered = 0;
    for run in runs {
        assert_eq!(run.own.start, covered, "runs follow each other: {runs:?}");
        assert!(!run.own.is_empty() && run.prefix.end <= run.own.start, "{run:?}");
        covered = run.own.end;
    }
    assert_eq!(covered, n as usize, "runs cover every row: {runs:?}");
}

/// Queries `[h, g, t, d]`, keys and values `[h, g, t, d]` (the same for each of g) of some rows, as views.
fn split(qkv: &Tensor, heads: HeadShape, rows: &Range<usize>) -> [Tensor; 3] {
    let (h, g, d, t) = (heads.keys as i64, heads.group() as i64, heads.width as i64, rows.len() as i64);
    let rows = qkv.narrow(0, rows.start as i64, t);
    let q = rows.narrow(1, 0, h * g * d).view([t, h, g, d]).permute([1, 2, 0, 3]);
    let keys = |from: i64| {
        let part = rows.narrow(1, from * d, h * d).view([t, h, 1, d]);
        part.permute([1, 2, 0, 3]).expand([h, g, t, d], false)
    };
    [q, keys(h * g), keys(h * g + h)]
}

/// `[h, g, t, d]` of some rows of a tensor whose rows begin with queries.
fn split_queries(x: &Tensor, heads: HeadShape, rows: &Range<usize>) -> [Tensor; 1] {
    let (h, g, d, t) = (heads.keys as i64, heads.group() as i64, heads.width as i64, rows.len() as i64);
    let rows = x.narrow(0, rows.start as i64, t).narrow(1, 0, h * g * d);
    [rows.view([t, h, g, d]).permute([1, 2, 0, 3])]
}

/// Writes weight * part, summed over both parts, into `out`. Parts are `[h, g, t, d]` in the kernel's own memory order,
/// weights `[h, g, t]`.
fn join(out: &mut Tensor, heads: HeadShape, rows: &Range<usize>, parts: [(&Tensor, &Tensor); 2]) {
    let [target] = split_queries(out, heads, rows);
    // The flash kernel's order: [h, t, g, d].
    let [a, b] = parts.map(|(part, _)| part.transpose(1, 2));
    if !a.is_contiguous() || !b.is_contiguous() {
        let scaled = parts.map(|(part, weight)| part.to_kind(Kind::Float) * weight.unsqueeze(3));
        target.shallow_clone().copy_(&(&scaled[0] + &scaled[1]));
        return;
    }
    let weights = parts.map(|(_, weight)| weight.contiguous());
    join_rows(out, heads, rows, [(&a, &weights[0]), (&b, &weights[1])]);
}

fn join_rows(out: &mut Tensor, heads: HeadShape, rows: &Range<usize>, parts: [(&Tensor, &Tensor); 2]) {
    let (h, g, d, t) = (heads.keys, heads.group(), heads.width, rows.len());
    let [(a, a_weights), (b, b_weights)] =
        parts.map(|(part, weights)| (elements::<f32>(part), elements::<f32>(weights)));
    let width = h * g * d;
    let target = Shared::new(elements_mut::<f32>(out));
    parallel(t.div_ceil(ROWS_OF_TASK), &|task| {
        for row in task * ROWS_OF_TASK..((task + 1) * ROWS_OF_TASK).min(t) {
            let start = (rows.start + row) * width;
            // SAFETY: this row is this task's alone.
            let out = unsafe { target.part(start..start + width) };
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

/// Gradients of queries, keys and values `[h, g, .., d]`: those that this part has in the attention whose result is
/// `out` and whose log-sum-exps, over all parts, are `log_sums`.
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
mod tests {
    use super::*;
    use crate::{memory::assert_close, testing::devices};

    /// Attention over a dense mask, by plain operations.
    fn dense(qkv: &Tensor, heads: HeadShape, runs: &[Run]) -> Tensor {
        let n = qkv.size()[0] as usize;
        let mut seen = vec![false; n * n];
        for run in runs {
            for q in run.own.clone() {
                seen[q * n..][run.prefix.clone()].fill(true);
                seen[q * n..][run.own.start..=q].fill(true);
            }
        }
        let hidden = Tensor::from_slice(&seen).view([n as i64, n as i64]).logical_not();
        let [q, k, v] = split(qkv, heads, &(0..n)).map(|x| x.to_kind(Kind::Float));
        let scores = q.matmul(&k.transpose(-1, -2)) / (heads.width as f64).sqrt();
        let weights = scores.masked_fill(&hidden, f64::NEG_INFINITY).softmax(-1, Kind::Float);
        weights.matmul(&v).permute([2, 0, 1, 3]).reshape([n as i64, -1]).to_kind(qkv.kind())
    }

    fn run(prefix: Range<usize>, own: Range<usize>) -> Run {
        Run { prefix, own }
    }

    #[test]
    fn runs_equal_a_dense_mask_forward_and_backward() {
        let layouts = [
            vec![run(0..0, 0..1)],
            vec![run(0..0, 0..40), run(0..0, 40..41), run(0..41, 41..42)],
            vec![
                run(0..0, 0..70),
                run(0..9, 70..90),
                run(0..50, 90..97),
                run(97..97, 97..150),
                run(97..98, 150..151),
            ],
            vec![run(0..0, 0..600), run(17..90, 600..1100)],
        ];
        for kind in [Kind::Float, Kind::BFloat16] {
            for (queries, keys) in [(2, 2), (6, 2), (3, 1)] {
                let heads = HeadShape { queries, keys, width: 16 };
                for runs in &layouts {
                    let n = runs.last().unwrap().own.end as i64;
                    let options = (Kind::Float, Device::Cpu);
                    let qkv = Tensor::randn([n, heads.row_len() as i64], options).to_kind(kind);
                    let grad = Tensor::randn([n, 16 * queries as i64], options).to_kind(kind);
                    let leaf = qkv.copy().set_requires_grad(true);
                    let expected = dense(&leaf, heads, runs);
                    (&expected * &grad).sum(Kind::Float).backward();
                    let runs = Runs::from(runs.clone());
                    let found = attend_runs(&qkv, heads, &runs);
                    assert_close(&found.out, &expected.detach(), "attention");
                    let gradient = attend_runs_backward(&qkv, heads, &runs, &found, &grad);
                    assert_close(&gradient, &leaf.grad(), "gradient");
                }
            }
        }
    }

    #[test]
    fn all_runs_in_one_call_equal_each_run_by_itself() {
        let layouts = [
            vec![run(0..0, 0..40), run(0..0, 40..41), run(0..41, 41..42)],
            vec![
                run(0..0, 0..70),
                run(0..9, 70..90),
                run(0..50, 90..97),
                run(97..97, 97..150),
                run(97..98, 150..151),
            ],
        ];
        for device in devices("runs in one call") {
            for kind in [Kind::Float, Kind::BFloat16] {
                for (queries, keys) in [(2, 2), (6, 2)] {
                    let heads = HeadShape { queries, keys, width: 16 };
                    for layout in &layouts {
                        let n = layout.last().unwrap().own.end as i64;
                        let options = (Kind::Float, Device::Cpu);
                        let qkv = Tensor::randn([n, heads.row_len() as i64], options).to_kind(kind);
                        let grad = Tensor::randn([n, 16 * queries as i64], options).to_kind(kind);
                        let runs = Runs::from(layout.clone());
                        let expected = attend_runs(&qkv, heads, &runs);
                        let expected_gradient = attend_runs_backward(&qkv, heads, &runs, &expected, &grad);
                        let [qkv, grad] = [qkv, grad].map(|x| x.to_device(device));
                        let packed = Packed::new(layout, device);
                        let found = packed.attend(&qkv, heads);
                        let gradient = packed.backward(&qkv, heads, &found, &grad);
                        let here = |x: Tensor| x.to_device(Device::Cpu);
                        assert_close(&here(found.out), &expected.out, "attention");
                        let [sums, expected_sums] =
                            [here(found.log_sums), expected.log_sums].map(|x| x.to_kind(kind));
                        assert_close(&sums, &expected_sums, "log-sum-exps");
                        assert_close(&here(gradient), &expected_gradient, "gradient");
                    }
                }
            }
        }
    }
}
