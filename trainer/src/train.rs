//! The training loop: step, evaluate, log, save. A run can be stopped at any moment and resumed.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use jacobi_datasets::{PackedSample, Section, Tokenizer};
use jacobi_decoder::StopRules;
use jacobi_model::{Adapter, AdapterBase, DecodingModel, dtype_name};
use jacobi_torch_ext::release_unused_memory;

use crate::{
    AdapterRows, TrainConfig, TrainError,
    checkpoint::{Checkpoints, Saved, TrainerState, result_checkpoint},
    config::TeacherModel,
    data::Dataset,
    disk::{Disk, RealDisk},
    evaluation::{Evaluations, HeldOut},
    flops::Peak,
    job::{TrainJob, TrainOutcome},
    metrics::{self, Metrics, RankFigures, TrainProgress, peak_memory},
    post_mortem,
    ranks::Ranks,
    step::{NoStep, StepReport, StepSettings, Stepper},
};

/// A file of this name in the output directory asks for a checkpoint after the current step; it is then removed.
const SAVE_NOW: &str = "save-now";

/// Block size for evaluation where the data have no blocks.
const DEFAULT_BLOCK_SIZE: usize = 16;

/// Trains, resuming from the newest checkpoint in `job.output`. A finished run returns at once.
///
/// On CPU a resumed run gives the weights of an undisturbed one, bit for bit.
///
/// # Errors
/// See [`TrainError`]; checkpoints already written stay complete.
pub fn train(
    job: TrainJob,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(&TrainProgress),
) -> Result<TrainOutcome, TrainError> {
    train_on(&RealDisk, job, stop, progress)
}

/// [`train`], saving to `disk`.
fn train_on(
    disk: &dyn Disk,
    job: TrainJob,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(&TrainProgress),
) -> Result<TrainOutcome, TrainError> {
    job.config.validate()?;
    let ranks = job.ranks.clone();
    let outcome = run_to_end(disk, job, stop, progress);
    match &outcome {
        // This error came from another rank; do not report it back.
        Ok(_) | Err(TrainError::Ranks(_)) => {}
        Err(error) => ranks.give_up(&error.to_string()),
    }
    outcome
}

fn run_to_end(
    disk: &dyn Disk,
    job: TrainJob,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(&TrainProgress),
) -> Result<TrainOutcome, TrainError> {
    let mut run = Run::open(disk, job)?;
    if run.evaluate_if_due(stop)? {
        run.log(None)?;
    }
    while !run.state.is_finished() {
        let Some(report) = run.step(stop)? else { break };
        let evaluated = run.evaluate_if_due(stop)?;
        let report = TrainProgress { evaluation: run.state.evaluations.last, ..report };
        if evaluated || run.is_logged(report.step) {
            run.log(Some(&report))?;
        }
        progress(&report);
        if run.is_save_due(report.step)? {
            run.save()?;
        }
    }
    if !run.is_saved {
        run.save()?;
    }
    let checkpoint = result_checkpoint(run.output).expect("a checkpoint was just saved");
    let finished = run.state.is_finished() && !run.is_evaluation_due();
    Ok(TrainOutcome { checkpoint, finished, skipped: run.dataset.skipped, cut: run.dataset.cut })
}

struct Run<'a> {
    stepper: Stepper<'a>,
    model_dir: &'a Path,
    /// The model that training started from, as an adapter names it.
    base: AdapterBase,
    output: &'a Path,
    config: &'a TrainConfig,
    dataset: Dataset,
    /// Decoded between steps, where `eval_steps` is set.
    held_out: Option<HeldOut>,
    checkpoints: Checkpoints<'a>,
    /// Written by the first rank.
    metrics: Option<Metrics>,
    ranks: Ranks,
    state: TrainerState,
    /// Whether the newest checkpoint holds `state`.
    is_saved: bool,
    peak: Peak,
}

