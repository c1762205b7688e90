//! Samples and their order. The order is a pure function of (seed, epoch, step), so a resumed run sees what an
//! undisturbed one would have seen.

use std::{collections::BTreeSet, fmt, path::PathBuf};

use jacobi_datasets::{FinishReason, PackConfig, PackedSample, Rng, Trajectory, pack, read_all};
use jacobi_model::Architecture;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{AdapterRows, AdapterSettings, TrainConfig, TrainError, config::check};

/// Replaces the epoch in the seed of the order in which rows are held out.
const HELD_OUT: u64 = u64::MAX;

/// What to train on.
pub enum TrainData {
    /// A directory of trajectory shards with its manifest.
    Trajectories(PathBuf),
    /// Rows in memory. Rows without states have only the autoregressive loss, unless an adapter makes states.
    Samples {
        /// The rows.
        rows: Vec<Trajectory>,
        /// Where they came from, for messages and for recognising the data on resume.
        origin: String,
    },
}

/// What training does with responses that were cut before their end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CutResponses {
    /// Trained on like any other.
    Keep,
    /// Left out, unless more than half of the responses are cut.
    Drop,
}

/// Responses that were cut before their end, under [`CutResponses::Drop`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CutRows {
    /// Their number.
    pub count: usize,
    /// Number of responses, theirs included.
    pub of: usize,
}

impl CutRows {
    /// Whether they are left out of training: not if they are more than half.
    pub fn are_left_out(self) -> bool {
        2 * self.count <= self.of
    }

    /// Removes the cut responses of `rows`, unless they are more than half. `None` if there are none.
    fn remove(rows: &mut Vec<Trajectory>) -> Option<Self> {
        let is_cut = |row: &Trajectory| row.finish_reason == FinishReason::Length;
        let cut = Self { count: rows.iter().filter(|row| is_cut(row)).count(), of: rows.len() };
        if cut.are_left_out() {
            rows.retain(|row| !is_cut(row));
        }
        (cut.count > 0).then_some(cut)
    }
}

impl fmt::Display for CutRows {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { count, of } = self;
        write!(f, "{count} of {of} responses were cut before their end and ")?;
        match self.are_left_out() {
            true => write!(f, "are left out (train.cut_responses)"),
            false => write!(
                f,
                "are trained on, since they are more than half; they do not teach the model to stop: raise \
                 generate.max_new_tokens"
            ),
        }
    }
}

/// The samples that fit, and their order.
pub(crate) struct Dataset {
    rows: Vec<Trajectory>,
    /// Rows excluded from training.
    pub(crate) held_out: Vec<Trajectory>,
    /// n, if the rows have blocks.
    pub(crate) block_size: Option<usize>,
    /// Tokens of the model's vocabulary.
    vocabulary: u32,
    seed: u64,
    /// The epoch visited last and its order of rows.
    order: (usize, Vec<usize>),
    /// Identifies the rows on resume.
    pub(crate) fingerprint: String,
    /// Rows left out for their length.
    pub(crate) skipped: usize,
    /// Cut responses, if they are to be left out and there are any.
    pub(crate) cut: Option<CutRows>,
}

impl Dataset {
    /// Reads the rows and checks that they fit a model of this architecture.
    pub(crate) fn open(
        data: TrainData,
        config: &TrainConfig,
        seed: u64,
        model: &Architecture,
    ) -> Result<Self, TrainError> {
        if let Some(adapter) = &config.adapter {
            adapter.check_rank(model)?;
        }
        let context = model.context_length() as usize;
        let (mut rows, block_size, origin) = match data {
            TrainData::Trajectories(dir) => {
                let (metadata, rows) = read_all(&dir)?;
                if config.uses_recorded_states() {
                    config.pack().check_schedule(&dir, &metadata)?;
                }
                (rows, Some(metadata.block_size), dir.display().to_string())
            }
            TrainData::Samples { rows, origin } => (rows, None, origin),
        };
        let vocabulary = model.vocab_size as u32;
        check_vocabulary(&rows, vocabulary, &origin)?;
        check_states(&rows, config, block_size, &origin)?;
        let read = rows.len();
        rows.retain(|row| packed_length(row, config) <= config.max_length && text_length(row) <= context);
        let skipped = read - rows.len();
        if rows.is_empty() {
            let max_length = config.max_length;
            return Err(TrainError::NoSamples { origin, rows: read, skipped, max_length, context });
        }
        let cut = match config.cut_responses {
            CutResponses::Keep => None,
            CutResponses::Drop => CutRows::remove(&mut rows),
        };
        let kept = rows.len();
        let held_out = hold_out(&mut rows, config.held_out_samples(), seed);
        if rows.is_empty() {
            return Err(TrainError::AllHeldOut { origin, rows: kept, held_out: config.eval_samples });
        }
        let order = (0, shuffled(rows.len(), seed, 0));
        let fingerprint = fingerprint(&rows);
        Ok(Self { rows, held_out, block_size, vocabulary, seed, order, fingerprint, skipped, cut })
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Tokens of the longest prompt with its response; all positions are below.
    pub(crate) fn longest_text(&self) -> usize {
        self.rows.iter().map(text_length).max().unwrap_or(0)
    }

    /// The samples of optimizer step `step` (from 0), packed: `per_step` of them, fewer at the end of an epoch.
    pub(crate) fn step(
        &mut self,
        step: usize,
        per_step: usize,
        config: &TrainConfig,
    ) -> Result<Vec<PackedSample>, TrainError> {
        let steps = self.rows.len().div_ceil(per_step);
        let (epoch, step) = (step / steps, step % steps);
        if self.order.0 != epoch {
            self.order = (epoch, shuffled(self.rows.len(), self.seed, epoch));
        }
        let visited = self.order.1.iter().skip(step * per_step).take(per_step);
        let noise = PackConfig { vocabulary: self.vocabulary, ..config.pack() };
        let packed = visited.map(|&at| {
            let seed = Rng::new(&[self.seed, epoch as u64, at as u64]).next_u64();
            Ok(pack(&self.rows[at], self.block_size.unwrap_or(usize::MAX), &noise, seed)?)
        });
        let mut samples: Vec<PackedSample> = packed.collect::<Result<_, TrainError>>()?;
        // The order within a step does not matter; sorted by length, rows are filled alike in every epoch.
        samples.sort_by_key(|sample| sample.tokens.len());
        Ok(samples)
    }
}

/// The order of `rows` in `epoch`.
fn shuffled(rows: usize, seed: u64, epoch: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..rows).collect();
    Rng::new(&[seed, epoch as u64]).shuffle(&mut order);
    order
}

