//! Converts published data sets of the reference implementation to a directory of shards.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use jacobi_datasets::import::{BadImport, Imported, read_reference};
use jacobi_datasets::{
    DatasetError, FinishReason, Manifest, RecordedSettings, ShardWriter, Tally, Tokenizer, Trajectory,
    TrajectoryMetadata,
};

use crate::accounting::CUT_RESPONSES;
use crate::generate::discard;
use crate::ledger::{Ledger, Rejected};
use crate::{GenerateConfig, GenerateError};

/// What to convert.
#[derive(Clone, Copy, Debug)]
pub struct ImportJob<'a> {
    /// Files in either format of the reference implementation.
    pub files: &'a [PathBuf],
    /// The model that made them, or another with the same tokenizer.
    pub model_dir: &'a Path,
    /// Receives shards, manifest.json, errors.jsonl.
    pub output: &'a Path,
    /// Whether to remove what is in `output`.
    pub overwrite: bool,
}

/// Converts all samples; errors.jsonl lists those that cannot be converted.
///
/// # Errors
/// [`GenerateError::OutputTaken`]; [`GenerateError::NothingWritten`] when no sample could be converted; files
/// that cannot be read or written.
pub fn import(job: &ImportJob) -> Result<Manifest, GenerateError> {
    // An interrupted import starts over: reading is quick, and partial shards do not say which samples are missing.
    let is_interrupted =
        |found: &Manifest| !found.complete && settings(job).differences(&found.settings).is_empty();
    if job.overwrite {
        discard(job.output)?;
    } else if let Some(found) = Manifest::load(job.output)?.filter(|found| !found.shards.is_empty()) {
        match is_interrupted(&found) {
            true => discard(job.output)?,
            false => return Err(GenerateError::OutputTaken { dir: job.output.to_path_buf() }),
        }
    }
    fs_err::create_dir_all(job.output)?;
    let tokenizer = Tokenizer::load(job.model_dir)?;
    let mut converter = Converter {
        job,
        tokenizer: &tokenizer,
        ledger: Ledger::open(job.output)?,
        writer: None,
        rows: Vec::new(),
        tally: Tally::default(),
        input: 0,
    };
    for file in job.files {
        read_reference(file, tokenizer.eos_token_ids(), &mut |sample| converter.convert(sample))?;
    }
    converter.finish()
}

struct Converter<'a> {
    job: &'a ImportJob<'a>,
    tokenizer: &'a Tokenizer,
    ledger: Ledger,
    /// Opened at the first sample, which sets the block size.
    writer: Option<(usize, ShardWriter)>,
    rows: Vec<Trajectory>,
    tally: Tally,
    input: usize,
}

impl Converter<'_> {
    fn convert(&mut self, sample: Result<Imported, BadImport>) -> Result<(), DatasetError> {
        self.input += 1;
        let Imported { trajectory, block_size } = match sample {
            Ok(imported) => imported,
            Err(BadImport { name, reason }) => return self.reject(name, reason),
        };
        if let Some(reason) = foreign_id(&trajectory, self.tokenizer) {
            return self.reject(trajectory.sample_id, reason);
        }
        let (expected, writer) = match &mut self.writer {
            Some(open) => open,
            None => {
                let writer = open(self.job, self.tokenizer, block_size)?;
                self.writer.insert((block_size, writer))
            }
        };
        if *expected != block_size {
            let reason = format!("its blocks have {block_size} tokens, those of the first sample {expected}");
            return self.reject(trajectory.sample_id, reason);
        }
        if trajectory.finish_reason == FinishReason::Length {
            *self.tally.counts.entry(CUT_RESPONSES.to_owned()).or_default() += 1;
        }
        self.rows.push(trajectory);
        if self.rows.len() >= GenerateConfig::default().rows_per_group {
            writer.set_input(self.input);
            writer.append(&std::mem::take(&mut self.rows), &self.tally)?;
        }
        Ok(())
    }

    fn reject(&mut self, name: String, reason: String) -> Result<(), DatasetError> {
        self.tally.failed += 1;
        self.ledger.append(&Rejected::failed(name, reason))
    }

    fn finish(self) -> Result<Manifest, GenerateError> {
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

/// A message if the highest token id is not in the vocabulary or has no embedding.
fn foreign_id(row: &Trajectory, tokenizer: &Tokenizer) -> Option<String> {
    let id = row.token_ids().max()?;
    if tokenizer.id_to_token(id).is_none() {
        return Some(format!("token id {id} is not in the vocabulary of {}", tokenizer.vocab_size()));
    }
    tokenizer.check_ids(&[id]).err().map(|error| error.to_string())
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
