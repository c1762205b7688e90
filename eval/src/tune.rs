//! Tuning: finds the decoder and the settings that are best for a model on this machine. It times forward
//! passes by their width ([`latency`]), then decodes the given prompts with candidates ([`candidates`]) by
//! successive halving ([`halving`]). The defaults are never dropped, so the result is at least as good as
//! they are in these measurements.

mod candidates;
mod halving;
mod latency;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use jacobi_datasets::schema::tuned::{Latency, Objective, Trial};
use jacobi_datasets::{BadRow, PromptsConfig, Tokenizer};
use jacobi_decoder::{DecodeStats, Settings, StopRules, generate};
use jacobi_model::{Compute, DecodingModel, Device, Dtype, LanguageModel, dtype_name, load};

use crate::tasks::{self, SPEED_ONLY, Task};
use crate::{EvalError, questions};
use halving::{Race, Turn};

/// A search to run.
#[derive(Clone, Copy, Debug)]
pub struct TuneJob<'a> {
    /// A local Hugging Face directory.
    pub model: &'a Path,
    /// Compute dtype.
    pub dtype: Dtype,
    /// Where to compute.
    pub device: Device,
    /// The prompts; the last candidates decode all of them.
    pub prompts: &'a PromptsConfig,
    /// Longest response, EOS included.
    pub max_new_tokens: usize,
    /// What to maximise.
    pub objective: Objective,
    /// Combinations of settings to try besides the defaults.
    pub candidates: usize,
    /// Seed of the fillers and of the choice of combinations.
    pub seed: u64,
}

/// Progress of the search.
#[derive(Clone, Debug)]
pub enum TuneProgress<'a> {
    /// The latencies of forward passes.
    Latency(&'a Latency),
    /// A response was decoded.
    Decoded {
        /// Responses so far.
        done: usize,
        /// Responses in all.
        total: usize,
        /// The round, from 1.
        round: usize,
        /// Rounds in all.
        rounds: usize,
    },
}

/// The result of a search.
#[derive(Clone, Debug)]
pub struct TuneOutcome {
    /// Every decoder tried, best first; empty if the stop flag ended the search.
    pub trials: Vec<Trial>,
    /// Forward passes by width.
    pub latency: Latency,
    /// Dtype the weights were computed in.
    pub dtype: &'static str,
    /// Malformed rows of the prompt file, left out.
    pub bad_rows: Vec<BadRow>,
    /// Whether the stop flag ended it early.
    pub interrupted: bool,
}

/// Searches. `stop` is read before each forward pass that is timed and before each response.
///
/// # Errors
/// [`EvalError`] for a model or prompts that cannot be used.
pub fn tune(
    job: &TuneJob,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(&TuneProgress),
) -> Result<TuneOutcome, EvalError> {
    let (questions, bad_rows) =
        questions::read(&Task { prompts: job.prompts.clone(), ..tasks::find(SPEED_ONLY)? })?;
    let name = job.model.display().to_string();
    let compute = Compute { dtype: job.dtype, device: job.device };
    let loaded =
        load(job.model, compute).map_err(|source| EvalError::Model { name: name.clone(), source })?;
    let tokenizer = Tokenizer::load(job.model)?;
    let prompts: Result<Vec<Vec<u32>>, _> =
        questions.iter().map(|question| tokenizer.encode_chat(&question.prompt.messages)).collect();
    let prompts = prompts?;
    questions::check_room(&questions, &prompts, &name, loaded.transformer.context_length())?;
    let search = Search {
        model: &DecodingModel::new(&loaded.transformer),
        prompts: &prompts,
        stop_rules: StopRules {
            max_new_tokens: job.max_new_tokens,
            eos_token_ids: tokenizer.eos_token_ids().to_vec(),
        },
        job,
        stop,
    };
    let found = search.run(progress);
    let interrupted = found.is_none();
    let (trials, latency) = found.unwrap_or_default();
    let dtype = dtype_name(loaded.transformer.kind());
    Ok(TuneOutcome { trials, latency, dtype, bad_rows, interrupted })
}

struct Search<'a> {
    model: &'a dyn LanguageModel,
    /// Token ids, at least one prompt.
    prompts: &'a [Vec<u32>],
    stop_rules: StopRules,
    job: &'a TuneJob<'a>,
    stop: &'a AtomicBool,
}