impl<'a> Run<'a> {
    fn open(disk: &'a dyn Disk, job: TrainJob<'a>) -> Result<Self, TrainError> {
        let (model, weights) = (job.initial_model()?, job.initial_hash()?);
        let (adapter, adapter_weights) = job.initial_adapter(&model, &weights)?;
        let base = match job.config.teacher {
            TeacherModel::Own => None,
            // The frozen model that the adapter belongs to.
            TeacherModel::Base if job.config.adapter.is_some() => None,
            TeacherModel::Base => Some(job.initial_model()?),
        };
        let mut dataset = Dataset::open(job.data, job.config, job.seed, model.architecture())?;
        let held_out = held_out(&mut dataset, job.model_dir, job.config, job.seed)?;
        let mut identity = job.config.deciding();
        identity.set("data", &dataset.fingerprint);
        identity.set("weights of the base model", &weights);
        if let Some(weights) = adapter_weights {
            identity.set("weights of the first adapter", weights);
        }
        identity.set("model.dtype", dtype_name(model.kind()));
        identity.set("seed", job.seed);
        let epoch = dataset.len().div_ceil(job.config.batch_size);
        let total_steps = job.config.max_steps.unwrap_or(job.config.epochs * epoch);
        let path = fs_err::canonicalize(job.model_dir)?;
        let base_of_adapter = AdapterBase { name: path.display().to_string(), weight_hash: weights };
        let ranks = job.ranks;
        let mut state = TrainerState {
            step: 0,
            total_steps,
            identity,
            evaluations: Evaluations::default(),
            optimizer_files: ranks.world_size(),
        };
        let peak = Peak::of(model.kind(), model.device());
        let longest = dataset.longest_text();
        let mut stepper = Stepper::with_ranks(ranks.clone(), (model, base), adapter, job.config, longest);
        let checkpoints = Checkpoints::open(job.output, job.config.save_total_limit, disk)?;
        let mut stored = None;
        // Rank 0 first cleans up after a killed run, or removes another run; then the other ranks look for checkpoints.
        if ranks.is_first() {
            stored = checkpoint_to_resume(&checkpoints, &state, job.overwrite, job.output)?;
            checkpoints.repair(stored.as_ref().map(|(_, stored)| stored))?;
        }
        ranks.barrier()?;
        if !ranks.is_first() {
            stored = checkpoint_to_resume(&checkpoints, &state, false, job.output)?;
        }
        let is_saved = stored.is_some();
        if let Some((dir, stored)) = stored {
            Checkpoints::restore(&dir, &stored, &mut stepper.optimizer)?;
            stepper.publish()?;
            state = TrainerState { optimizer_files: ranks.world_size(), ..stored };
        }
        let resumed = is_saved.then_some(&state);
        let metrics = ranks.is_first().then(|| Metrics::open(job.output, resumed)).transpose()?;
        Ok(Self {
            peak,
            stepper,
            metrics,
            ranks,
            model_dir: job.model_dir,
            base: base_of_adapter,
            output: job.output,
            config: job.config,
            dataset,
            held_out,
            checkpoints,
            state,
            is_saved,
        })
    }

    fn save(&mut self) -> Result<(), TrainError> {
        let Stepper { model, optimizer, shards, .. } = &self.stepper;
        let adapter = self.adapter();
        let saved =
            Saved { model, adapter, base: &self.base, tokenizer_dir: self.model_dir, optimizer, shards };
        self.checkpoints.save(&saved, &self.state)?;
        self.is_saved = true;
        let request = self.output.join(SAVE_NOW);
        if self.ranks.is_first() && request.exists() {
            fs_err::remove_file(request)?;
        }
        Ok(())
    }

    /// One optimizer step over `batch_size` samples; `None` if stopped within it: the resumed run repeats it.
    fn step(&mut self, stop: &AtomicBool) -> Result<Option<TrainProgress>, TrainError> {
        let (started, waited, config) = (Instant::now(), self.ranks.waited(), self.config);
        let samples = self.dataset.step(self.state.step, config.batch_size, config)?;
        let factor = config.lr_curve().factor(self.state.step, self.state.total_steps);
        let settings = StepSettings {
            learning_rate: config.learning_rate * factor,
            loss: config.loss_at(self.state.step, self.state.total_steps),
        };
        let report = match self.stepper.step(&samples, &settings, stop) {
            Ok(report) => report,
            Err(NoStep::Stopped) => return Ok(None),
            Err(NoStep::NotFinite(what)) => return Err(self.not_finite(what, &samples)),
            Err(NoStep::Ranks(failure)) => return Err(failure.into()),
        };
        self.state.step += 1;
        self.is_saved = false;
        let seconds = started.elapsed().as_secs_f64();
        let waited = (self.ranks.waited() - waited).as_secs_f64();
        let mut progress = self.progress(&report, settings.learning_rate, seconds);
        if self.ranks.world_size() > 1 && self.is_logged(self.state.step) {
            let own = [report.own_tokens as f64 / seconds, waited, peak_memory(self.stepper.model.device())];
            let figures = |[tokens_per_second, communication_seconds, memory]: [f64; 3]| RankFigures {
                tokens_per_second,
                communication_seconds,
                memory,
            };
            progress.ranks = self.ranks.gather_values(own)?.into_iter().map(figures).collect();
        }
        Ok(Some(progress))
    }

    fn progress(&mut self, report: &StepReport, learning_rate: f64, seconds: f64) -> TrainProgress {
        TrainProgress {
            ranks: Vec::new(),
            step: self.state.step,
            total_steps: self.state.total_steps,
            epoch: self.epoch(),
            loss: report.loss,
            loss_ar: report.loss_ar,
            loss_pc: report.loss_pc,
            grad_norm: report.grad_norm,
            learning_rate,
            tokens_per_second: report.tokens as f64 / seconds,
            mfu: self.peak.share(report.flops / seconds / self.ranks.world_size() as f64),
            evaluation: self.state.evaluations.last,
        }
    }

    fn epoch(&self) -> f64 {
        (self.state.step * self.config.batch_size) as f64 / self.dataset.len() as f64
    }

