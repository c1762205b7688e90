//! Evaluation during training: decodes the held-out prompts with the shipped decoders. The results decide which
//! checkpoint is best. The training loss cannot decide it, because a lower loss does not mean more tokens per
//! pass.
//!
//! A prompt is decoded by Jacobi decoding and, for comparison, autoregressively. Their agreement is
//! `eval/exact_match_ar`; `eval/loss_ar` is the cross-entropy of the recorded responses: how far the model has
//! moved from the answers it should keep. Ranks divide the prompts among themselves.

use std::{
    collections::HashSet,
    ops::ControlFlow,
    sync::atomic::{AtomicBool, Ordering},
};

use jacobi_datasets::Trajectory;
use jacobi_decoder::{
    Answer, BatchEvent, DecodeStats, JacobiConfig, Request, Room, Settings, StopRules, Strategy,
    generate_batch,
};
use jacobi_model::{LanguageModel, Place, Rows, Work};
use serde::{Deserialize, Serialize};

use crate::{RankFailure, Ranks};

/// Prompts in a batch.
const SLOTS: usize = 8;
/// Target number of rows of a forward pass; bounds the memory of their logits.
const ROWS_PER_PASS: usize = 64;
/// n of the n-grams whose second occurrence in a response counts as a repetition.
const REPEATED_NGRAM: usize = 4;
/// By how much the share of repeated n-grams may exceed that of the recorded responses.
const REPETITION_MARGIN: f64 = 0.2;

/// Results on the held-out prompts at one step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Optimizer steps taken; 0 is the model that training started from.
    pub step: usize,
    /// Accepted tokens per forward pass of Jacobi decoding; 1 where there was no pass after the prefill.
    pub tpf: f64,
    /// Share of prompts with the same response as under autoregressive decoding.
    pub exact_match_ar: f64,
    /// Mean cross-entropy of the recorded responses, in nats per token.
    pub loss_ar: f64,
    /// Share of four-token runs that occurred earlier in the same response.
    pub repetition: f64,
    /// Whether the responses repeat themselves far more than the recorded ones.
    pub degenerate: bool,
}

impl Evaluation {
    /// The metrics under their public names.
    pub fn scalars(&self) -> [(&'static str, f64); 4] {
        [
            ("eval/tpf", self.tpf),
            ("eval/exact_match_ar", self.exact_match_ar),
            ("eval/loss_ar", self.loss_ar),
            ("eval/repetition", self.repetition),
        ]
    }
}

/// The evaluations that later decisions need; part of a checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Evaluations {
    /// Of the model that training started from.
    pub baseline: Option<Evaluation>,
    /// The newest evaluation.
    pub last: Option<Evaluation>,
    /// Of the best checkpoint.
    pub best: Option<Evaluation>,
}

impl Evaluations {
    /// Adds an evaluation. It becomes the best if its TPF is not below that of the best so far, its
    /// autoregressive loss exceeds the baseline by at most `tolerance`, and its responses are not degenerate.
    /// Step 0 has no checkpoint and is never the best.
    pub(crate) fn add(&mut self, evaluation: Evaluation, tolerance: f64) {
        let baseline = *self.baseline.get_or_insert(evaluation);
        self.last = Some(evaluation);
        let is_sound = !evaluation.degenerate && evaluation.loss_ar <= baseline.loss_ar + tolerance;
        let is_fastest = self.best.is_none_or(|best| evaluation.tpf >= best.tpf);
        if evaluation.step > 0 && is_sound && is_fastest {
            self.best = Some(evaluation);
        }
    }

    /// The step of the newest evaluation.
    pub(crate) fn last_step(&self) -> Option<usize> {
        self.last.map(|evaluation| evaluation.step)
    }
}

/// Rows that are not trained on, and how their prompts are decoded.
pub(crate) struct HeldOut {
    pub(crate) rows: Vec<Trajectory>,
    /// Block size of Jacobi decoding: that of the trajectories.
    pub(crate) block_size: usize,
    pub(crate) stop: StopRules,
    pub(crate) seed: u64,
}

/// Sums over prompts: tokens accepted and forward passes of Jacobi decoding; prompts with the same response under both
/// decoders; negative log-likelihood and number of recorded tokens; n-grams that are repetitions, and all n-grams.
type Sums = [f64; 7];

impl HeldOut {
    /// Decodes and scores with the current weights; `None` when any rank is asked to `stop`.
    ///
    /// # Errors
    /// Another rank failed.
    pub(crate) fn evaluate(
        &self,
        model: &dyn LanguageModel,
        ranks: &Ranks,
        step: usize,
        stop: &AtomicBool,
    ) -> Result<Option<Evaluation>, RankFailure> {
        let own: Vec<&Trajectory> = self.rows.iter().skip(ranks.rank()).step_by(ranks.world_size()).collect();
        let sums = self.sums(model, &own, stop);
        if ranks.any(sums.is_none())? {
            return Ok(None);
        }
        let mut all = sums.unwrap_or_default();
        ranks.sum(&mut all)?;
        let [accepted, forwards, same, negative_log_likelihood, recorded, repeated, ngrams] = all;
        let repetition = repeated / ngrams.max(1.0);
        let rows: Vec<&[u32]> = self.rows.iter().map(|row| self.recorded(row)).collect();
        let (recorded_repeated, recorded_ngrams) = repetitions(&rows);
        Ok(Some(Evaluation {
            step,
            tpf: if forwards > 0.0 { accepted / forwards } else { 1.0 },
            exact_match_ar: same / self.rows.len() as f64,
            loss_ar: negative_log_likelihood / recorded.max(1.0),
            repetition,
            degenerate: repetition > recorded_repeated / recorded_ngrams.max(1.0) + REPETITION_MARGIN,
        }))
    }