impl Search<'_> {
    /// `None` if the stop flag ended it.
    fn run(&self, progress: &mut dyn FnMut(&TuneProgress)) -> Option<(Vec<Trial>, Latency)> {
        let TuneJob { seed, candidates, objective, .. } = *self.job;
        let latency = latency::measure(self.model, &self.typical_text(), self.stop)?;
        progress(&TuneProgress::Latency(&latency));
        let mut entrants = candidates::defaults(seed, &self.stop_rules);
        let seeded = entrants.len();
        entrants.extend(candidates::challengers(&latency, &entrants, candidates, seed, &self.stop_rules));
        let challengers = entrants.len() - seeded;
        let race = Race { seeded, challengers, prompts: self.prompts.len(), objective };
        let (rounds, total) = (race.rounds().len(), race.turns());
        let mut done = 0;
        // The first responses of a process are slower.
        self.decode(&self.prompts[0], &entrants[0]);
        self.decode(&self.prompts[0], &entrants[seeded - 1]);
        let stats = race.run(&mut |Turn { round, entrant, prompt }| {
            if self.stop.load(Ordering::Relaxed) {
                return None;
            }
            let stats = self.decode(&self.prompts[prompt], &entrants[entrant]);
            done += 1;
            progress(&TuneProgress::Decoded { done, total, round: round + 1, rounds });
            Some(stats)
        })?;
        Some((trials(&entrants, &stats, seeded, objective), latency))
    }

    fn decode(&self, prompt: &[u32], entrant: &Settings) -> DecodeStats {
        generate(self.model, prompt, entrant, &mut |_| {}).stats
    }

    /// As many tokens as are cached in the middle of a typical response; at most half the context, so that
    /// passes fit.
    fn typical_text(&self) -> Vec<u32> {
        let mut lengths: Vec<usize> = self.prompts.iter().map(Vec::len).collect();
        lengths.sort_unstable();
        let typical = lengths[lengths.len() / 2] + self.job.max_new_tokens / 2;
        let length = typical.min(self.model.context_length() / 2).max(1);
        self.prompts.iter().flatten().cycle().take(length).copied().collect()
    }
}

/// A trial of every entrant, best first; entrants that decoded more prompts come before those that dropped out.
fn trials(
    entrants: &[Settings],
    stats: &[Vec<DecodeStats>],
    seeded: usize,
    objective: Objective,
) -> Vec<Trial> {
    let trial = |(index, (entrant, own)): (usize, (&Settings, &Vec<DecodeStats>))| {
        let prompts = own.len();
        let sum: DecodeStats = own.iter().sum();
        let baseline: DecodeStats = stats[0][..prompts].iter().sum();
        let mut decoder = entrant.decoder_settings();
        decoder.shift_insert(0, "name".to_owned(), entrant.strategy.name().as_str().into());
        Trial {
            decoder,
            is_default: index < seeded,
            prompts,
            tokens: sum.tokens,
            forwards: sum.forwards,
            rows: sum.rows(),
            decode_seconds: sum.decode_seconds,
            tpf: sum.tpf(),
            tps: sum.tps(),
            speedup_over_ar: sum.tps().zip(baseline.tps()).map(|(tps, ar)| tps / ar),
        }
    };
    let mut trials: Vec<Trial> = entrants.iter().zip(stats).enumerate().map(trial).collect();
    let score = |trial: &Trial| trial.score(objective).unwrap_or(0.0);
    trials.sort_by(|a, b| b.prompts.cmp(&a.prompts).then(score(b).total_cmp(&score(a))));
    trials
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trials_are_sorted_by_prompts_then_score() {
        let entrants = candidates::defaults(0, &StopRules { max_new_tokens: 9, eos_token_ids: vec![] });
        let decoded = |tokens, decode_seconds| DecodeStats {
            tokens,
            forwards: 10,
            decode_seconds,
            ..DecodeStats::default()
        };
        let stats = [
            vec![decoded(10, 1.0), decoded(10, 3.0)],
            vec![decoded(30, 2.0), decoded(30, 2.0)],
            vec![decoded(50, 1.0)],
            vec![decoded(60, 8.0), decoded(60, 8.0)],
        ];
        let order = |objective| {
            let trials = trials(&entrants, &stats, 2, objective);
            trials.iter().map(|t| (t.label(), t.is_default, t.speedup_over_ar)).collect::<Vec<_>>()
        };
        let jacobi = ("jacobi n=16".to_owned(), true, Some(3.0));
        let tree = ("multi_block n=16 K=2 pool=4 tree=32 r=0.85".to_owned(), false, Some(1.5));
        let ar = ("ar".to_owned(), true, Some(1.0));
        // Five times the baseline's first prompt, and yet it was not seen on the second.
        let left = ("multi_block n=16 K=2 pool=4 r=0.85".to_owned(), false, Some(5.0));
        let by_speed = [jacobi.clone(), tree.clone(), ar.clone(), left.clone()];
        assert_eq!(order(Objective::Tps), by_speed);
        assert_eq!(order(Objective::Tpf), [tree, jacobi, ar, left]);
    }
}
