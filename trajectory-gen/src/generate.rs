//! Generates trajectory shards: streams prompts through the engine and writes the results as row groups.
//!
//! A row is identified by its content (sample id and prompt tokens) and the settings of its directory. A
//! resumed run makes the rows that are not on disk, so the set of rows depends neither on interruptions nor on
//! ranks nor on the batch. Rows are written in the order in which they finish; readers sort them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use jacobi_datasets::{
    Manifest, PackConfig, PromptsConfig, Rank, RankEntry, RecordedSettings, Responses, Section, ShardWriter,
    Tokenizer, TrajectoryMetadata,
};
use jacobi_model::{
    Adapter, Compute, DecodingModel, Device, Dtype, LanguageModel, LoadedModel, ModelError, StoredAdapter,
    Transformer, dtype_name, load,
};

use crate::accounting::Accounting;
use crate::engine::{EngineSettings, Event, Sample, make_trajectories};
use crate::ledger::{ERRORS_FILE, Ledger};
use crate::prompts::{Candidate, PromptJudge, PromptRules};
use crate::survey::{self, Done, Survey};
use crate::{GenerateConfig, GenerateError, StatesKept};

/// Number of prompts read ahead and sorted by length, so that prompts in a batch have similar lengths.
const SORTED_AHEAD: usize = 256;

/// One generation run.
#[derive(Clone)]
pub struct GenerateJob<'a> {
    /// Hugging Face directory.
    pub model_dir: &'a Path,
    /// A draft adapter for the model, a directory of PEFT. It changes no response; recorded states are those of its drafts.
    pub adapter: Option<&'a Path>,
    /// Compute dtype.
    pub dtype: Dtype,
    /// Where to compute.
    pub device: Device,
    /// Where the prompts are.
    pub prompts: &'a PromptsConfig,
    /// Receives shards, manifest.json, errors.jsonl; with ranks, a directory for each.
    pub output: &'a Path,
    /// How to generate.
    pub config: &'a GenerateConfig,
    /// How training will read the shards; selects the recorded states under `states = "scheduled"`.
    pub train: PackConfig,
    /// Seed of the fillers, and of the noise of sampled responses.
    pub seed: u64,
    /// The rank whose share of the prompts is processed; `None` processes all prompts.
    pub rank: Option<Rank>,
    /// Removes rows of other settings or other prompts from the output; those of this job stay.
    pub overwrite: bool,
}

impl GenerateJob<'_> {
    /// Where this rank's shards go.
    pub fn directory(&self) -> PathBuf {
        self.rank.map_or_else(|| self.output.to_path_buf(), |rank| rank.directory(self.output))
    }
}

/// Progress of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct GenerateProgress {
    /// Prompts accounted for, including earlier runs.
    pub done: usize,
    /// All prompts.
    pub total: usize,
    /// Prompts that could not be used.
    pub failed: usize,
    /// Prompts that a rule excluded.
    pub skipped: usize,
    /// Response tokens that this run has made.
    pub tokens: usize,
    /// Jacobi iterations of their blocks, up to the last recorded state of each.
    pub iterations: usize,
}

/// How a run ended.
#[derive(Debug)]
pub struct GenerateOutcome {
    /// Counts and shards.
    pub manifest: Manifest,
    /// Whether the run was stopped before the end; run it again to continue.
    pub interrupted: bool,
}

/// Generates the missing trajectories. Returns at once for a complete directory, and tries failed prompts again.
///
/// # Errors
/// See [`GenerateError`]; a bad prompt is not an error but a line of errors.jsonl.
pub fn generate(
    job: &GenerateJob,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(&GenerateProgress),
) -> Result<GenerateOutcome, GenerateError> {
    job.config.validate()?;
    let run = Run::open(job)?;
    let dir = job.directory();
    let mut found = run.existing_manifest(&dir)?;
    let compared = match run.compare(&dir, found.as_ref(), stop) {
        Err(GenerateError::ForeignRows { .. }) if job.overwrite => {
            found = None;
            discard(&dir)?;
            run.compare(&dir, None, stop)?
        }
        outcome => outcome?,
    };
    let Some((done, survey)) = compared else {
        let manifest = found.unwrap_or_else(|| Manifest::new(run.settings(), 0));
        return Ok(GenerateOutcome { manifest, interrupted: true });
    };
    if let Some(manifest) = found
        && manifest.complete
        && (manifest.input, manifest.written) == (survey.input, done.values().sum())
        && manifest.rank == run.rank_entry(&survey)
        && survey.pending == 0
    {
        return Ok(GenerateOutcome { manifest, interrupted: false });
    }
    let manifest = Manifest { rank: run.rank_entry(&survey), ..Manifest::new(run.settings(), survey.input) };
    let writer = ShardWriter::open(&dir, run.metadata(), manifest, job.config.shard_bytes)?;
    let accounting = Accounting::open(job.config, &run.tokenizer, writer, Ledger::open(&dir)?, done);
    run.answer(accounting, stop, progress)
}

