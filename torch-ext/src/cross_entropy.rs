//! Cross-entropies over a vocabulary whose gradient takes the place of the logits: against a token, and against the
//! distribution of other logits. In fp32 inside, row by row, so that no fp32 copy of the logits is ever made.
//!
//! Legend: n rows, v vocabulary.

use half::bf16;
use pulp::{Arch, Simd, WithSimd};
use tch::{Kind, Tensor};

use crate::{
    exp::exp,
    memory::{Element, Shared, elements, elements_mut, is_plain},
    threads::parallel,
};

/// Partial sums and maxima: a wide vector register of them.
const LANES: usize = 16;

/// What a row has to predict, and how much its loss counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HardTarget {
    /// The token; none makes the loss and the gradient of the row 0.
    pub token: Option<u32>,
    /// Factor on the gradient.
    pub weight: f32,
}

/// The logits whose distribution a row has to predict, and how much its loss counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SoftTarget {
    /// Row of the teacher's logits.
    pub teacher: usize,
    /// Factor on the gradient.
    pub weight: f32,
}

/// Cross-entropy of each row of `logits` `[n, v]` against its token; `logits` become the gradient of the weighted sum.
pub fn cross_entropy(logits: &mut Tensor, targets: &[HardTarget]) -> Vec<f64> {
    let (n, v) = logits.size2().expect("logits are [rows, vocabulary]");
    assert_eq!(n as usize, targets.len(), "one target per row");
    assert!(targets.iter().all(|t| t.token.is_none_or(|token| i64::from(token) < v)), "tokens of {v}");
    if !is_plain(logits) || !logits.is_contiguous() {
        return composed_hard(logits, targets);
    }
    match logits.kind() {
        Kind::Float => hard_rows::<f32>(logits, targets),
        _ => hard_rows::<bf16>(logits, targets),
    }
}

/// tau^2 times the cross-entropy of softmax(row / tau) against softmax(teacher row / tau), for each row of `logits`
/// `[n, v]`, which become the gradient of the weighted sum. The teacher has no gradient.
pub fn soft_cross_entropy(
    logits: &mut Tensor,
    teacher: &Tensor,
    targets: &[SoftTarget],
    tau: f64,
) -> Vec<f64> {
    let (n, v) = logits.size2().expect("logits are [rows, vocabulary]");
    let (teachers, width) = teacher.size2().expect("teacher logits are [rows, vocabulary]");
    assert_eq!((n as usize, v), (targets.len(), width), "one target per row, one vocabulary");
    assert!(targets.iter().all(|t| (t.teacher as i64) < teachers), "rows of {teachers}");
    if !is_plain(logits) || !logits.is_contiguous() || !teacher.is_contiguous() {
        return composed_soft(logits, teacher, targets, tau);
    }
    match logits.kind() {
        Kind::Float => soft_rows::<f32>(logits, teacher, targets, tau as f32),
        _ => soft_rows::<bf16>(logits, teacher, targets, tau as f32),
    }
}

/// The probability of `tokens[i]` in row i of `logits` `[n, v]`; 0 where there is no token.
pub fn probabilities(logits: &Tensor, tokens: &[Option<u32>]) -> Vec<f64> {
    let total = logits.to_kind(Kind::Float).logsumexp([-1i64].as_slice(), false);
    let row = |(row, token): (usize, &Option<u32>)| {
        token.map_or(0.0, |token| {
            let logit = logits.double_value(&[row as i64, i64::from(token)]);
            (logit - total.double_value(&[row as i64])).exp()
        })
    };
    tokens.iter().enumerate().map(row).collect()
}

fn hard_rows<T: Element>(logits: &mut Tensor, targets: &[HardTarget]) -> Vec<f64> {
    let v = logits.size()[1] as usize;
    let mut losses = vec![0.0; targets.len()];
    let (rows, out) = (Shared::new(elements_mut::<T>(logits)), Shared::new(&mut losses));
    parallel(targets.len(), &|row| {
        // SAFETY: this row and its loss are this task's alone.
        let (logits, loss) = unsafe { (rows.part(row * v..(row + 1) * v), out.part(row..row + 1)) };
        loss[0] = Arch::new().dispatch(Hard { logits, target: targets[row] });
    });
    losses
}

fn soft_rows<T: Element>(
    logits: &mut Tensor,
    teacher: &Tensor,
    targets: &[SoftTarget],
    tau: f32,
) -> Vec<f64> {
    let v = logits.size()[1] as usize;
    let teacher = elements::<T>(teacher);
    let mut losses = vec![0.0; targets.len()];
    let (rows, out) = (Shared::new(elements_mut::<T>(logits)), Shared::new(&mut losses));
    parallel(targets.len(), &|row| {
        let SoftTarget { teacher: at, weight } = targets[row];
        // SAFETY: this row and its loss are this task's alone.
        let (logits, loss) = unsafe { (rows.part(row * v..(row + 1) * v), out.part(row..row + 1)) };
        let teacher = &teacher[at * v..(at + 1) * v];
        loss[0] = Arch::new().dispatch(Soft { logits, teacher, weight, tau });
    });
    losses
}

