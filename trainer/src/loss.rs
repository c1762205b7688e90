//! The dual loss L = L_pc + lambda * L_ar (arXiv 2512.14681, equations of section 3), one forward pass for both.
//!
//! L_ar: cross-entropy of the clean stream against the fixed-point tokens. L_pc: at every kept offset of a
//! noisy block, soft cross-entropy between the teacher softmax(clean logits / tau), detached, and the student
//! log-softmax(noisy logits / tau), times tau^2. Departures from the reference code: L_pc is a mean over kept
//! positions (its further division by the number of blocks is `pc_normalization = "reference"`), so that lambda
//! means the same whatever the length of the response. Total variation and the negative logarithm of the acceptance rate
//! are further terms of L_pc ([`PcTerms`]).
//!
//! Logits are computed chunk by chunk, for rows with a loss only. Their gradient overwrites them and is then
//! propagated to the hidden states. A clean row's logits serve both losses: L_ar of the row, and the teacher of
//! its student in L_pc.
//!
//! Legend: n rows of hidden states, h hidden width, v vocabulary, c clean and s student rows of a chunk.

use jacobi_datasets::LossRow;
use jacobi_torch_ext::{HardTarget, SoftLoss, SoftTarget, cross_entropy, probabilities, soft_loss};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// How L_pc is averaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PcNormalization {
    /// The mean over kept positions.
    TokenMean,
    /// The mean, divided again by the sample's number of blocks, as in the reference code. A good `ar_weight`
    /// then depends on the response's length.
    Reference,
}

/// Weight of a position in the consistency loss, by its distance from the divergence, the first wrong token. Positions
/// near the divergence decide how many tokens a forward pass accepts. Not in the paper, which weights all equally.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PcPositionWeight {
    /// All equal, as in the paper.
    Uniform,
    /// `pc_decay` to the power of the distance.
    Decay,
    /// By the position's effect on the expected number of accepted tokens (D-PACE, arXiv 2605.18810).
    ///
    /// w_k = sum over j >= k of the product over i <= j of (0.5 q_i + 0.5), q_i the student's probability of
    /// the clean token, detached. Departure: the weights of a block are scaled to a mean of 1, so that the
    /// divisor of L_pc is known before the forward pass and does not depend on how samples are packed.
    Acceptance,
}

/// The terms of the consistency loss with their weights, under the names of vLLM's speculators. p is the teacher's
/// distribution, q the student's, and alpha = sum of min(p, q) the rate at which speculative sampling accepts q's tokens.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PcTerms {
    /// Weight of the divergence KL from the teacher to the student: the loss of the paper. It is reported as a cross-entropy.
    pub kl_div: f64,
    /// Weight of the total variation: 1 minus the rate at which speculative sampling accepts the student's tokens.
    pub tv: f64,
    /// Weight of the negative logarithm of that rate.
    pub nla: f64,
}

impl Default for PcTerms {
    fn default() -> Self {
        Self { kl_div: 1.0, tv: 0.0, nla: 0.0 }
    }
}

/// Weights and temperature in one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossConfig {
    /// lambda.
    pub ar_weight: f64,
    /// Weight of L_pc.
    pub pc_weight: f64,
    /// Terms of L_pc.
    pub pc_terms: PcTerms,
    /// tau.
    pub temperature: f64,
    /// How L_pc is averaged.
    pub pc_normalization: PcNormalization,
    /// How positions of L_pc are weighted.
    pub pc_position_weight: PcPositionWeight,
    /// The base of `Decay`.
    pub pc_decay: f64,
}

/// Divisors of the two losses, counted over a whole optimizer step so that packing changes nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counts {
    /// Autoregressive targets.
    pub ar: f64,
    /// Sum of the position weights.
    pub pc: f64,
}

/// The contribution of some rows to the mean losses of a step, and its gradient.
pub struct Losses {
    /// L_ar.
    pub ar: f64,
    /// L_pc.
    pub pc: f64,
    /// Gradient of pc_weight * L_pc + ar_weight * L_ar with respect to the hidden states, `[n, h]`.
    pub gradient_nh: Tensor,
}

/// The model's head: hidden states to logits.
pub trait Head {
    /// Logits `[.., v]` of some rows of the hidden states.
    fn logits(&self, rows: &Tensor) -> Tensor;
    /// The gradient of those rows, given the gradient of their logits. Adds to the gradient of the head's parameters.
    fn backward(&mut self, rows: &Tensor, grad_logits: &Tensor) -> Tensor;
}

