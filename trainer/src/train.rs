//! The training loop: batch, forward, loss, backward, step, log, save.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use jacobi_model::{Dtype, Transformer, dtype_name, load};

use crate::{
    TrainConfig, TrainError,
    checkpoint::{Checkpoints, TrainerState, check_identity},
    config::TeacherModel,
    data::{Dataset, TrainData},
    flops::gemm_peak,
    lr::lr_factor,
    metrics::{Metrics, TrainProgress},
    step::{NotFinite, StepSettings, Stepper},
};

/// Where the first weights come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Init {
    /// The weights of the model directory.
    #[default]
    Weights,
    /// Random ones for its config.json.
    Random,
}

/// One training run.
pub struct TrainJob<'a> {
    /// Hugging Face directory: config.json, tokenizer, and weights unless `init` is random.
    pub model_dir: &'a Path,
    /// Where the first weights come from.
    pub init: Init,
    /// Compute dtype.
    pub dtype: Dtype,
    /// What to learn.
    pub data: TrainData,
    /// Receives `checkpoints/`, `metrics.jsonl`, `tensorboard/`.
    pub output: &'a Path,
    /// How.
    pub config: &'a TrainConfig,
    /// Of data order, random schedules and random weights.
    pub seed: u64,
}

/// How a run ended.
#[derive(Debug)]
pub struct TrainOutcome {
    /// The newest checkpoint.
    pub checkpoint: PathBuf,
    /// False when it was stopped; run it again to continue.
    pub finished: bool,
    /// Rows left out for their length.
    pub skipped: usize,
}

/// Trains, resuming from the newest checkpoint in `job.output`. A finished run returns at once.
///
/// On CPU a resumed run gives the weights of an undisturbed one, bit for bit.
///
/// # Errors
/// See [`TrainError`]; checkpoints already written stay whole.
pub fn train(
    job: TrainJob,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(&TrainProgress),
) -> Result<TrainOutcome, TrainError> {
    job.config.validate()?;
    let mut run = Run::open(job)?;
    let mut saved = run.state.step;
    while run.state.step < run.state.total_steps && !stop.load(Ordering::Relaxed) {
        let report = run.step()?;
        if report.step.is_multiple_of(run.config.logging_steps) || run.state.is_finished() {
            run.metrics.record(&report)?;
        }
        progress(&report);
        if report.step.is_multiple_of(run.config.save_steps) {
            run.save()?;
            saved = report.step;
        }
    }
    if saved < run.state.step || run.state.step == 0 {
        run.save()?;
    }
    let (checkpoint, _) = run.checkpoints.newest()?.expect("a checkpoint was just saved");
    Ok(TrainOutcome { checkpoint, finished: run.state.is_finished(), skipped: run.dataset.skipped })
}

struct Run<'a> {
    stepper: Stepper<'a>,
    model_dir: &'a Path,
    config: &'a TrainConfig,
    dataset: Dataset,
    checkpoints: Checkpoints,
    metrics: Metrics,
    state: TrainerState,
    gemm_peak: f64,
}

impl<'a> Run<'a> {
    fn open(job: TrainJob<'a>) -> Result<Self, TrainError> {
        let (model, weights) = initial_model(&job)?;
        let base = match job.config.teacher {
            TeacherModel::Own => None,
            TeacherModel::Base => Some(initial_model(&job)?.0),
        };
        let dataset = Dataset::open(job.data, job.config, job.seed)?;
        let per_step = job.config.batch_size;
        let epochs = job.config.epochs * dataset.len().div_ceil(per_step);
        let settings = serde_json::to_string(job.config).expect("a config of numbers and names");
        let identity = BTreeMap::from([
            ("settings".to_owned(), settings),
            ("data".to_owned(), dataset.fingerprint.clone()),
            ("base weights".to_owned(), weights),
            ("dtype".to_owned(), dtype_name(model.kind()).to_owned()),
            ("seed".to_owned(), job.seed.to_string()),
        ]);
        let mut state =
            TrainerState { step: 0, total_steps: job.config.max_steps.unwrap_or(epochs), identity };
        let gemm_peak = gemm_peak(model.kind(), model.device());
        let mut stepper = Stepper::new(model, base, job.config, dataset.longest_text());
        let checkpoints = Checkpoints::open(job.output.join("checkpoints"), job.config.save_total_limit)?;
        if let Some((dir, stored)) = checkpoints.newest()? {
            check_identity(&dir, &stored, &state)?;
            state.step = stored.step;
            Checkpoints::restore(&dir, stored.step, &mut stepper.optimizer)?;
        }
        Ok(Self {
            gemm_peak,
            stepper,
            metrics: Metrics::open(job.output, state.step)?,
            model_dir: job.model_dir,
            config: job.config,
            dataset,
            checkpoints,
            state,
        })
    }

    fn save(&self) -> Result<(), TrainError> {
        let Stepper { model, optimizer, .. } = &self.stepper;
        self.checkpoints.save(model, self.model_dir, optimizer, &self.state)?;
        Ok(())
    }

    /// One optimizer step over `batch_size` samples.
    fn step(&mut self) -> Result<TrainProgress, TrainError> {
        let (started, config) = (Instant::now(), self.config);
        let per_step = config.batch_size;
        let samples = self.dataset.step(self.state.step, per_step, config)?;
        let factor =
            lr_factor(config.lr_schedule, config.warmup_ratio, self.state.step, self.state.total_steps);
        let settings = StepSettings {
            learning_rate: config.learning_rate * factor,
            loss: config.loss_at(self.state.step, self.state.total_steps),
        };
        let report = self.stepper.step(&samples, &settings).map_err(|NotFinite(what)| {
            let samples = samples.iter().map(|s| s.sample_id.clone()).collect();
            TrainError::NonFinite { step: self.state.step + 1, what, samples }
        })?;
        self.state.step += 1;
        let seconds = started.elapsed().as_secs_f64();
        Ok(TrainProgress {
            step: self.state.step,
            total_steps: self.state.total_steps,
            epoch: (self.state.step * per_step) as f64 / self.dataset.len() as f64,
            loss: report.loss,
            loss_ar: report.loss_ar,
            loss_pc: report.loss_pc,
            grad_norm: report.grad_norm,
            learning_rate: settings.learning_rate,
            tokens_per_second: report.tokens as f64 / seconds,
            mfu: report.flops / seconds / self.gemm_peak,
        })
    }
}

/// The model that training starts from, and what identifies its weights.
fn initial_model(job: &TrainJob) -> Result<(Transformer, String), TrainError> {
    Ok(match job.init {
        Init::Weights => {
            let loaded = load(job.model_dir, job.dtype)?;
            (loaded.transformer, loaded.weight_hash)
        }
        Init::Random => (Transformer::random(job.model_dir, job.dtype, job.seed)?, "random".to_owned()),
    })
}