    fn not_finite(&self, what: &'static str, samples: &[PackedSample]) -> TrainError {
        let step = self.state.step + 1;
        match post_mortem::write(self.output, step, what, samples) {
            Ok(batch) => {
                let samples = samples.iter().map(|s| s.sample_id.clone()).collect();
                TrainError::NonFinite { step, what, samples, batch }
            }
            Err(error) => error,
        }
    }

    /// Whether an evaluation is due at this step and has not been done.
    fn is_evaluation_due(&self) -> bool {
        let step = self.state.step;
        let due = |every: usize| step.is_multiple_of(every) || self.state.is_finished();
        let is_done = self.held_out.is_none() || self.state.evaluations.last_step() == Some(step);
        !is_done && self.config.eval_steps.is_some_and(due)
    }

    /// Evaluates if that is due and no rank was asked to `stop`; returns whether it did.
    fn evaluate_if_due(&mut self, stop: &AtomicBool) -> Result<bool, TrainError> {
        if !self.is_evaluation_due() || self.ranks.any(stop.load(Ordering::Relaxed))? {
            return Ok(false);
        }
        let Some(held_out) = &self.held_out else { return Ok(false) };
        let Stepper { model, shards, .. } = &self.stepper;
        let decode = |drafter: Option<&Adapter>| {
            let model = DecodingModel::new(model).with_adapter(drafter);
            held_out.evaluate(&model, &self.ranks, self.state.step, stop)
        };
        let evaluate = || match self.adapter() {
            None => decode(None),
            Some((adapter, AdapterRows::Draft)) => decode(Some(adapter)),
            Some((adapter, AdapterRows::All)) => adapter.while_merged(model.parameters(), || decode(None)),
        };
        let evaluation = shards.with_all(evaluate)??;
        // The decoding model and its recorded passes are gone; training needs their memory.
        release_unused_memory(model.device());
        let Some(evaluation) = evaluation else { return Ok(false) };
        self.state.evaluations.add(evaluation, self.config.best_ar_tolerance);
        self.is_saved = false;
        Ok(true)
    }

    /// The adapter that is trained, and its rows.
    fn adapter(&self) -> Option<(&Adapter, AdapterRows)> {
        let rows = self.config.adapter.as_ref().map(|adapter| adapter.rows);
        self.stepper.adapter.as_ref().zip(rows)
    }

    fn is_logged(&self, step: usize) -> bool {
        step.is_multiple_of(self.config.logging_steps) || self.state.is_finished()
    }

    /// Logs this step: the metrics of `report`, if given, and the newest evaluation, if it belongs to this step.
    fn log(&mut self, report: Option<&TrainProgress>) -> Result<(), TrainError> {
        let (step, epoch) = (self.state.step, self.epoch());
        let Some(metrics) = &mut self.metrics else { return Ok(()) };
        let mut scalars = report.map_or_else(Vec::new, TrainProgress::scalars);
        if let Some(evaluation) = self.state.evaluations.last.filter(|evaluation| evaluation.step == step) {
            scalars.extend(evaluation.scalars().map(|(tag, value)| (tag.to_owned(), value)));
        }
        metrics.record(step, epoch, &scalars)
    }

    /// Whether to save after `step`: every `save_steps`, at each new best, on request, and after the first step, so
    /// that a save that cannot work fails early.
    fn is_save_due(&self, step: usize) -> Result<bool, TrainError> {
        let is_best = self.state.evaluations.best.is_some_and(|best| best.step == step);
        let is_due = step == 1 || step.is_multiple_of(self.config.save_steps) || is_best;
        // Only rank 0 looks for the file.
        Ok(is_due || self.ranks.any(self.ranks.is_first() && self.output.join(SAVE_NOW).exists())?)
    }
}

fn held_out(
    dataset: &mut Dataset,
    model_dir: &Path,
    config: &TrainConfig,
    seed: u64,
) -> Result<Option<HeldOut>, TrainError> {
    let rows = std::mem::take(&mut dataset.held_out);
    if rows.is_empty() {
        return Ok(None);
    }
    let eos_token_ids = Tokenizer::load(model_dir)?.eos_token_ids().to_vec();
    let adapter_block = config.adapter.as_ref().and_then(|adapter| adapter.block_size);
    Ok(Some(HeldOut {
        rows,
        block_size: adapter_block.or(dataset.block_size).unwrap_or(DEFAULT_BLOCK_SIZE),
        stop: StopRules { max_new_tokens: config.eval_max_new_tokens, eos_token_ids },
        seed,
    }))
}

/// The newest checkpoint, if any. One of another run is an error; with `overwrite` it is removed with its logs.
fn checkpoint_to_resume(
    checkpoints: &Checkpoints,
    state: &TrainerState,
    overwrite: bool,
    output: &Path,
) -> Result<Option<(PathBuf, TrainerState)>, TrainError> {
    let Some((dir, stored)) = checkpoints.newest()? else { return Ok(None) };
    match state.check_same_run(&stored, &dir) {
        Ok(()) => Ok(Some((dir, stored))),
        Err(_) if overwrite => {
            metrics::discard(output)?;
            checkpoints.discard()?;
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