    fn sums(&self, model: &dyn LanguageModel, rows: &[&Trajectory], stop: &AtomicBool) -> Option<Sums> {
        if rows.is_empty() {
            return Some(Sums::default());
        }
        let jacobi = JacobiConfig { block_size: self.block_size, seed: self.seed };
        let (drafted, stats) = self.respond(model, rows, &Strategy::Jacobi(jacobi), stop)?;
        let (plain, _) = self.respond(model, rows, &Strategy::Autoregressive, stop)?;
        let same = drafted.iter().zip(&plain).filter(|(drafted, plain)| drafted == plain).count();
        let drafted: Vec<&[u32]> = drafted.iter().map(Vec::as_slice).collect();
        let (repeated, ngrams) = repetitions(&drafted);
        let (negative_log_likelihood, recorded) = self.negative_log_likelihood(model, rows, stop)?;
        let (accepted, forwards) = (stats.tokens as f64, stats.forwards as f64);
        Some([accepted, forwards, same as f64, negative_log_likelihood, recorded, repeated, ngrams])
    }

    /// The recorded response, cut to the maximum length of decoded ones.
    fn recorded<'a>(&self, row: &'a Trajectory) -> &'a [u32] {
        &row.response_tokens[..row.response_tokens.len().min(self.stop.max_new_tokens)]
    }

    fn respond(
        &self,
        model: &dyn LanguageModel,
        rows: &[&Trajectory],
        strategy: &Strategy,
        stop: &AtomicBool,
    ) -> Option<(Vec<Vec<u32>>, DecodeStats)> {
        let settings = Settings::greedy(strategy.clone(), self.stop.clone());
        let request = |row: &&Trajectory| Request::new(row.prompt_tokens.clone(), settings.clone());
        let longest = rows.iter().map(|row| row.prompt_tokens.len()).max().unwrap_or(0);
        let text = model.context_length().min(longest + self.stop.max_new_tokens);
        let capacity = text + strategy.max_rows();
        let room = Room { slots: SLOTS.min(rows.len()), capacity, rows: ROWS_PER_PASS };
        let mut responses = vec![Vec::new(); rows.len()];
        let mut stats = Vec::new();
        let mut requests = rows.iter().map(request).enumerate();
        generate_batch(model, &mut requests, room, &mut |event| {
            if let BatchEvent::Done(at, Answer::Response(response)) = event {
                responses[at] = response.generation.tokens;
                stats.push(response.generation.stats);
            }
            if stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        (stats.len() == rows.len()).then(|| (responses, stats.iter().sum()))
    }

    /// Negative log-probabilities of the recorded tokens, and how many there are.
    fn negative_log_likelihood(
        &self,
        model: &dyn LanguageModel,
        rows: &[&Trajectory],
        stop: &AtomicBool,
    ) -> Option<(f64, f64)> {
        let (mut sum, mut count) = (0.0, 0);
        for row in rows {
            if stop.load(Ordering::Relaxed) {
                return None;
            }
            let response = self.recorded(row);
            sum += cross_entropy(model, &row.prompt_tokens, response);
            count += response.len();
        }
        Some((sum, count as f64))
    }
}

/// Sum over `response` of the negative log-probability of each token after `prompt` and those before it.
fn cross_entropy(model: &dyn LanguageModel, prompt: &[u32], response: &[u32]) -> f64 {
    let text = [prompt, response].concat();
    let fed = &text[..text.len() - 1];
    let mut session = model.session(1, fed.len());
    let mut sum = 0.0;
    for (piece, start) in fed.chunks(ROWS_PER_PASS).zip((0..).step_by(ROWS_PER_PASS)) {
        let rows = Rows::chain(piece);
        // The row of the last prompt token is the first that predicts a token of the response.
        let first_output = (prompt.len() - 1).saturating_sub(start).min(piece.len() - 1);
        let predictions = session.forward(&[Work { slot: 0, place: Place::End, rows: &rows, first_output }]);
        session.keep(0, &(0..piece.len()).collect::<Vec<_>>());
        for at in first_output..piece.len() {
            let position = start + at;
            if position + 1 >= prompt.len() {
                sum -= log_probability(&predictions.logits(at - first_output), text[position + 1]);
            }
        }
    }
    sum
}

fn log_probability(logits: &[f32], token: u32) -> f64 {
    let top = f64::from(logits.iter().copied().fold(f32::MIN, f32::max));
    let sum: f64 = logits.iter().map(|&x| (f64::from(x) - top).exp()).sum();
    f64::from(logits[token as usize]) - top - sum.ln()
}

/// How many n-grams occurred earlier in the same response, and how many there are.
fn repetitions(responses: &[&[u32]]) -> (f64, f64) {
    let (mut repeated, mut all) = (0u32, 0u32);
    for response in responses {
        let mut seen = HashSet::new();
        for ngram in response.windows(REPEATED_NGRAM) {
            all += 1;
            repeated += u32::from(!seen.insert(ngram));
        }
    }
    (f64::from(repeated), f64::from(all))
}

#[cfg(test)]
mod tests;
