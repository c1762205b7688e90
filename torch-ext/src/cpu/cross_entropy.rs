//! Losses over a vocabulary, against a token or against the distribution of other logits. The gradient overwrites the
//! logits. Computed in fp32 row by row, without an fp32 copy of the logits.
//!
//! Legend: n rows, v vocabulary.

use half::bf16;
use pulp::{Simd, WithSimd};
use tch::{Kind, Tensor};

use crate::cpu::{
    exp::exp,
    instructions::arch,
    memory::{Element, Shared, elements, elements_mut, is_plain},
    threads::parallel_map,
};

/// Partial sums and maxima, as many as a wide vector register holds.
const LANES: usize = 16;

/// The token that a row has to predict.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HardTarget {
    /// The token; with `None` the loss and the gradient of the row are 0.
    pub token: Option<u32>,
    /// Factor on the gradient.
    pub weight: f32,
}

/// The distribution that a row has to predict.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SoftTarget {
    /// The row of the teacher's logits.
    pub teacher: usize,
    /// Factor on the gradient.
    pub weight: f32,
}

/// How far a row is from its teacher: a weighted sum of terms over p = softmax(teacher row / tau) and q = softmax(row / tau),
/// times tau^2. With alpha = sum of min(p, q), the rate at which speculative sampling accepts a token of q.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SoftLoss {
    /// Temperature.
    pub tau: f64,
    /// Weight of the cross-entropy of q against p, whose gradient is that of KL(p | q).
    pub cross_entropy: f64,
    /// Weight of the total variation, 1 - alpha.
    pub total_variation: f64,
    /// Weight of -log(alpha).
    pub negative_log_acceptance: f64,
}

impl SoftLoss {
    /// Whether there is a term besides the cross-entropy.
    fn has_overlap(&self) -> bool {
        self.total_variation != 0.0 || self.negative_log_acceptance != 0.0
    }

    /// The terms that depend on alpha, and minus their derivative.
    fn of_overlap(&self, alpha: f64) -> (f64, f64) {
        // Bounds the logarithm where rounding leaves no overlap, and keeps its derivative finite in f32.
        let alpha = alpha.max(1e-30);
        let Self { total_variation, negative_log_acceptance, .. } = self;
        let loss = total_variation * (1.0 - alpha) - negative_log_acceptance * alpha.ln();
        (loss, total_variation + negative_log_acceptance / alpha)
    }
}

/// Cross-entropy of each row of `logits` `[n, v]` against its token. `logits` are overwritten with the gradient of the
/// weighted sum.
pub fn cross_entropy(logits: &mut Tensor, targets: &[HardTarget]) -> Vec<f64> {
    let (n, v) = logits.size2().expect("logits are [rows, vocabulary]");
    assert_eq!(n as usize, targets.len(), "one target per row");
    assert!(targets.iter().all(|t| t.token.is_none_or(|token| i64::from(token) < v)), "tokens of {v}");
    if !is_plain(logits) || !logits.is_contiguous() {
        return fallback_hard(logits, targets);
    }
    match logits.kind() {
        Kind::Float => hard_rows::<f32>(logits, targets),
        _ => hard_rows::<bf16>(logits, targets),
    }
}

/// The loss of each row of `logits` `[n, v]` against its teacher's row. `logits` are overwritten with the gradient of the
/// weighted sum; the teacher has no gradient.
pub fn soft_loss(logits: &mut Tensor, teacher: &Tensor, targets: &[SoftTarget], loss: &SoftLoss) -> Vec<f64> {
    let (n, v) = logits.size2().expect("logits are [rows, vocabulary]");
    let (teachers, width) = teacher.size2().expect("teacher logits are [rows, vocabulary]");
    assert_eq!((n as usize, v), (targets.len(), width), "one target per row, one vocabulary");
    assert!(targets.iter().all(|t| (t.teacher as i64) < teachers), "rows of {teachers}");
    if !is_plain(logits) || !logits.is_contiguous() || !teacher.is_contiguous() {
        return fallback_soft(logits, teacher, targets, loss);
    }
    match logits.kind() {
        Kind::Float => soft_rows::<f32>(logits, teacher, targets, loss),
        _ => soft_rows::<bf16>(logits, teacher, targets, loss),
    }
}

