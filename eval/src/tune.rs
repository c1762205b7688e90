//! Tuning: finds the decoder and the settings that are best for a model on this machine. It times forward
//! passes by their width ([`latency`]), then decodes the given prompts with candidates ([`candidates`]) by
//! successive halving ([`halving`]). `ar` and `jacobi` are never dropped. The race is made as large as the time allows,
//! and the clock is read between responses.

mod candidates;
mod config;
mod halving;
mod latency;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use jacobi_datasets::schema::tuned::{DECIDING_PROMPTS, Latency, Objective, RaceSummary, Trial};
use jacobi_datasets::{BadRow, PromptsConfig, Tokenizer};
use jacobi_decoder::{DecodeStats, Settings, StopRules, generate};
use jacobi_model::{Compute, DecodingModel, Device, Dtype, LanguageModel, dtype_name, load};

use crate::opening::encode;
use crate::tasks::{self, SPEED_ONLY, Task};
use crate::{EvalError, questions};
use candidates::SEEDED;
pub use config::TuneConfig;
use halving::{Race, Turn};

/// A search to run.
#[derive(Clone, Copy, Debug)]
pub struct TuneJob<'a> {
    /// A local Hugging Face directory.
    pub model: &'a Path,
    /// A draft adapter for it.
    pub adapter: Option<&'a Path>,
    /// Compute dtype.
    pub dtype: Dtype,
    /// Where to compute.
    pub device: Device,
    /// The prompts; the last candidates decode all of them.
    pub prompts: &'a PromptsConfig,
    /// Longest response, EOS included.
    pub max_new_tokens: usize,
    /// What to maximise, over how many candidates, and for how long. The caller has limited the prompts.
    pub config: &'a TuneConfig,
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
    /// How much was measured.
    pub race: RaceSummary,
    /// Forward passes by width.
    pub latency: Latency,
    /// Dtype the weights were computed in.
    pub dtype: &'static str,
    /// Malformed rows of the prompt file, left out.
    pub bad_rows: Vec<BadRow>,
    /// Prompts that the model cannot answer, left out: their ids with the reasons.
    pub unusable: Vec<String>,
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
    let error = |source| EvalError::Model { name: name.clone(), source };
    let loaded = load(job.model, compute).map_err(error)?;
    let adapter = job.adapter.map(|dir| loaded.adapter(dir)).transpose().map_err(error)?;
    let tokenizer = Tokenizer::load(job.model)?.with_prompts(job.prompts)?;
    let context = loaded.transformer.context_length();
    let (mut prompts, mut unusable) = (Vec::new(), Vec::new());
    for question in &questions {
        match encode(question, &tokenizer, &name, context) {
            Ok(tokens) => prompts.push(tokens),
            Err(error) => unusable.push((question.prompt.id.clone(), error)),
        }
    }
    if prompts.is_empty() && !unusable.is_empty() {
        return Err(unusable.swap_remove(0).1);
    }
    let unusable = unusable.into_iter().map(|(id, error)| format!("{id}: {error}")).collect();
    let search = Search {
        model: &DecodingModel::new(&loaded.transformer).with_adapter(adapter.as_ref()),
        prompts: &prompts,
        stop_rules: StopRules {
            max_new_tokens: job.max_new_tokens,
            eos_token_ids: tokenizer.eos_token_ids().to_vec(),
        },
        job,
        stop,
        started: Instant::now(),
    };
    let found = search.run(progress);
    let interrupted = found.is_none();
    let Found { trials, race, latency } = found.unwrap_or_default();
    let dtype = dtype_name(loaded.transformer.kind());
    Ok(TuneOutcome { trials, race, latency, dtype, bad_rows, unusable, interrupted })
}

#[derive(Default)]
struct Found {
    trials: Vec<Trial>,
    race: RaceSummary,
    latency: Latency,
}

struct Search<'a> {
    model: &'a dyn LanguageModel,
    /// Token ids, at least one prompt.
    prompts: &'a [Vec<u32>],
    stop_rules: StopRules,
    job: &'a TuneJob<'a>,
    stop: &'a AtomicBool,
    started: Instant,
}

