//! Attention over runs of a training row, and its gradient: the tokens of a run see a prefix of earlier rows wholly and
//! each other causally. On a CPU by libtorch's flash kernel, prefix and own part apart: the two are joined by their
//! log-sum-exps, so there is no mask and no masked product. Key/value heads are never repeated.
//!
//! Legend: n rows, t queries and s keys of a part, h key/value heads, g query heads per key/value head, d head width.

use std::ops::Range;

use tch::{Device, Kind, Tensor};

use crate::{
    HeadShape,
    memory::{Shared, elements, elements_mut},
    threads::parallel,
};

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
pub fn attend_runs(qkv: &Tensor, heads: HeadShape, runs: &[Run]) -> Attended {
    check(qkv, heads, runs);
    if is_narrow_on_cpu(qkv) {
        let Attended { out, log_sums } = attend_runs(&qkv.to_kind(Kind::Float), heads, runs);
        return Attended { out: out.to_kind(qkv.kind()), log_sums };
    }
    let (n, width) = (qkv.size()[0], (heads.queries * heads.width) as i64);
    let mut out = Tensor::empty([n, width], (qkv.kind(), qkv.device()));
    let shape = [heads.keys as i64, heads.group() as i64, n];
    let log_sums = Tensor::empty(shape, (Kind::Float, qkv.device()));
    for run in runs {
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
    runs: &[Run],
    attended: &Attended,
    grad: &Tensor,
) -> Tensor {
    if is_narrow_on_cpu(qkv) {
        let [wide, out, grad] = [qkv, &attended.out, grad].map(|x| x.to_kind(Kind::Float));
        let attended = Attended { out, log_sums: attended.log_sums.shallow_clone() };
        return attend_runs_backward(&wide, heads, runs, &attended, &grad).to_kind(qkv.kind());
    }
    let (h, g, d) = (heads.keys as i64, heads.group() as i64, heads.width as i64);
    let n = qkv.size()[0];
    // Keys and values are seen by several runs: their gradients are summed in fp32.
    let sums = Tensor::zeros([2, h, n, d], (Kind::Float, qkv.device()));
    let grad_qkv = qkv.empty_like();
    for run in runs {
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
fn is_narrow_on_cpu(x: &Tensor) -> bool {
    x.device() == Device::Cpu && x.kind() != Kind::Float
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
    if out.device() != Device::Cpu || !a.is_contiguous() || !b.is_contiguous() {
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
    if q.device() == Device::Cpu {
        return Tensor::internal_scaled_dot_product_flash_attention_for_cpu(
            q,
            k,
            v,
            0.0,
            causal,
            None::<&Tensor>,
            None,
        );
    }
    let scores = scores(q, k, causal);
    let sums = scores.logsumexp([-1i64].as_slice(), false);
    let out = scores.softmax(-1, Kind::Float).to_kind(v.kind()).matmul(v);
    (out, sums)
}

/// Gradients of queries, keys and values `[h, g, .., d]`: those that this part has in the attention whose result is
/// `out` and whose log-sum-exps, over all parts, are `log_sums`.
fn flash_backward(
    grad: &Tensor,
    [q, k, v]: [&Tensor; 3],
    (out, log_sums): (&Tensor, &Tensor),
    causal: bool,
) -> [Tensor; 3] {
    if q.device() == Device::Cpu {
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
        return [dq, dk, dv];
    }
    composed_backward(grad, [q, k, v], (out, log_sums), causal)
}

/// The plain operations, for devices without a kernel here.
fn composed_backward(
    grad: &Tensor,
    [q, k, v]: [&Tensor; 3],
    (out, log_sums): (&Tensor, &Tensor),
    causal: bool,
) -> [Tensor; 3] {
    let [grad, out, wide_q, wide_k, wide_v] = [grad, out, q, k, v].map(|x| x.to_kind(Kind::Float));
    let weights = (scores(q, k, causal) - log_sums.unsqueeze(-1)).exp();
    let shared = (&grad * out).sum_dim_intlist([-1i64].as_slice(), true, Kind::Float);
    let grad_scores = &weights * (grad.matmul(&wide_v.transpose(-1, -2)) - shared) * scale(q);
    let dq = grad_scores.matmul(&wide_k);
    let dk = grad_scores.transpose(-1, -2).matmul(&wide_q);
    let dv = weights.transpose(-1, -2).matmul(&grad);
    [dq, dk, dv].map(|x| x.to_kind(q.kind()))
}

fn scale(q: &Tensor) -> f64 {
    1.0 / (q.size()[3] as f64).sqrt()
}

/// fp32 `[h, g, t, s]`, -inf where not seen.
fn scores(q: &Tensor, k: &Tensor, causal: bool) -> Tensor {
    let scores = q.to_kind(Kind::Float).matmul(&k.to_kind(Kind::Float).transpose(-1, -2)) * scale(q);
    if !causal {
        return scores;
    }
    let t = q.size()[2];
    let later = Tensor::ones([t, t], (Kind::Bool, q.device())).triu(1);
    scores.masked_fill(&later, f64::NEG_INFINITY)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::assert_close;

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
        let scores = q.matmul(&k.transpose(-1, -2)) * scale(&q);
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
                    let found = attend_runs(&qkv, heads, runs);
                    assert_close(&found.out, &expected.detach(), "attention");
                    let gradient = attend_runs_backward(&qkv, heads, runs, &found, &grad);
                    assert_close(&gradient, &leaf.grad(), "gradient");
                }
            }
        }
    }

    #[test]
    fn the_plain_operations_equal_the_kernel() {
        let heads = HeadShape { queries: 6, keys: 2, width: 8 };
        let random = |shape: &[i64]| Tensor::randn(shape, (Kind::Float, Device::Cpu));
        let (qkv, grad) = (random(&[20, 80]), random(&[2, 3, 20, 8]));
        let [q, k, v] = split(&qkv, heads, &(0..20));
        for causal in [false, true] {
            let (out, sums) = flash(&q, &k, &v, causal);
            let found = flash_backward(&grad, [&q, &k, &v], (&out, &sums), causal);
            let plain = composed_backward(&grad, [&q, &k, &v], (&out, &sums), causal);
            for (found, plain) in found.iter().zip(&plain) {
                assert_close(found, plain, "gradient of a part");
            }
        }
    }
}