/// Where the teacher's logits come from.
pub enum Teacher<'a> {
    /// The clean rows of the same pass.
    Own,
    /// Another model: its logits for some of the loss rows, by index.
    Other(&'a dyn Fn(&[usize]) -> Tensor),
}

impl LossConfig {
    /// The divisors that `rows` contribute.
    pub fn counts(&self, rows: &[LossRow]) -> Counts {
        let students = rows.iter().filter_map(|row| row.student);
        Counts {
            ar: rows.iter().filter(|row| row.token.is_some()).count() as f64,
            pc: students.map(|student| self.position_weight(student.distance)).sum(),
        }
    }

    /// pc_weight * L_pc + ar_weight * L_ar.
    pub fn total(&self, ar: f64, pc: f64) -> f64 {
        // A loss of weight 0 is not computed and is 0, so a NaN comes only from a loss that counts.
        self.pc_weight * pc + self.ar_weight * ar
    }

    fn soft_loss(&self) -> SoftLoss {
        let PcTerms { kl_div, tv, nla } = self.pc_terms;
        SoftLoss {
            tau: self.temperature,
            cross_entropy: kl_div,
            total_variation: tv,
            negative_log_acceptance: nla,
        }
    }

    /// The weight as known before the forward pass: 1 for `Acceptance`, whose weights have a mean of 1.
    fn position_weight(&self, distance: usize) -> f64 {
        match self.pc_position_weight {
            PcPositionWeight::Uniform | PcPositionWeight::Acceptance => 1.0,
            PcPositionWeight::Decay => self.pc_decay.powi(distance as i32),
        }
    }

    /// The position weights of a chunk's students, whose logits are `logits_sv`.
    fn position_weights(&self, students: &[&LossRow], logits_sv: &Tensor) -> Vec<f64> {
        let of = |row: &&LossRow| row.student.expect("a student");
        if self.pc_position_weight != PcPositionWeight::Acceptance {
            return students.iter().map(|row| self.position_weight(of(row).distance)).collect();
        }
        let tokens: Vec<Option<u32>> = students.iter().map(|row| row.token).collect();
        let q = probabilities(logits_sv, &tokens);
        let mut weights = Vec::with_capacity(q.len());
        for block in students.chunk_by(|a, b| of(a).block == of(b).block) {
            let q = &q[weights.len()..weights.len() + block.len()];
            weights.extend(acceptance_weights(q));
        }
        weights
    }
}

/// w_k = sum over j >= k of the product over i <= j of (0.5 q_i + 0.5), scaled to a mean of 1.
fn acceptance_weights(q: &[f64]) -> Vec<f64> {
    let reached = q.iter().scan(1.0, |reached, q| {
        *reached *= 0.5 * q + 0.5;
        Some(*reached)
    });
    let mut weights: Vec<f64> = reached.collect();
    for k in (1..weights.len()).rev() {
        weights[k - 1] += weights[k];
    }
    let mean = weights.iter().sum::<f64>() / weights.len().max(1) as f64;
    weights.iter().map(|weight| weight / mean).collect()
}

/// The dual loss of the hidden states `hidden_nh` at `rows`. Computes about `chunk_rows` rows of logits at a time.
pub fn dual_loss(
    hidden_nh: &Tensor,
    head: &mut dyn Head,
    teacher: &Teacher,
    rows: &[LossRow],
    (config, counts): (&LossConfig, Counts),
    chunk_rows: usize,
) -> Losses {
    let mut losses = Losses { ar: 0.0, pc: 0.0, gradient_nh: hidden_nh.zeros_like() };
    let mut start = 0;
    while start < rows.len() {
        let end = chunk_end(rows, start, chunk_rows);
        let chunk = Chunk::new(&rows[start..end], start, config, teacher);
        if !chunk.hidden_rows.is_empty() {
            chunk.run(hidden_nh, head, teacher, (config, counts), &mut losses);
        }
        start = end;
    }
    losses
}

/// End of the chunk that starts at `start`. All students of a block are in one chunk, since their position weights
/// depend on each other.
fn chunk_end(rows: &[LossRow], start: usize, chunk_rows: usize) -> usize {
    let block = |at: usize| rows[at].student.map(|student| student.block);
    let mut logits = 0;
    for (at, row) in rows.iter().enumerate().skip(start) {
        logits += 1 + usize::from(row.student.is_some());
        let inside_block = at > start && block(at).is_some() && block(at) == block(at - 1);
        if logits > chunk_rows && at > start && !inside_block {
            return at;
        }
    }
    rows.len()
}