/// A run with its model loaded.
pub(crate) struct Run<'a> {
    job: &'a GenerateJob<'a>,
    model: Transformer,
    weight_hash: String,
    /// With the hash of its weights.
    adapter: Option<(Adapter, String)>,
    pub(crate) tokenizer: Tokenizer,
    engine: EngineSettings,
    /// Given responses; the model then only makes their trajectories.
    responses: Option<Responses>,
}

impl<'a> Run<'a> {
    pub(crate) fn open(job: &'a GenerateJob<'a>) -> Result<Self, GenerateError> {
        let tokenizer = Tokenizer::load(job.model_dir)?.with_prompts(job.prompts)?;
        tokenizer.check_template()?;
        let responses = job.config.responses.as_deref().map(Responses::read).transpose()?;
        let loaded = load(job.model_dir, Compute { dtype: job.dtype, device: job.device })?;
        let adapter = job.adapter.map(|dir| read_adapter(&loaded, dir)).transpose()?;
        let (weight_hash, model) = (loaded.weight_hash()?, loaded.transformer);
        let decoding = DecodingModel::new(&model).with_adapter(adapter.as_ref().map(|(adapter, _)| adapter));
        let engine = job.config.engine((&decoding, job.device), tokenizer.eos_token_ids(), &job.train)?;
        drop(decoding);
        Ok(Self { job, model, weight_hash, adapter, tokenizer, engine, responses })
    }

