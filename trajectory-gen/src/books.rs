//! The books of a run: what is written, what is kept out and what failed, so that in the end every prompt is in one of
//! the three. The writer makes rows durable; this decides what is handed to it, and when.

use std::collections::HashMap;
use std::ops::ControlFlow;

use jacobi_datasets::{ShardWriter, Tally, Tokenizer, Trajectory};

use crate::config::{GenerateConfig, OutOfRange};
use crate::engine::Made;
use crate::filters::{self, Rule};
use crate::intake::{Candidate, Judged};
use crate::ledger::{Ledger, Rejected, RejectedKind};
use crate::{GenerateError, GenerateProgress};

/// A prompt that the engine has and has not answered yet.
struct Asked {
    key: u128,
    sample_id: String,
    prompt: Vec<u32>,
}

pub(crate) struct Books<'a> {
    config: &'a GenerateConfig,
    tokenizer: &'a Tokenizer,
    pub(crate) writer: ShardWriter,
    pub(crate) ledger: Ledger,
    pub(crate) tally: Tally,
    /// Rows on disk, by key: how many of them have not been met in the prompts yet.
    done: HashMap<u128, usize>,
    asked: HashMap<usize, Asked>,
    rows: Vec<Trajectory>,
    failures_in_a_row: usize,
    /// What ended the run, once something did.
    pub(crate) error: Option<GenerateError>,
    pub(crate) progress: GenerateProgress,
}

impl<'a> Books<'a> {
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
            asked: HashMap::new(),
            rows: Vec::new(),
            failures_in_a_row: 0,
            error: None,
            progress,
        }
    }

    /// Books what needs no answer and gives back what does.
    pub(crate) fn admit(&mut self, judged: Judged) -> Result<Option<Candidate>, GenerateError> {
        match judged {
            Judged::NotOurs => Ok(None),
            Judged::Rejected(rejected) => self.reject(rejected).map(|()| None),
            Judged::Candidate(candidate) => {
                self.failures_in_a_row = 0;
                if let Some(rule) = self.ledger.take(candidate.key) {
                    self.count_skipped(&rule);
                    return Ok(None);
                }
                match self.done.get_mut(&candidate.key).filter(|left| **left > 0) {
                    Some(left) => {
                        *left -= 1;
                        Ok(None)
                    }
                    None => Ok(Some(candidate)),
                }
            }
        }
    }

    /// Notes that the engine is about to get this prompt under `number`.
    pub(crate) fn ask(&mut self, number: usize, candidate: &Candidate) {
        let prompt = candidate.sample.prompt.clone();
        let asked = Asked { key: candidate.key, sample_id: candidate.sample_id.clone(), prompt };
        self.asked.insert(number, asked);
    }

    /// Takes an answer in: a row, or what a rule keeps out.
    pub(crate) fn answer(&mut self, number: usize, made: Made) -> ControlFlow<()> {
        let asked = self.asked.remove(&number).expect("the engine answers what it was asked, once");
        let outcome = self.judge(asked, made);
        self.go_on(outcome)
    }

    /// Books a prompt whose given response is not the model's in so many blocks.
    pub(crate) fn refuse(&mut self, number: usize, blocks: usize) -> ControlFlow<()> {
        let asked = self.asked.remove(&number).expect("the engine answers what it was asked, once");
        self.count_disagreeing(blocks);
        let reason = format!("the given response is not the model's in {blocks} blocks");
        let rejected = Rejected::skipped(Rule::Disagreement, asked.sample_id, reason, Some(asked.key));
        let outcome = self.reject(rejected);
        self.go_on(outcome)
    }

    fn go_on(&mut self, outcome: Result<(), GenerateError>) -> ControlFlow<()> {
        match outcome {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                self.error = Some(error);
                ControlFlow::Break(())
            }
        }
    }

    fn judge(&mut self, asked: Asked, made: Made) -> Result<(), GenerateError> {
        let Made { response_tokens, finish_reason, states, disagreeing_blocks } = made;
        let text = || self.tokenizer.decode(&response_tokens);
        if let Some((rule, reason)) = filters::refuse(self.config, &response_tokens, finish_reason, text) {
            if rule == Rule::ResponseTooShort && self.config.responses_out_of_range == OutOfRange::Fail {
                let (sample_id, setting) = (asked.sample_id, "responses_out_of_range");
                return Err(GenerateError::OutOfRange { sample_id, reason, setting });
            }
            return self.reject(Rejected::skipped(rule, asked.sample_id, reason, Some(asked.key)));
        }
        self.count_disagreeing(disagreeing_blocks);
        self.rows.push(Trajectory {
            sample_id: asked.sample_id,
            prompt_tokens: asked.prompt,
            response_tokens,
            finish_reason,
            states,
        });
        self.progress.done += 1;
        if self.rows.len() < self.config.rows_per_group { Ok(()) } else { self.flush() }
    }

    /// Makes the rows at hand durable.
    pub(crate) fn flush(&mut self) -> Result<(), GenerateError> {
        if self.rows.is_empty() {
            return Ok(());
        }
        // Of a failed write nothing is on disk, and the next run makes these rows anew.
        let rows = std::mem::take(&mut self.rows);
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
        self.failures_in_a_row += 1;
        if self.failures_in_a_row < self.config.max_consecutive_errors {
            return Ok(());
        }
        Err(GenerateError::TooManyErrors {
            count: self.failures_in_a_row,
            prompt: rejected.prompt,
            reason: rejected.reason,
            errors: self.ledger.path().to_path_buf(),
        })
    }

    fn count_disagreeing(&mut self, blocks: usize) {
        if blocks > 0 {
            *self.tally.counts.entry("disagreeing_blocks".to_owned()).or_default() += blocks;
        }
    }

    fn count_skipped(&mut self, rule: &str) {
        *self.tally.skipped_by.entry(rule.to_owned()).or_default() += 1;
        self.progress.done += 1;
        self.progress.skipped += 1;
    }
}
