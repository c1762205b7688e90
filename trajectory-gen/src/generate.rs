//! Prompts to trajectory shards, by the Jacobi decoder itself: its iterations are the trajectories
//! (arXiv 2512.14681, section 3.1), several prompts side by side.

use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use jacobi_datasets::{
    BadRow, Manifest, Prompt, Rng, ShardEntry, Tokenizer, Trajectory, TrajectoryMetadata, shard_file_name,
    write_shard,
};
use jacobi_decoder::StopRules;
use jacobi_model::{Dtype, LanguageModel, Transformer, dtype_name, load};

use crate::{
    GenerateConfig, GenerateError,
    engine::{EngineSettings, Event, Made, Sample, make},
    ledger::{Ledger, Rejected, RejectedKind},
};

/// One generation run.
pub struct GenerateJob<'a> {
    /// Hugging Face directory.
    pub model_dir: &'a Path,
    /// Compute dtype.
    pub dtype: Dtype,
    /// What [`jacobi_datasets::read_prompts`] gave.
    pub prompts: &'a [Result<Prompt, BadRow>],
    /// Receives shards, manifest.json, errors.jsonl.
    pub output: &'a Path,
    /// How.
    pub config: &'a GenerateConfig,
    /// Of the fillers.
    pub seed: u64,
}

/// How far a run is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct GenerateProgress {
    /// Prompts dealt with, earlier runs included.
    pub done: usize,
    /// Prompts in all.
    pub total: usize,
    /// Prompts that could not be used.
    pub failed: usize,
    /// Response tokens of this run.
    pub tokens: usize,
    /// Decode forwards of this run.
    pub forwards: usize,
}

/// How a run ended.
#[derive(Debug)]
pub struct GenerateOutcome {
    /// The books.
    pub manifest: Manifest,
    /// Stopped before the end; run again to continue.
    pub interrupted: bool,
}

/// Generates, continuing after the shards that are already there. A complete directory returns at once.
///
/// # Errors
/// See [`GenerateError`]; a bad prompt is no error but a line of errors.jsonl.
pub fn generate(
    job: &GenerateJob,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(&GenerateProgress),
) -> Result<GenerateOutcome, GenerateError> {
    job.config.validate()?;
    let run = Run::open(job)?;
    let total_shards = job.prompts.len().div_ceil(job.config.rows_per_shard);
    let mut ledger = Ledger::open(job.output, &run.fingerprint(), job.prompts.len())?;
    let mut report = GenerateProgress { total: job.prompts.len(), ..GenerateProgress::default() };
    let chunks: Vec<_> = job.prompts.chunks(job.config.rows_per_shard).enumerate().collect();
    for (shard, prompts) in chunks.into_iter().skip(ledger.manifest.shards.len()) {
        report.done = shard * job.config.rows_per_shard;
        report.failed = ledger.failed();
        let Some((rows, rejected)) = run.shard(shard, prompts, stop, &mut report, progress) else {
            return Ok(GenerateOutcome { manifest: ledger.manifest, interrupted: true });
        };
        let file = shard_file_name(shard, total_shards);
        let digest = write_shard(&job.output.join(&file), &run.metadata(), &rows)?;
        let entry = ShardEntry { file, rows: rows.len(), blake3: digest.blake3 };
        ledger.close_shard(entry, rejected, total_shards)?;
    }
    if ledger.manifest.written == 0 {
        return Err(GenerateError::NothingWritten { input: job.prompts.len(), errors: ledger.errors_path() });
    }
    Ok(GenerateOutcome { manifest: ledger.manifest, interrupted: false })
}

/// Why a prompt gave no row: kind, which prompt, reason.
type Rejection = (RejectedKind, String, String);

struct Run<'a> {
    job: &'a GenerateJob<'a>,
    model: Transformer,
    weight_hash: String,
    tokenizer: Tokenizer,
}

impl<'a> Run<'a> {
    fn open(job: &'a GenerateJob<'a>) -> Result<Self, GenerateError> {
        let tokenizer = Tokenizer::load(job.model_dir)?;
        let loaded = load(job.model_dir, job.dtype)?;
        Ok(Self { job, model: loaded.transformer, weight_hash: loaded.weight_hash, tokenizer })
    }