struct Hard<'a, T> {
    logits: &'a mut [T],
    target: HardTarget,
}

impl<T: Element> WithSimd for Hard<'_, T> {
    type Output = f64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) -> f64 {
        let Self { logits, target: HardTarget { token, weight } } = self;
        let Some(token) = token else {
            logits.fill(T::from_f32(0.0));
            return 0.0;
        };
        let top = largest(logits);
        let sum = sum_of_exp(logits, top, 1.0);
        let chosen = logits[token as usize].to_f32();
        let factor = weight / sum;
        for logit in logits.iter_mut() {
            *logit = T::from_f32(exp(logit.to_f32() - top) * factor);
        }
        let right = exp(chosen - top) * factor - weight;
        logits[token as usize] = T::from_f32(right);
        f64::from(sum).ln() + f64::from(top - chosen)
    }
}

struct Soft<'a, T> {
    logits: &'a mut [T],
    teacher: &'a [T],
    weight: f32,
    tau: f32,
}

impl<T: Element> WithSimd for Soft<'_, T> {
    type Output = f64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) -> f64 {
        let Self { logits, teacher, weight, tau } = self;
        let cold = 1.0 / tau;
        let (top, top_teacher) = (largest(logits), largest(teacher));
        let (sum, sum_teacher) = (sum_of_exp(logits, top, cold), sum_of_exp(teacher, top_teacher, cold));
        let (share, share_teacher) = (1.0 / sum, 1.0 / sum_teacher);
        let scale = weight * tau;
        // Of the student's distances from its top, under the teacher.
        let mut expected = [0.0f32; LANES];
        let mut each = |lane: usize, logit: &mut T, teacher: T| {
            let below = (logit.to_f32() - top) * cold;
            let p = exp((teacher.to_f32() - top_teacher) * cold) * share_teacher;
            expected[lane] += p * below;
            *logit = T::from_f32((exp(below) * share - p) * scale);
        };
        let (chunks, rest) = logits.as_chunks_mut::<LANES>();
        let (teacher_chunks, teacher_rest) = teacher.as_chunks::<LANES>();
        for (logits, teacher) in chunks.iter_mut().zip(teacher_chunks) {
            for lane in 0..LANES {
                each(lane, &mut logits[lane], teacher[lane]);
            }
        }
        for (lane, (logit, teacher)) in rest.iter_mut().zip(teacher_rest).enumerate() {
            each(lane, logit, *teacher);
        }
        let expected: f64 = expected.iter().map(|&x| f64::from(x)).sum();
        f64::from(tau).powi(2) * (f64::from(sum).ln() - expected)
    }
}

#[inline(always)]
fn largest<T: Element>(row: &[T]) -> f32 {
    let mut tops = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            // Not `max`, which would hide a NaN.
            let value = chunk[lane].to_f32();
            tops[lane] = if value <= tops[lane] { tops[lane] } else { value };
        }
    }
    let tops = tops.into_iter().chain(rest.iter().map(|x| x.to_f32()));
    tops.fold(f32::NEG_INFINITY, |top, value| if value <= top { top } else { value })
}

/// Sum of exp((x - top) * factor).
#[inline(always)]
fn sum_of_exp<T: Element>(row: &[T], top: f32, factor: f32) -> f32 {
    let mut sums = [0.0f32; LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            sums[lane] += exp((chunk[lane].to_f32() - top) * factor);
        }
    }
    sums.iter().sum::<f32>() + rest.iter().map(|x| exp((x.to_f32() - top) * factor)).sum::<f32>()
}

fn composed_hard(logits: &mut Tensor, targets: &[HardTarget]) -> Vec<f64> {
    let device = logits.device();
    let column = |of: &dyn Fn(&HardTarget) -> f32| {
        Tensor::from_slice(&targets.iter().map(of).collect::<Vec<_>>()).to_device(device).unsqueeze(1)
    };
    let weights = column(&|t| if t.token.is_some() { t.weight } else { 0.0 });
    let tokens: Vec<i64> = targets.iter().map(|t| i64::from(t.token.unwrap_or(0))).collect();
    let tokens = Tensor::from_slice(&tokens).to_device(device).unsqueeze(1);
    let log = logits.to_kind(Kind::Float).log_softmax(-1, Kind::Float);
    let losses = -log.gather(1, &tokens, false).squeeze_dim(1);
    let gradient = (log.exp() * &weights).scatter_add(1, &tokens, &-weights);
    logits.copy_(&gradient);
    let losses = Vec::<f64>::try_from(losses.to_kind(Kind::Double)).expect("one loss per row");
    losses.iter().zip(targets).map(|(loss, t)| if t.token.is_some() { *loss } else { 0.0 }).collect()
}