/// Loss rows whose logits are computed together: clean rows first, then students.
struct Chunk<'a> {
    clean: Vec<&'a LossRow>,
    students: Vec<&'a LossRow>,
    /// Row of the teacher of each student: an index into `clean`, or into the logits of the other teacher.
    teachers: Vec<usize>,
    /// Index of each student among all loss rows.
    indices: Vec<usize>,
    /// Rows of the hidden states, clean then students.
    hidden_rows: Vec<i64>,
}

impl<'a> Chunk<'a> {
    fn new(rows: &'a [LossRow], offset: usize, config: &LossConfig, teacher: &Teacher) -> Self {
        let mut chunk =
            Self { clean: vec![], students: vec![], teachers: vec![], indices: vec![], hidden_rows: vec![] };
        let own = matches!(teacher, Teacher::Own);
        for (index, row) in rows.iter().enumerate() {
            let is_student = row.student.is_some() && config.pc_weight > 0.0;
            let is_target = row.token.is_some() && config.ar_weight > 0.0;
            if is_student {
                chunk.teachers.push(if own { chunk.clean.len() } else { chunk.students.len() });
                chunk.students.push(row);
                chunk.indices.push(offset + index);
            }
            if is_target || (is_student && own) {
                chunk.clean.push(row);
            }
        }
        let students = chunk.students.iter().map(|row| row.student.expect("a student").row);
        let hidden_rows = chunk.clean.iter().map(|row| row.row).chain(students);
        chunk.hidden_rows = hidden_rows.map(|row| row as i64).collect();
        chunk
    }

    /// Adds the chunk's losses and writes its rows' gradient.
    fn run(
        &self,
        hidden_nh: &Tensor,
        head: &mut dyn Head,
        teacher: &Teacher,
        (config, counts): (&LossConfig, Counts),
        losses: &mut Losses,
    ) {
        let hidden_rows = Tensor::from_slice(&self.hidden_rows).to_device(hidden_nh.device());
        let rows = hidden_nh.index_select(0, &hidden_rows);
        let logits = head.logits(&rows);
        let (c, s) = (self.clean.len() as i64, self.students.len() as i64);
        let (mut clean_cv, mut students_sv) = (logits.narrow(0, 0, c), logits.narrow(0, c, s));
        if s > 0 {
            let scale = config.pc_weight / counts.pc;
            let weights = self.weights(config, &students_sv);
            let target =
                |(&teacher, weight): (&usize, &f64)| SoftTarget { teacher, weight: (weight * scale) as f32 };
            let targets: Vec<SoftTarget> = self.teachers.iter().zip(&weights).map(target).collect();
            let other = match teacher {
                Teacher::Own => None,
                Teacher::Other(logits) => Some(logits(&self.indices)),
            };
            let teacher = other.as_ref().unwrap_or(&clean_cv);
            let student_losses = soft_loss(&mut students_sv, teacher, &targets, &config.soft_loss());
            losses.pc += student_losses.iter().zip(&weights).map(|(loss, weight)| loss * weight).sum::<f64>()
                / counts.pc;
        }
        // Without an autoregressive loss, clean rows are teachers only and have no gradient.
        let first_with_gradient = if config.ar_weight > 0.0 { 0 } else { c };
        if first_with_gradient < c {
            let weight = (config.ar_weight / counts.ar) as f32;
            let target = |row: &&LossRow| HardTarget { token: row.token, weight };
            let targets: Vec<HardTarget> = self.clean.iter().map(target).collect();
            losses.ar += cross_entropy(&mut clean_cv, &targets).iter().sum::<f64>() / counts.ar;
        }
        let with_gradient = |of: &Tensor| of.narrow(0, first_with_gradient, c + s - first_with_gradient);
        if c + s > first_with_gradient {
            let gradient = head.backward(&with_gradient(&rows), &with_gradient(&logits));
            let _ = losses.gradient_nh.index_copy_(0, &with_gradient(&hidden_rows), &gradient);
        }
    }

    /// Position weights of the students, divided by the sample's number of blocks under `PcNormalization::Reference`.
    fn weights(&self, config: &LossConfig, students_sv: &Tensor) -> Vec<f64> {
        let positions = config.position_weights(&self.students, students_sv);
        let normalized = |(row, weight): (&&LossRow, f64)| match config.pc_normalization {
            PcNormalization::TokenMean => weight,
            PcNormalization::Reference => weight / row.student.expect("a student").blocks_of_sample as f64,
        };
        self.students.iter().zip(positions).map(normalized).collect()
    }
}

#[cfg(test)]
mod tests;