impl Search<'_> {
    /// `None` if the stop flag ended it.
    fn run(&self, progress: &mut dyn FnMut(&TuneProgress)) -> Option<Found> {
        let TuneJob { seed, config: TuneConfig { candidates, objective, .. }, .. } = *self.job;
        let limit = Duration::from_secs(self.job.config.seconds as u64);
        // At most a quarter of the time, unless one pass of each width takes longer.
        let is_over = || self.started.elapsed() > limit / 4;
        let latency = latency::measure(self.model, &self.typical_text(), self.stop, &is_over)?;
        progress(&TuneProgress::Latency(&latency));
        let mut entrants =
            candidates::field(&latency, *candidates, seed, &self.stop_rules, self.model.has_adapter());
        let challengers = entrants.len() - SEEDED;
        let prompts = self.prompts.len();
        let race = Race { seeded: SEEDED, challengers, prompts, objective: *objective };
        let race = race.within(self.turns_left(&entrants[..SEEDED], limit));
        entrants.truncate(SEEDED + race.challengers);
        let (rounds, total) = (race.rounds().len(), race.turns());
        let (mut done, mut out_of_time) = (0, false);
        let stats = race.run(&mut |Turn { round, entrant, prompt }| {
            // `ar` and `jacobi` have the first turns: without them nothing would be known.
            out_of_time = done >= SEEDED && self.started.elapsed() > limit;
            if out_of_time || self.is_stopped() {
                return None;
            }
            let stats = self.decode(&self.prompts[prompt], &entrants[entrant]);
            done += 1;
            progress(&TuneProgress::Decoded { done, total, round: round + 1, rounds });
            Some(stats)
        });
        if self.is_stopped() {
            return None;
        }
        let defaults = candidates::defaults(seed, &self.stop_rules);
        let trials = trials(&entrants, &stats, &defaults, *objective);
        let prompts = stats[0].len();
        let race = RaceSummary {
            decoders: trials.len(),
            prompts,
            decided: prompts >= DECIDING_PROMPTS,
            out_of_time,
            seconds: self.started.elapsed().as_secs_f64(),
        };
        Some(Found { trials, race, latency })
    }

    /// Decodes a prompt with each of `entrants`, which also warms up: the first responses of a process are slower.
    /// Returns how many such responses fit into the rest of the time.
    fn turns_left(&self, entrants: &[Settings], limit: Duration) -> usize {
        let started = Instant::now();
        for entrant in entrants {
            self.decode(&self.prompts[0], entrant);
        }
        let one = started.elapsed().as_secs_f64() / entrants.len() as f64;
        let left = limit.saturating_sub(self.started.elapsed());
        (left.as_secs_f64() / one.max(f64::MIN_POSITIVE)) as usize
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
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

/// A trial of every entrant that had a turn, best first; entrants that decoded more prompts come before those that dropped
/// out.
fn trials(
    entrants: &[Settings],
    stats: &[Vec<DecodeStats>],
    defaults: &[Settings],
    objective: Objective,
) -> Vec<Trial> {
    let trial = |(entrant, own): (&Settings, &Vec<DecodeStats>)| {
        let prompts = own.len();
        let sum: DecodeStats = own.iter().sum();
        let baseline: DecodeStats = stats[0][..prompts].iter().sum();
        let mut decoder = entrant.decoder_settings();
        decoder.shift_insert(0, "name".to_owned(), entrant.strategy.name().as_str().into());
        Trial {
            decoder,
            is_default: defaults.contains(entrant),
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
    let mut trials: Vec<Trial> =
        entrants.iter().zip(stats).filter(|(_, own)| !own.is_empty()).map(trial).collect();
    let score = |trial: &Trial| trial.score(objective).unwrap_or(0.0);
    trials.sort_by(|a, b| b.prompts.cmp(&a.prompts).then(score(b).total_cmp(&score(a))));
    trials
}

#[cfg(test)]
mod tests;