fn composed_soft(logits: &mut Tensor, teacher: &Tensor, targets: &[SoftTarget], tau: f64) -> Vec<f64> {
    let device = logits.device();
    let rows: Vec<i64> = targets.iter().map(|t| t.teacher as i64).collect();
    let weights: Vec<f32> = targets.iter().map(|t| t.weight).collect();
    let weights = Tensor::from_slice(&weights).to_device(device).unsqueeze(1);
    let teacher = teacher.index_select(0, &Tensor::from_slice(&rows).to_device(device));
    let p = (teacher.to_kind(Kind::Float) / tau).softmax(-1, Kind::Float);
    let log_q = (logits.to_kind(Kind::Float) / tau).log_softmax(-1, Kind::Float);
    let losses = -(&p * &log_q).sum_dim_intlist([-1i64].as_slice(), false, Kind::Float) * (tau * tau);
    logits.copy_(&((log_q.exp() - p) * weights * tau));
    Vec::<f64>::try_from(losses.to_kind(Kind::Double)).expect("one loss per row")
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;
    use crate::memory::assert_close;

    fn random(shape: &[i64], kind: Kind) -> Tensor {
        (Tensor::randn(shape, (Kind::Float, Device::Cpu)) * 3.0).to_kind(kind)
    }

    fn assert_losses(found: &[f64], expected: &[f64]) {
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-4 * expected.abs().max(1.0), "{found} {expected}");
        }
    }

    #[test]
    fn hard_targets_equal_the_operations() {
        for kind in [Kind::Float, Kind::BFloat16] {
            for v in [1i64, 5, 16, 1003] {
                let targets: Vec<HardTarget> = (0..4u32)
                    .map(|i| HardTarget { token: (i != 2).then_some(i % v as u32), weight: 0.5 + i as f32 })
                    .collect();
                let logits = random(&[4, v], kind);
                let (mut a, mut b) = (logits.copy(), logits.copy());
                assert_losses(&cross_entropy(&mut a, &targets), &composed_hard(&mut b, &targets));
                assert_close(&a, &b, &format!("vocabulary of {v}"));
            }
        }
    }

    #[test]
    fn soft_targets_equal_the_operations() {
        for kind in [Kind::Float, Kind::BFloat16] {
            for (v, tau) in [(1i64, 1.0), (5, 2.0), (1003, 0.7)] {
                let targets = [2, 0, 2].map(|teacher| SoftTarget { teacher, weight: 0.3 + teacher as f32 });
                let (logits, teacher) = (random(&[3, v], kind), random(&[3, v], kind));
                let (mut a, mut b) = (logits.copy(), logits.copy());
                let found = soft_cross_entropy(&mut a, &teacher, &targets, tau);
                assert_losses(&found, &composed_soft(&mut b, &teacher, &targets, tau));
                assert_close(&a, &b, &format!("vocabulary of {v}"));
            }
        }
    }

    #[test]
    fn both_gradients_equal_those_of_autograd() {
        let (logits, teacher) = (random(&[3, 50], Kind::Float), random(&[3, 50], Kind::Float));
        let leaf = logits.copy().set_requires_grad(true);
        let tokens = Tensor::from_slice(&[7i64, 3, 49]);
        let none = None::<&Tensor>;
        let summed: Tensor = leaf.cross_entropy_loss(&tokens, none, tch::Reduction::Sum, -100, 0.0);
        (summed * 2.0).backward();
        let mut found = logits.copy();
        cross_entropy(&mut found, &[7, 3, 49].map(|t| HardTarget { token: Some(t), weight: 2.0 }));
        assert_close(&found, &leaf.grad(), "hard");

        let leaf = logits.copy().set_requires_grad(true);
        let (p, tau) = ((&teacher / 2.0).softmax(-1, Kind::Float), 2.0);
        (-(p * (&leaf / tau).log_softmax(-1, Kind::Float)).sum(Kind::Float) * tau * tau * 3.0).backward();
        let mut found = logits.copy();
        let targets = [0, 1, 2].map(|teacher| SoftTarget { teacher, weight: 3.0 });
        soft_cross_entropy(&mut found, &teacher, &targets, tau);
        assert_close(&found, &leaf.grad(), "soft");
    }

    #[test]
    fn a_nan_is_not_hidden() {
        let logits = random(&[1, 40], Kind::Float);
        let _ = logits.get(0).get(20).fill_(f64::NAN);
        let target = HardTarget { token: Some(1), weight: 1.0 };
        assert!(cross_entropy(&mut logits.copy(), &[target])[0].is_nan());
        let target = SoftTarget { teacher: 0, weight: 1.0 };
        assert!(soft_cross_entropy(&mut logits.copy(), &logits, &[target], 1.0)[0].is_nan());
    }
}