    pub(crate) fn rules(&self) -> PromptRules<'_> {
        PromptRules {
            prompts: self.job.prompts,
            config: self.job.config,
            tokenizer: &self.tokenizer,
            context_length: self.model.context_length(),
            rank: self.job.rank,
            seed: self.job.seed,
            responses: self.responses.as_ref(),
        }
    }

    /// The manifest of `dir`, if it has rows of this job. Rows of another job are an error, or with `overwrite` are
    /// removed. A manifest without rows is ignored.
    fn existing_manifest(&self, dir: &Path) -> Result<Option<Manifest>, GenerateError> {
        let overwrite = self.job.overwrite;
        let manifest = match Manifest::load(dir) {
            Ok(Some(manifest)) => manifest,
            Ok(None) | Err(_) if overwrite => return discard(dir).map(|()| None),
            other => return Ok(other?),
        };
        let changes = self.settings().differences(&manifest.settings);
        match (changes.is_empty(), manifest.shards.is_empty()) {
            (true, empty) => Ok(Some(manifest).filter(|_| !empty)),
            // errors.jsonl is removed too: it lists prompts that these settings may accept.
            (false, empty) if empty || overwrite => discard(dir).map(|()| None),
            (false, _) => Err(GenerateError::Mismatch { dir: dir.to_path_buf(), changes }),
        }
    }

    /// Compares the rows on disk with the prompts. `None` after a request to `stop`: many prompts, or files that are
    /// downloaded first, take time.
    fn compare(
        &self,
        dir: &Path,
        found: Option<&Manifest>,
        stop: &AtomicBool,
    ) -> Result<Option<(Done, Survey)>, GenerateError> {
        let Some(manifest) = found else {
            let survey = survey::count(self.rules(), stop)?;
            return Ok(survey.map(|survey| (Done::new(), survey)));
        };
        let done = survey::rows_on_disk(dir, manifest)?;
        let survey = survey::survey(self.rules(), dir, &done, stop)?;
        Ok(survey.map(|survey| (done, survey)))
    }

    fn rank_entry(&self, survey: &Survey) -> Option<RankEntry> {
        let Rank { rank, world_size } = self.job.rank?;
        Some(RankEntry { rank, world_size, total_input: survey.total_input })
    }

    pub(crate) fn metadata(&self) -> TrajectoryMetadata {
        let config = self.job.config;
        let engine = config.decoding_metadata(&self.job.train);
        let mut decoding = BTreeMap::from([
            ("max_new_tokens".to_owned(), config.max_new_tokens.to_string()),
            ("max_prompt_tokens".to_owned(), config.max_prompt_tokens.to_string()),
            ("dtype".to_owned(), dtype_name(self.model.kind()).to_owned()),
        ]);
        decoding.extend(engine.into_iter().map(|(key, value)| (key.to_owned(), value)));
        let responses = self.responses.as_ref().map(|given| given.digest().to_owned());
        decoding.extend(responses.map(|digest| ("responses".to_owned(), digest)));
        decoding.extend(self.adapter_hash().map(|hash| ("adapter".to_owned(), hash.to_owned())));
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

    /// Everything besides the prompts that decides the rows.
    fn settings(&self) -> RecordedSettings {
        let short = |hash: &str| hash[..16.min(hash.len())].to_owned();
        let mut settings = self.job.config.deciding();
        settings.extend(self.job.prompts.deciding_template());
        settings.set("seed", self.job.seed);
        settings.set("model.weights", short(&self.weight_hash));
        settings.set("model.tokenizer", short(self.tokenizer.hash()));
        if let Some(hash) = self.adapter_hash() {
            settings.set("model.adapter", short(hash));
        }
        settings.set("model.dtype", dtype_name(self.model.kind()));
        let is_scheduled = self.job.config.states == StatesKept::Scheduled;
        settings.set("train.schedule", is_scheduled.then(|| self.job.train.schedule_text()));
        settings.set("generate.responses", self.responses.as_ref().map(Responses::digest));
        settings
    }

    pub(crate) fn engine_settings(&self) -> &EngineSettings {
        &self.engine
    }

    pub(crate) fn model(&self) -> DecodingModel<&Transformer> {
        DecodingModel::new(&self.model).with_adapter(self.adapter.as_ref().map(|(adapter, _)| adapter))
    }

    fn adapter_hash(&self) -> Option<&str> {
        self.adapter.as_ref().map(|(_, hash)| hash.as_str())
    }

    /// Generates the missing rows and completes the manifest.
    fn answer(
        &self,
        accounting: Accounting,
        stop: &AtomicBool,
        progress: &mut dyn FnMut(&GenerateProgress),
    ) -> Result<GenerateOutcome, GenerateError> {
        let prompts = PromptJudge::open(self.rules())?;
        let accounting = RefCell::new(accounting);
        progress(&accounting.borrow().progress);
        let mut samples = Samples { prompts, accounting: &accounting, stop, sorted: Vec::new(), number: 0 };
        make_trajectories(&self.model(), &self.engine, &mut samples, &mut |now, event| {
            let mut accounting = accounting.borrow_mut();
            (accounting.progress.tokens, accounting.progress.iterations) = (now.tokens, now.iterations);
            let counted = match event {
                Event::Forward => Ok(()),
                Event::Completed(number, completion) => accounting.answer(number, completion),
                Event::Refused(number, blocks) => accounting.refuse(number, blocks),
            };
            progress(&accounting.progress);
            let failed = counted.map_err(|error| accounting.error = Some(error)).is_err();
            if failed || stop.load(Ordering::Relaxed) {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        let mut accounting = accounting.into_inner();
        // Finished rows are written even after an error.
        let failed = accounting.error.take();
        let flushed = accounting.flush();
        if let Some(error) = failed {
            return Err(error);
        }
        flushed?;
        let interrupted = stop.load(Ordering::Relaxed);
        if interrupted {
            accounting.writer.save_tally(&accounting.tally)?;
        } else {
            accounting.writer.finish(&accounting.tally)?;
        }
        let manifest = accounting.writer.manifest().clone();
        if manifest.complete && manifest.written == 0 && manifest.input > 0 && self.job.rank.is_none() {
            let errors = accounting.ledger.path().to_path_buf();
            return Err(GenerateError::NothingWritten { input: manifest.input, errors });
        }
        Ok(GenerateOutcome { manifest, interrupted })
    }
}

fn read_adapter(base: &LoadedModel, dir: &Path) -> Result<(Adapter, String), ModelError> {
    let stored = StoredAdapter::read(dir)?;
    let hash = stored.weight_hash().to_owned();
    let device = base.transformer.device();
    Ok((stored.attach(base.transformer.architecture(), &base.weight_hash()?, device)?, hash))
}

/// Removes what a generation wrote into `dir`.
pub(crate) fn discard(dir: &Path) -> Result<(), GenerateError> {
    ShardWriter::discard(dir)?;
    match fs_err::remove_file(dir.join(ERRORS_FILE)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// The engine's samples: the prompts that need an answer, some read ahead and sorted by length.
struct Samples<'a, 'b> {
    prompts: PromptJudge<'a>,
    accounting: &'a RefCell<Accounting<'b>>,
    stop: &'a AtomicBool,
    /// Longest first, so that the shortest is taken from the end.
    sorted: Vec<Candidate>,
    number: usize,
}

impl Samples<'_, '_> {
    fn read_ahead(&mut self) {
        while self.sorted.len() < SORTED_AHEAD {
            let Some(judged) = self.prompts.next() else { break };
            let mut accounting = self.accounting.borrow_mut();
            match judged.and_then(|judged| accounting.admit(judged)) {
                Ok(candidate) => self.sorted.extend(candidate),
                Err(error) => {
                    accounting.error = Some(error);
                    break;
                }
            }
        }
        self.sorted.sort_by_key(|candidate| std::cmp::Reverse(candidate.sample.prompt.len()));
    }
}

impl Iterator for Samples<'_, '_> {
    type Item = (usize, Sample);

    fn next(&mut self) -> Option<Self::Item> {
        if self.stop.load(Ordering::Relaxed) || self.accounting.borrow().error.is_some() {
            return None;
        }
        if self.sorted.is_empty() {
            self.read_ahead();
        }
        let candidate = self.sorted.pop()?;
        self.number += 1;
        self.accounting.borrow_mut().start(self.number, &candidate);
        Some((self.number, candidate.sample))
    }
}