/// The probability of `tokens[i]` in row i of `logits` `[n, v]`; 0 where there is no token.
pub fn probabilities(logits: &Tensor, tokens: &[Option<u32>]) -> Vec<f64> {
    let (n, v) = logits.size2().expect("logits are [rows, vocabulary]");
    assert_eq!(n as usize, tokens.len(), "one token per row");
    assert!(tokens.iter().flatten().all(|&token| i64::from(token) < v), "tokens of {v}");
    if !is_plain(logits) || !logits.is_contiguous() {
        return fallback_probabilities(logits, tokens);
    }
    match logits.kind() {
        Kind::Float => rows_of_tokens::<f32>(logits, tokens),
        _ => rows_of_tokens::<bf16>(logits, tokens),
    }
}

fn rows_of_tokens<T: Element>(logits: &Tensor, tokens: &[Option<u32>]) -> Vec<f64> {
    let v = logits.size()[1] as usize;
    let logits = elements::<T>(logits);
    parallel_map(tokens.len(), &|row| {
        let logits = &logits[row * v..(row + 1) * v];
        tokens[row].map_or(0.0, |token| arch().dispatch(Probability { logits, token }))
    })
}

struct Probability<'a, T> {
    logits: &'a [T],
    token: u32,
}

impl<T: Element> WithSimd for Probability<'_, T> {
    type Output = f64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) -> f64 {
        let top = largest(self.logits);
        let share = 1.0 / sum_of_exp(self.logits, top, 1.0);
        f64::from(Softmax { top, inverse_tau: 1.0, share }.of(self.logits[self.token as usize]))
    }
}

fn hard_rows<T: Element>(logits: &mut Tensor, targets: &[HardTarget]) -> Vec<f64> {
    let v = logits.size()[1] as usize;
    let rows = Shared::new(elements_mut::<T>(logits));
    parallel_map(targets.len(), &|row| {
        // SAFETY: no other task has this row.
        let logits = unsafe { rows.part(row * v..(row + 1) * v) };
        arch().dispatch(Hard { logits, target: targets[row] })
    })
}

fn soft_rows<T: Element>(
    logits: &mut Tensor,
    teacher: &Tensor,
    targets: &[SoftTarget],
    loss: &SoftLoss,
) -> Vec<f64> {
    let v = logits.size()[1] as usize;
    let teacher = elements::<T>(teacher);
    let rows = Shared::new(elements_mut::<T>(logits));
    parallel_map(targets.len(), &|row| {
        let SoftTarget { teacher: at, weight } = targets[row];
        // SAFETY: no other task has this row.
        let logits = unsafe { rows.part(row * v..(row + 1) * v) };
        arch().dispatch(Soft { logits, teacher: &teacher[at * v..(at + 1) * v], weight, loss })
    })
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
    loss: &'a SoftLoss,
}

impl<T: Element> WithSimd for Soft<'_, T> {
    type Output = f64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) -> f64 {
        let Self { logits, teacher, weight, loss } = self;
        let tau = loss.tau as f32;
        let inverse_tau = 1.0 / tau;
        let (top, top_teacher) = (largest(logits), largest(teacher));
        let (sum, sum_teacher) =
            (sum_of_exp(logits, top, inverse_tau), sum_of_exp(teacher, top_teacher, inverse_tau));
        let [student, teacher_row] = [(top, 1.0 / sum), (top_teacher, 1.0 / sum_teacher)]
            .map(|(top, share)| Softmax { top, inverse_tau, share });
        let overlap =
            if loss.has_overlap() { overlap(logits, teacher, student, teacher_row) } else { [0.0; 2] };
        let (overlap_loss, steepness) =
            if loss.has_overlap() { loss.of_overlap(f64::from(overlap[0])) } else { (0.0, 0.0) };
        let (scale, steepness) = (weight * tau * loss.cross_entropy as f32, weight * tau * steepness as f32);
        // The mean of the student's distances from its largest logit, under the teacher.
        let mut expected = [0.0f32; LANES];
        let mut each = |lane: usize, logit: &mut T, teacher: T| {
            let below = (logit.to_f32() - top) * inverse_tau;
            let p = teacher_row.of(teacher);
            expected[lane] += p * below;
            let q = exp(below) * student.share;
            let lacks = if q < p { 1.0 } else { 0.0 };
            *logit = T::from_f32((q - p) * scale - steepness * q * (lacks - overlap[1]));
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
        f64::from(tau).powi(2) * (loss.cross_entropy * (f64::from(sum).ln() - expected) + overlap_loss)
    }
}