    fn metadata(&self) -> TrajectoryMetadata {
        let config = self.job.config;
        let decoding = BTreeMap::from([
            ("strategy".to_owned(), "greedy".to_owned()),
            ("max_new_tokens".to_owned(), config.max_new_tokens.to_string()),
            ("max_prompt_tokens".to_owned(), config.max_prompt_tokens.to_string()),
            ("dtype".to_owned(), dtype_name(self.model.kind()).to_owned()),
        ]);
        TrajectoryMetadata {
            base_model: self.job.model_dir.display().to_string(),
            base_revision: "local".to_owned(),
            weight_hash: self.weight_hash.clone(),
            tokenizer_hash: self.tokenizer.hash().to_owned(),
            block_size: config.block_size,
            decoding,
            seed: self.job.seed,
            tool_version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// Everything that decides the rows: two directories with equal fingerprints hold equal trajectories.
    fn fingerprint(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        let metadata = TrajectoryMetadata { base_model: String::new(), ..self.metadata() };
        hasher.update(format!("{metadata:?} {:?}", self.job.config).as_bytes());
        for prompt in self.job.prompts {
            hasher.update(format!("{prompt:?}\n").as_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }

    /// The rows of one shard and the prompts that gave none; `None` if `stop` ended it early.
    fn shard(
        &self,
        shard: usize,
        prompts: &[Result<Prompt, BadRow>],
        stop: &AtomicBool,
        report: &mut GenerateProgress,
        progress: &mut dyn FnMut(&GenerateProgress),
    ) -> Option<(Vec<Trajectory>, Vec<Rejected>)> {
        let (mut ids, mut samples, mut rejected) = (Vec::new(), Vec::new(), Vec::new());
        for prompt in prompts {
            match self.sample(prompt) {
                Ok((id, sample)) => {
                    ids.push((id, sample.prompt.clone()));
                    samples.push(sample);
                }
                Err((kind, prompt, reason)) => {
                    report.done += 1;
                    report.failed += usize::from(kind == RejectedKind::Failed);
                    rejected.push(Rejected { shard, kind, prompt, reason });
                    progress(report);
                }
            }
        }
        if stop.load(Ordering::Relaxed) {
            return None;
        }
        let before = *report;
        let mut all: Vec<Option<Made>> = samples.iter().map(|_| None).collect();
        let settings = EngineSettings {
            block_size: self.job.config.block_size,
            stop: StopRules {
                max_new_tokens: self.job.config.max_new_tokens,
                eos_token_ids: self.tokenizer.eos_token_ids().to_vec(),
            },
            batch_size: self.job.config.batch_size,
        };
        make(&self.model, &settings, &mut samples.into_iter().enumerate(), &mut |now, event| {
            let Event::Made(at, made) = event;
            report.done += 1;
            report.tokens = before.tokens + now.tokens;
            report.forwards = before.forwards + now.forwards;
            all[at] = Some(made);
            progress(report);
            if stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        let mut rows = Vec::with_capacity(ids.len());
        for ((sample_id, prompt_tokens), made) in ids.into_iter().zip(all) {
            let Made { response_tokens, finish_reason, states } = made?;
            rows.push(Trajectory { sample_id, prompt_tokens, response_tokens, finish_reason, states });
        }
        Some((rows, rejected))
    }

    /// What is to be answered for a prompt, with the prompt's id.
    fn sample(&self, prompt: &Result<Prompt, BadRow>) -> Result<(String, Sample), Rejection> {
        let failed = |name: String, reason: String| (RejectedKind::Failed, name, reason);
        let prompt =
            prompt.as_ref().map_err(|bad| failed(format!("line {}", bad.line), bad.reason.clone()))?;
        let tokens = self
            .tokenizer
            .encode_chat(&prompt.messages)
            .map_err(|error| failed(prompt.id.clone(), error.to_string()))?;
        let longest = self.job.config.max_prompt_tokens.min(self.model.context_length() - 1);
        if tokens.is_empty() {
            return Err(failed(prompt.id.clone(), "the chat template gives no token".to_owned()));
        }
        if tokens.len() > longest {
            let reason = format!("{} prompt tokens, at most {longest} are taken", tokens.len());
            return Err((RejectedKind::Skipped, prompt.id.clone(), reason));
        }
        let digest = blake3::hash(prompt.id.as_bytes());
        let id = u64::from_le_bytes(digest.as_bytes()[..8].try_into().expect("eight bytes"));
        let seed = Rng::new(&[self.job.seed, id]).next_u64();
        Ok((prompt.id.clone(), Sample { prompt: tokens, seed }))
    }
}
