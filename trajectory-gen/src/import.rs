//! Published data sets of the reference implementation to a directory of shards.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use jacobi_datasets::import::{BadImport, Imported, read_reference};
use jacobi_datasets::{
    DatasetError, Manifest, RecordedSettings, ShardWriter, Tally, Tokenizer, Trajectory, TrajectoryMetadata,
};

use crate::generate::discard;
use crate::ledger::{Ledger, Rejected};
use crate::{GenerateConfig, GenerateError};

/// What is taken over.
#[derive(Clone, Copy, Debug)]
pub struct ImportJob<'a> {
    /// Files of either form of the reference.
    pub files: &'a [PathBuf],
    /// The model they were made with, or another with its tokenizer.
    pub model_dir: &'a Path,
    /// Receives shards, manifest.json, errors.jsonl.
    pub output: &'a Path,
    /// Removes what is there.
    pub overwrite: bool,
}

/// Takes all samples over; those that cannot be are listed in errors.jsonl.
///
/// # Errors
/// [`GenerateError::OutputTaken`]; [`GenerateError::NothingWritten`] when no sample could be taken over; files that cannot
/// be read or written.
pub fn import(job: &ImportJob) -> Result<Manifest, GenerateError> {
    // An import that was broken off starts over: reading is quick, and shards of a half say nothing of the rest.
    let is_half_of_this =
        |found: &Manifest| !found.complete && settings(job).differences(&found.settings).is_empty();
    if job.overwrite {
        discard(job.output)?;
    } else if let Some(found) = Manifest::load(job.output)?.filter(|found| !found.shards.is_empty()) {
        match is_half_of_this(&found) {
            true => discard(job.output)?,
            false => return Err(GenerateError::OutputTaken { dir: job.output.to_path_buf() }),
        }
    }
    fs_err::create_dir_all(job.output)?;
    let tokenizer = Tokenizer::load(job.model_dir)?;
    let mut taking = Taking {
        job,
        tokenizer: &tokenizer,
        ledger: Ledger::open(job.output)?,
        writer: None,
        rows: Vec::new(),
        tally: Tally::default(),
        input: 0,
    };
    for file in job.files {
        read_reference(file, tokenizer.eos_token_ids(), &mut |sample| taking.take(sample))?;
    }
    taking.end()
}

struct Taking<'a> {
    job: &'a ImportJob<'a>,
    tokenizer: &'a Tokenizer,
    ledger: Ledger,
    /// Opened by the first sample, which says how long blocks are.
    writer: Option<(usize, ShardWriter)>,
    rows: Vec<Trajectory>,
    tally: Tally,
    input: usize,
}

impl Taking<'_> {
    fn take(&mut self, sample: Result<Imported, BadImport>) -> Result<(), DatasetError> {
        self.input += 1;
        let Imported { trajectory, block_size } = match sample {
            Ok(imported) => imported,
            Err(BadImport { name, reason }) => return self.refuse(name, reason),
        };
        if let Some(id) = foreign_id(&trajectory, self.tokenizer) {
            let reason = format!("token id {id} is not in the vocabulary of {}", self.tokenizer.vocab_size());
            return self.refuse(trajectory.sample_id, reason);
        }
        let (expected, writer) = match &mut self.writer {
            Some(open) => open,
            None => {
                let writer = open(self.job, self.tokenizer, block_size)?;
                self.writer.insert((block_size, writer))
            }
        };
        if *expected != block_size {
            let reason =
                format!("its blocks are of {block_size} tokens, those of the first sample of {expected}");
            return self.refuse(trajectory.sample_id, reason);
        }
        self.rows.push(trajectory);
        if self.rows.len() >= GenerateConfig::default().rows_per_group {
            writer.set_input(self.input);
            writer.append(&std::mem::take(&mut self.rows), &self.tally)?;
        }
        Ok(())
    }

    fn refuse(&mut self, name: String, reason: String) -> Result<(), DatasetError> {
        self.tally.failed += 1;
        self.ledger.append(&Rejected::failed(name, reason))
    }

    fn end(self) -> Result<Manifest, GenerateError> {
        let Some((_, mut writer)) = self.writer else {
            let errors = self.ledger.path().to_path_buf();
            return Err(GenerateError::NothingWritten { input: self.input, errors });
        };
        writer.set_input(self.input);
        if !self.rows.is_empty() {
            writer.append(&self.rows, &self.tally)?;
        }
        writer.finish(&self.tally)?;
        Ok(writer.manifest().clone())
    }
}

/// A token that the tokenizer does not know.
fn foreign_id(row: &Trajectory, tokenizer: &Tokenizer) -> Option<u32> {
    row.token_ids().max().filter(|&id| tokenizer.id_to_token(id).is_none())
}

fn files_of(job: &ImportJob) -> String {
    let names: Vec<String> = job.files.iter().map(|file| file.display().to_string()).collect();
    names.join(", ")
}

fn settings(job: &ImportJob) -> RecordedSettings {
    let mut settings = RecordedSettings::default();
    settings.set("import.files", files_of(job));
    settings
}

fn open(job: &ImportJob, tokenizer: &Tokenizer, block_size: usize) -> Result<ShardWriter, DatasetError> {
    let metadata = TrajectoryMetadata {
        base_model: job.model_dir.display().to_string(),
        base_revision: "imported".to_owned(),
        weight_hash: String::new(),
        tokenizer_hash: tokenizer.hash().to_owned(),
        block_size,
        decoding: BTreeMap::from([("imported_from".to_owned(), files_of(job))]),
        seed: 0,
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let manifest = Manifest::new(settings(job), 0);
    ShardWriter::open(job.output, metadata, manifest, GenerateConfig::default().shard_bytes)
}
