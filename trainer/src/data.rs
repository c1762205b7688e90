//! Samples and their order. The order is a pure function of (seed, epoch, step), so a resumed run sees what an
//! undisturbed one would have seen.

use std::{collections::BTreeSet, fmt, path::PathBuf, sync::Arc};

use jacobi_datasets::{FinishReason, PackConfig, PackedSample, Rng, RowSummary, ShardIndex, Trajectory};
use jacobi_model::Architecture;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{AdapterRows, AdapterSettings, TrainConfig, TrainError, config::check};

mod samples;

use samples::{Ahead, Samples, Source, Visit};

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

    /// Removes the cut responses from the indices `kept`, unless they are more than half. `None` if there are none.
    fn remove(kept: &mut Vec<usize>, rows: &[RowSummary]) -> Option<Self> {
        let is_cut = |at: &usize| rows[*at].finish_reason == FinishReason::Length;
        let cut = Self { count: kept.iter().filter(|at| is_cut(at)).count(), of: kept.len() };
        if cut.are_left_out() {
            kept.retain(|at| !is_cut(at));
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

/// The samples that fit, and their order. The rows of a step are read and packed on another thread while the step before
/// it is computed.
pub struct Dataset {
    samples: Arc<Samples>,
    /// Rows excluded from training, without the states of shards.
    pub(crate) held_out: Vec<Trajectory>,
    /// n, if the rows have blocks.
    pub(crate) block_size: Option<usize>,
    /// The epoch visited last and its order of rows.
    order: (usize, Vec<usize>),
    /// Identifies the rows on resume.
    pub(crate) fingerprint: String,
    /// Rows left out for their length.
    pub(crate) skipped: usize,
    /// Cut responses, if they are to be left out and there are any.
    pub(crate) cut: Option<CutRows>,
    /// The step that is being packed ahead of time.
    ahead: Option<Ahead>,
}

impl Dataset {
    /// Reads the rows and checks that they fit a model of this architecture.
    ///
    /// # Errors
    /// Rows that cannot be read or trained on.
    pub fn open(
        data: TrainData,
        config: &TrainConfig,
        seed: u64,
        model: &Architecture,
    ) -> Result<Self, TrainError> {
        if let Some(adapter) = &config.adapter {
            adapter.check_rank(model)?;
        }
        let context = model.context_length() as usize;
        let (source, block_size, origin) = match data {
            TrainData::Trajectories(dir) => {
                let index = ShardIndex::open(&dir)?;
                if config.uses_recorded_states() {
                    config.pack().check_schedule(&dir, index.metadata())?;
                }
                let block_size = index.metadata().block_size;
                (Source::Shards(Box::new(index)), Some(block_size), dir.display().to_string())
            }
            TrainData::Samples { rows, origin } => (Source::memory(rows), None, origin),
        };
        let rows = source.summaries();
        let vocabulary = model.vocab_size as u32;
        check_vocabulary(rows, vocabulary, &origin)?;
        check_states(rows, config, block_size, &origin)?;
        let fits =
            |row: &RowSummary| packed_length(row, config) <= config.max_length && row.text_len() <= context;
        let mut kept: Vec<usize> = (0..rows.len()).filter(|&at| fits(&rows[at])).collect();
        let skipped = rows.len() - kept.len();
        if kept.is_empty() {
            let (max_length, rows) = (config.max_length, rows.len());
            return Err(TrainError::NoSamples { origin, rows, skipped, max_length, context });
        }
        let cut = match config.cut_responses {
            CutResponses::Keep => None,
            CutResponses::Drop => CutRows::remove(&mut kept, rows),
        };
        let rows_before = kept.len();
        let held_out = hold_out(&mut kept, rows, config.held_out_samples(), seed);
        if kept.is_empty() {
            let held_out = config.eval_samples;
            return Err(TrainError::AllHeldOut { origin, rows: rows_before, held_out });
        }
        Ok(Self {
            order: (0, shuffled(kept.len(), seed, 0)),
            fingerprint: fingerprint(kept.iter().map(|&at| &rows[at])),
            held_out: source.read(&held_out, false)?,
            samples: Arc::new(Samples { source, kept, block_size, vocabulary, seed }),
            block_size,
            skipped,
            cut,
            ahead: None,
        })
    }

    /// Number of samples that are trained on.
    pub(crate) fn len(&self) -> usize {
        self.samples.kept.len()
    }

    /// Tokens of the longest prompt with its response; all positions are below.
    pub(crate) fn longest_text(&self) -> usize {
        let Samples { source, kept, .. } = &*self.samples;
        kept.iter().map(|&at| source.summaries()[at].text_len()).max().unwrap_or(0)
    }

    /// The samples of optimizer step `step` (from 0), packed: `per_step` of them, fewer at the end of an epoch. Starts to
    /// pack those of the next step.
    ///
    /// # Errors
    /// A row that cannot be read any more, or that has no target.
    pub fn step(
        &mut self,
        step: usize,
        per_step: usize,
        config: &TrainConfig,
    ) -> Result<Vec<PackedSample>, TrainError> {
        let visit = self.visit(step, per_step, config);
        let samples = match self.ahead.take() {
            Some(ahead) if *ahead.visit == visit => ahead.wait(),
            _ => self.samples.pack(&visit),
        }?;
        let next = self.visit(step + 1, per_step, config);
        self.ahead = Some(Ahead::start(&self.samples, next));
        Ok(samples)
    }

    fn visit(&mut self, step: usize, per_step: usize, config: &TrainConfig) -> Visit {
        let Samples { kept, vocabulary, seed, .. } = &*self.samples;
        let steps = kept.len().div_ceil(per_step);
        let (epoch, step) = (step / steps, step % steps);
        if self.order.0 != epoch {
            self.order = (epoch, shuffled(kept.len(), *seed, epoch));
        }
        let rows = self.order.1.iter().skip(step * per_step).take(per_step).copied().collect();
        Visit { epoch, rows, pack: PackConfig { vocabulary: *vocabulary, ..config.pack() } }
    }
}

/// The order of `rows` in `epoch`.
fn shuffled(rows: usize, seed: u64, epoch: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..rows).collect();
    Rng::new(&[seed, epoch as u64]).shuffle(&mut order);
    order
}

/// Removes `count` of the indices `kept`, chosen by `seed`, and returns them. A row without a prompt cannot be decoded and is
/// never chosen.
fn hold_out(kept: &mut Vec<usize>, rows: &[RowSummary], count: usize, seed: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..kept.len()).filter(|&at| rows[kept[at]].prompt_len > 0).collect();
    Rng::new(&[seed, HELD_OUT]).shuffle(&mut order);
    let chosen: BTreeSet<usize> = order.into_iter().take(count).map(|at| kept[at]).collect();
    kept.retain(|at| !chosen.contains(at));
    chosen.into_iter().collect()
}