/// The probability of a logit in its row.
#[derive(Clone, Copy)]
struct Softmax {
    top: f32,
    inverse_tau: f32,
    share: f32,
}

impl Softmax {
    #[inline(always)]
    fn of<T: Element>(self, logit: T) -> f32 {
        exp((logit.to_f32() - self.top) * self.inverse_tau) * self.share
    }
}

/// Sums of min(p, q), and of q where it is below p.
#[inline(always)]
fn overlap<T: Element>(logits: &[T], teacher: &[T], student: Softmax, teacher_row: Softmax) -> [f32; 2] {
    let (mut shared, mut below) = ([0.0f32; LANES], [0.0f32; LANES]);
    let mut each = |lane: usize, logit: T, teacher: T| {
        let (q, p) = (student.of(logit), teacher_row.of(teacher));
        shared[lane] += if q < p { q } else { p };
        below[lane] += if q < p { q } else { 0.0 };
    };
    let (chunks, rest) = logits.as_chunks::<LANES>();
    let (teacher_chunks, teacher_rest) = teacher.as_chunks::<LANES>();
    for (logits, teacher) in chunks.iter().zip(teacher_chunks) {
        for lane in 0..LANES {
            each(lane, logits[lane], teacher[lane]);
        }
    }
    for (lane, (logit, teacher)) in rest.iter().zip(teacher_rest).enumerate() {
        each(lane, *logit, *teacher);
    }
    [shared.iter().sum(), below.iter().sum()]
}

/// The largest logit, or NaN if there is one.
#[inline(always)]
fn largest<T: Element>(row: &[T]) -> f32 {
    let mut tops = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            // `max` would ignore NaN.
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

fn fallback_probabilities(logits: &Tensor, tokens: &[Option<u32>]) -> Vec<f64> {
    let ids: Vec<i64> = tokens.iter().map(|token| i64::from(token.unwrap_or(0))).collect();
    let ids = Tensor::from_slice(&ids).to_device(logits.device()).unsqueeze(1);
    let chosen = logits.softmax(-1, Kind::Float).gather(1, &ids, false).squeeze_dim(1);
    let chosen = Vec::<f64>::try_from(chosen.to_kind(Kind::Double)).expect("one probability per row");
    chosen.iter().zip(tokens).map(|(p, token)| token.map_or(0.0, |_| *p)).collect()
}

fn fallback_hard(logits: &mut Tensor, targets: &[HardTarget]) -> Vec<f64> {
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

fn fallback_soft(logits: &mut Tensor, teacher: &Tensor, targets: &[SoftTarget], loss: &SoftLoss) -> Vec<f64> {
    let (device, tau) = (logits.device(), loss.tau);
    let rows: Vec<i64> = targets.iter().map(|t| t.teacher as i64).collect();
    let weights: Vec<f32> = targets.iter().map(|t| t.weight).collect();
    let weights = Tensor::from_slice(&weights).to_device(device).unsqueeze(1);
    let teacher = teacher.index_select(0, &Tensor::from_slice(&rows).to_device(device));
    let p = (teacher.to_kind(Kind::Float) / tau).softmax(-1, Kind::Float);
    let log_q = (logits.to_kind(Kind::Float) / tau).log_softmax(-1, Kind::Float);
    let q = log_q.exp();
    let sum = |x: Tensor| x.sum_dim_intlist([-1i64].as_slice(), true, Kind::Float);
    let mut losses = sum(&p * &log_q) * -loss.cross_entropy;
    let mut gradient = (&q - &p) * loss.cross_entropy;
    if loss.has_overlap() {
        let alpha = sum(p.minimum(&q)).clamp_min(f64::from(f32::MIN_POSITIVE));
        let lacks = q.lt_tensor(&p).to_kind(Kind::Float);
        let steepness = loss.negative_log_acceptance / &alpha + loss.total_variation;
        losses += (1.0 - &alpha) * loss.total_variation - alpha.log() * loss.negative_log_acceptance;
        gradient -= steepness * &q * (&lacks - sum(&q * &lacks));
    }
    logits.copy_(&(gradient * weights * tau));
    let losses = (losses * (tau * tau)).squeeze_dim(1);
    Vec::<f64>::try_from(losses.to_kind(Kind::Double)).expect("one loss per row")
}

#[cfg(test)]
mod tests;