/// Removes `count` rows chosen by `seed` and returns them. A row without a prompt cannot be decoded and is
/// never chosen.
fn hold_out(rows: &mut Vec<Trajectory>, count: usize, seed: u64) -> Vec<Trajectory> {
    let mut order: Vec<usize> = (0..rows.len()).filter(|&at| !rows[at].prompt_tokens.is_empty()).collect();
    Rng::new(&[seed, HELD_OUT]).shuffle(&mut order);
    let chosen: BTreeSet<usize> = order.into_iter().take(count).collect();
    let mut at = 0;
    let (held_out, kept) = std::mem::take(rows).into_iter().partition(|_| {
        at += 1;
        chosen.contains(&(at - 1))
    });
    *rows = kept;
    held_out
}

/// Refuses ids beyond the vocabulary, which would abort the process in the embedding.
fn check_vocabulary(rows: &[Trajectory], vocabulary: u32, origin: &str) -> Result<(), TrainError> {
    for row in rows {
        if let Some(id) = row.token_ids().find(|&id| id >= vocabulary) {
            let (origin, sample_id) = (origin.to_owned(), row.sample_id.clone());
            return Err(TrainError::ForeignToken { origin, sample_id, id, vocabulary });
        }
    }
    Ok(())
}

/// Refuses rows without the states or the block size that training needs. `block_size` is that of shards.
fn check_states(
    rows: &[Trajectory],
    config: &TrainConfig,
    block_size: Option<usize>,
    origin: &str,
) -> Result<(), TrainError> {
    let adapter = config.adapter.as_ref();
    let trains_drafter = adapter.is_some_and(|adapter| adapter.rows == AdapterRows::Draft);
    let makes_states = adapter.is_some_and(AdapterSettings::makes_states);
    let size = adapter.and_then(|adapter| adapter.block_size).or(block_size);
    if makes_states {
        let rule = "must be set: the responses come without trajectories, whose block size is the default";
        check("adapter.block_size", size.is_some(), "none", rule)?;
    }
    if makes_states || trains_drafter {
        let rule = "is too small for an adapter: the first token of a block is known";
        check("generate.block_size", size != Some(1), 1, rule)?;
    }
    let is_bare = |row: &&Trajectory| row.states.is_empty();
    let missing = if !config.uses_recorded_states() {
        None
    } else if trains_drafter {
        // There is no other loss, so every sample needs states.
        rows.iter().find(is_bare)
    } else if block_size.is_some() {
        // Shards without any state were generated so; other responses have the autoregressive loss alone.
        rows.first().filter(|_| rows.iter().all(|row| is_bare(&row)))
    } else {
        None
    };
    match missing {
        Some(row) => {
            let (origin, sample_id) = (origin.to_owned(), row.sample_id.clone());
            Err(TrainError::NoStates { origin, sample_id })
        }
        None => Ok(()),
    }
}

/// Tokens of prompt and response.
fn text_length(row: &Trajectory) -> usize {
    row.prompt_tokens.len() + row.response_tokens.len()
}

/// Tokens of prompt and clean stream, and of the noisy one if there are states.
fn packed_length(row: &Trajectory, config: &TrainConfig) -> usize {
    let makes_states = config.adapter.as_ref().is_some_and(|adapter| adapter.makes_states());
    let streams = if row.states.is_empty() && !makes_states { 1 } else { 2 };
    row.prompt_tokens.len() + streams * row.response_tokens.len()
}

fn fingerprint(rows: &[Trajectory]) -> String {
    let mut seeds = Vec::new();
    for row in rows {
        seeds.push(row.response_tokens.len() as u64);
        seeds.extend(row.response_tokens.iter().chain(&row.prompt_tokens).map(|&t| u64::from(t)));
        seeds.extend(row.states.iter().map(|s| u64::from(s.converged)));
    }
    format!("{} rows, {:016x}", rows.len(), Rng::new(&seeds).next_u64())
}
