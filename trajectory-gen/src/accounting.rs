//! Accounts for every prompt of a run: written, skipped by a rule or failed. Passes finished rows to the
//! writer, which makes them durable.

use std::collections::HashMap;

use jacobi_datasets::{FinishReason, ShardWriter, Tally, Tokenizer, Trajectory};

use crate::config::{GenerateConfig, OutOfRange};
use crate::engine::Completion;
use crate::filters::{self, Rule};
use crate::ledger::{Ledger, Rejected, RejectedKind};
use crate::prompts::{Candidate, Judged};
use crate::{GenerateError, GenerateProgress};

/// The count of written responses that were cut before their end, in the manifest.
pub const CUT_RESPONSES: &str = "cut_responses";

/// The count of blocks in which a given response differs from the model's, in the manifest.
const DISAGREEING_BLOCKS: &str = "disagreeing_blocks";

/// A prompt that the engine is working on.
struct Pending {
    key: u128,
    sample_id: String,
    prompt: Vec<u32>,
}

pub(crate) struct Accounting<'a> {
    config: &'a GenerateConfig,
    tokenizer: &'a Tokenizer,
    pub(crate) writer: ShardWriter,
    pub(crate) ledger: Ledger,
    pub(crate) tally: Tally,
    /// Number of rows on disk, by key, that are not yet matched to a prompt.
    done: HashMap<u128, usize>,
    pending: HashMap<usize, Pending>,
    rows: Vec<Trajectory>,
    consecutive_failures: usize,
    /// The error that ends the run.
    pub(crate) error: Option<GenerateError>,
    pub(crate) progress: GenerateProgress,
}

impl<'a> Accounting<'a> {
    pub(crate) fn open(
        config: &'a GenerateConfig,
        tokenizer: &'a Tokenizer,
        writer: ShardWriter,
        ledger: Ledger,
        done: HashMap<u128, usize>,
    ) -> Self {
        let tally = Tally { counts: writer.manifest().counts.clone(), ..Tally::default() };
        let progress = GenerateProgress {
            total: writer.manifest().input,
            done: done.values().sum(),
            ..GenerateProgress::default()
        };
        Self {
            config,
            tokenizer,
            writer,
            ledger,
            tally,
            done,
            pending: HashMap::new(),
            rows: Vec::new(),
            consecutive_failures: 0,
            error: None,
            progress,
        }
    }

    /// Counts a prompt that needs no answer, and returns one that does.
    pub(crate) fn admit(&mut self, judged: Judged) -> Result<Option<Candidate>, GenerateError> {
        match judged {
            Judged::OtherRank => Ok(None),
            Judged::Rejected(rejected) => self.reject(rejected).map(|()| None),
            Judged::Candidate(candidate) => {
                self.consecutive_failures = 0;
                if let Some(rule) = self.ledger.take(candidate.key) {
                    self.count_skipped(&rule);
                    return Ok(None);
                }
                match self.done.get_mut(&candidate.key).filter(|unmatched| **unmatched > 0) {
                    Some(unmatched) => {
                        *unmatched -= 1;
                        Ok(None)
                    }
                    None => Ok(Some(candidate)),
                }
            }
        }
    }

    /// Records that the engine starts on this prompt under `number`.
    pub(crate) fn start(&mut self, number: usize, candidate: &Candidate) {
        let (sample_id, prompt) = (candidate.sample_id.clone(), candidate.sample.prompt.clone());
        self.pending.insert(number, Pending { key: candidate.key, sample_id, prompt });
    }

    fn take_pending(&mut self, number: usize) -> Pending {
        self.pending.remove(&number).expect("the engine finishes each prompt once")
    }

    /// Counts a completion: as a row, or as skipped by a rule.
    pub(crate) fn answer(&mut self, number: usize, completion: Completion) -> Result<(), GenerateError> {
        let Pending { key, sample_id, prompt } = self.take_pending(number);
        let text = || self.tokenizer.decode(&completion.response_tokens);
        let refused =
            filters::refuse(self.config, &completion.response_tokens, completion.finish_reason, text);
        if let Some((rule, reason)) = refused {
            if rule == Rule::ResponseTooShort && self.config.responses_out_of_range == OutOfRange::Fail {
                let setting = "responses_out_of_range";
                return Err(GenerateError::OutOfRange { sample_id, reason, setting });
            }
            return self.reject(Rejected::skipped(rule, sample_id, reason, Some(key)));
        }
        self.count(DISAGREEING_BLOCKS, completion.disagreeing_blocks);
        self.rows.push(completion.into_row(sample_id, prompt));
        self.progress.done += 1;
        if self.rows.len() < self.config.rows_per_group { Ok(()) } else { self.flush() }
    }

    /// Counts a prompt that was refused because its given response differs from the model's in `blocks` blocks.
    pub(crate) fn refuse(&mut self, number: usize, blocks: usize) -> Result<(), GenerateError> {
        let Pending { key, sample_id, .. } = self.take_pending(number);
        self.count(DISAGREEING_BLOCKS, blocks);
        let reason = format!("the given response differs from the model's in {blocks} blocks");
        self.reject(Rejected::skipped(Rule::Disagreement, sample_id, reason, Some(key)))
    }

    /// Writes the finished rows as a row group.
    pub(crate) fn flush(&mut self) -> Result<(), GenerateError> {
        if self.rows.is_empty() {
            return Ok(());
        }
        // If writing fails, no row of the group is on disk, and the next run makes them again.
        let rows = std::mem::take(&mut self.rows);
        self.count(
            CUT_RESPONSES,
            rows.iter().filter(|row| row.finish_reason == FinishReason::Length).count(),
        );
        Ok(self.writer.append(&rows, &self.tally)?)
    }

    fn reject(&mut self, rejected: Rejected) -> Result<(), GenerateError> {
        self.ledger.append(&rejected)?;
        if rejected.kind == RejectedKind::Skipped {
            self.count_skipped(rejected.rule.as_deref().unwrap_or_default());
            return Ok(());
        }
        self.tally.failed += 1;
        self.progress.done += 1;
        self.progress.failed += 1;
        self.consecutive_failures += 1;
        if self.consecutive_failures < self.config.max_consecutive_errors {
            return Ok(());
        }
        Err(GenerateError::TooManyErrors {
            count: self.consecutive_failures,
            prompt: rejected.prompt,
            reason: rejected.reason,
            errors: self.ledger.path().to_path_buf(),
        })
    }

    /// Adds to a count of the manifest.
    fn count(&mut self, name: &str, number: usize) {
        if number > 0 {
            *self.tally.counts.entry(name.to_owned()).or_default() += number;
        }
    }

    fn count_skipped(&mut self, rule: &str) {
        *self.tally.skipped_by.entry(rule.to_owned()).or_default() += 1;
        self.progress.done += 1;
        self.progress.skipped += 1;
    }
}