/// Refuses ids beyond the vocabulary, which would abort the process in the embedding.
fn check_vocabulary(rows: &[RowSummary], vocabulary: u32, origin: &str) -> Result<(), TrainError> {
    match rows.iter().find(|row| row.greatest_id >= vocabulary) {
        Some(RowSummary { sample_id, greatest_id: id, .. }) => {
            let (origin, sample_id) = (origin.to_owned(), sample_id.to_string());
            Err(TrainError::ForeignToken { origin, sample_id, id: *id, vocabulary })
        }
        None => Ok(()),
    }
}

/// Refuses rows without the states or the block size that training needs. `block_size` is that of shards.
fn check_states(
    rows: &[RowSummary],
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
    let is_bare = |row: &&RowSummary| !row.has_states;
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
            let (origin, sample_id) = (origin.to_owned(), row.sample_id.to_string());
            Err(TrainError::NoStates { origin, sample_id })
        }
        None => Ok(()),
    }
}

/// Tokens of prompt and clean stream, and of the noisy one if there are states.
fn packed_length(row: &RowSummary, config: &TrainConfig) -> usize {
    let makes_states = config.adapter.as_ref().is_some_and(|adapter| adapter.makes_states());
    let noisy = if row.has_states || makes_states { row.response_len as usize } else { 0 };
    row.text_len() + noisy
}

fn fingerprint<'a>(rows: impl ExactSizeIterator<Item = &'a RowSummary>) -> String {
    let count = rows.len();
    let digests: Vec<u64> = rows.map(|row| row.digest).collect();
    format!("{count} rows, {:016x}", Rng::new(&digests).next_u64())
}
