//! Tuning, for the stage of `run` and the verb `tune`: what to tune on which prompts, and the files that come of it.

use std::path::{Path, PathBuf};

use anyhow::Context;
use jacobi_datasets::PromptsConfig;
use jacobi_datasets::schema::tuned::{TRIALS_SCHEMA, TUNED_FILE, Trials};
use jacobi_eval::{EvalError, EvalModel, TuneConfig, TuneJob, TuneProgress, tuned_file};
use jacobi_model::{DeviceChoice, Dtype, digest_of_model};
use jacobi_report::{card_with_decoder, write_tune_report};

use crate::adapter::ModelDirs;
use crate::pipeline::exported_model;
use crate::plan::Counted;
use crate::progress::Progress;
use crate::recipe::Recipe;
use crate::run_dir::{RunDir, command_line, write_text};
use crate::signals::Stop;
use crate::stages::report_bad_rows;
use crate::{device, environment, output};

/// A search for the fastest decoder of a model.
#[derive(Clone, Debug)]
pub struct Tuning {
    /// The model, and a draft adapter for it if there is one.
    pub dirs: ModelDirs,
    /// The prompts, at most as many as the settings say.
    pub prompts: PromptsConfig,
    /// Longest response.
    pub max_new_tokens: usize,
    /// The settings.
    pub config: TuneConfig,
    /// Compute dtype.
    pub dtype: Dtype,
    /// Where to compute.
    pub device: DeviceChoice,
    /// Record passes as CUDA graphs.
    pub graphs: bool,
    /// Seed of the combinations.
    pub seed: u64,
    /// Directory of `jacobi.json`.
    pub output: PathBuf,
    /// Directory of the list of trials and its charts.
    pub report: PathBuf,
}

impl Tuning {
    /// The search in the run of `recipe`, of its exported model.
    ///
    /// # Errors
    /// An exported adapter whose base is not there; [`EvalError`] for tasks that cannot be used.
    pub fn of_run(recipe: &Recipe) -> anyhow::Result<Self> {
        let run = RunDir::new(&recipe.output_dir);
        let EvalModel { dir, adapter, .. } = exported_model(recipe, &run)?;
        Self::new(recipe, ModelDirs { model: dir, adapter }, run.tune())
    }

    /// As [`Tuning::of_run`], for the plan of a run, whose models may not exist yet.
    ///
    /// # Errors
    /// [`EvalError`] for tasks that cannot be used.
    pub fn planned(recipe: &Recipe) -> anyhow::Result<Self> {
        let run = RunDir::new(&recipe.output_dir);
        Self::new(recipe, ModelDirs { model: run.export(), adapter: None }, run.tune())
    }

    /// The search with the settings of `recipe`, of the model in `dirs`.
    ///
    /// # Errors
    /// [`EvalError`] for tasks that cannot be used.
    pub fn new(recipe: &Recipe, dirs: ModelDirs, report: PathBuf) -> anyhow::Result<Self> {
        Ok(Self {
            prompts: first(prompts(recipe)?, recipe.tune.prompts),
            max_new_tokens: recipe.eval.max_new_tokens,
            config: recipe.tune.clone(),
            dtype: recipe.model.dtype,
            device: recipe.model.device,
            graphs: recipe.model.graphs,
            seed: recipe.seed,
            output: dirs.tuned().to_owned(),
            report,
            dirs,
        })
    }

    /// How much there is to do, in words.
    pub fn summary(&self, prompts: Counted) -> String {
        format!(
            "{prompts}, at most {} new tokens each, {} candidates besides the defaults, at most about {} s",
            self.max_new_tokens, self.config.candidates, self.config.seconds
        )
    }

    /// Searches, and writes `jacobi.json`, the report, and the decoder's part of a model card if there is one.
    ///
    /// # Errors
    /// From [`jacobi_eval::tune`] and writing; [`crate::exit::Interrupted`] after a signal.
    pub fn perform(&self, stop: &Stop) -> anyhow::Result<Trials> {
        check_writable(&self.output)?;
        let job = TuneJob {
            model: &self.dirs.model,
            adapter: self.dirs.adapter.as_deref(),
            dtype: self.dtype,
            device: device::choose(self.device, self.graphs)?,
            prompts: &self.prompts,
            max_new_tokens: self.max_new_tokens,
            config: &self.config,
            seed: self.seed,
        };
        let mut progress = Progress::new("tune");
        let outcome = jacobi_eval::tune(&job, stop.flag(), &mut |now| match now {
            TuneProgress::Latency(latency) => {
                let one = latency.widths.first().map_or(0.0, |width| width.seconds * 1000.0);
                let four = latency.cost(4).unwrap_or(1.0);
                output::status(&format!(
                    "tune: a pass over one row takes {one:.2} ms, over 4 rows {four:.2} times that; knee at width {}",
                    latency.knee
                ));
            }
            TuneProgress::Decoded { done, total, round, rounds } => {
                progress.update(*done, *total, &format!("round {round} of {rounds}"));
            }
        })?;
        if outcome.interrupted {
            stop.check()?;
        }
        report_bad_rows("tune", &outcome.bad_rows);
        if let Some(first) = outcome.unusable.first() {
            let count = outcome.unusable.len();
            output::status(&format!(
                "tune: {count} prompts cannot be answered and are left out; the first, {first}"
            ));
        }
        let trials = Trials {
            schema: TRIALS_SCHEMA.to_owned(),
            objective: self.config.objective,
            dtype: outcome.dtype.to_owned(),
            trials: outcome.trials,
            race: outcome.race,
            latency: outcome.latency,
            model_files: digest_of_model(self.dirs.tuned())?,
            command: command_line(),
            environment: environment::describe().as_object().cloned().unwrap_or_default(),
        };
        write_tune_report(&self.report, &trials)?;
        let target = self.output.join(TUNED_FILE);
        if let Some(best) = trials.best() {
            write_text(&target, &(serde_json::to_string_pretty(&best)? + "\n"))?;
            let card = self.output.join("README.md");
            if let Ok(text) = fs_err::read_to_string(&card)
                && let Some(text) = card_with_decoder(&text, &best)
            {
                write_text(&card, &text)?;
            }
            let report = self.report.display();
            progress.finish(&format!("{} in {}, report in {report}", best.best.label(), target.display()));
        }
        Ok(trials)
    }
}

/// The prompts of the first task; without an evaluation, those that the last round trained on.
///
/// # Errors
/// [`EvalError`] for tasks that cannot be used.
pub fn prompts(recipe: &Recipe) -> anyhow::Result<PromptsConfig> {
    match recipe.eval.measured() {
        Ok(mut tasks) => Ok(tasks.swap_remove(0).prompts),
        Err(EvalError::NoTasks) => {
            Ok(recipe.rounds.last().map_or(&recipe.prompts, |round| &round.prompts).clone())
        }
        Err(error) => Err(error.into()),
    }
}

/// The first `count` of `prompts`.
pub fn first(prompts: PromptsConfig, count: usize) -> PromptsConfig {
    let limit = prompts.limit.map_or(count, |rows| rows.min(count));
    PromptsConfig { limit: Some(limit), ..prompts }
}

/// Whether the `jacobi.json` in the directory of a model is from tuning this very model.
pub fn is_tuned(model: &Path) -> bool {
    let digest = || digest_of_model(model).ok();
    tuned_file(model).ok().flatten().is_some_and(|tuned| {
        tuned.is_from_tuning() && digest().is_some_and(|files| files == tuned.model_files)
    })
}

/// Fails early: measuring takes minutes.
fn check_writable(dir: &Path) -> anyhow::Result<()> {
    let probe = fs_err::create_dir_all(dir).and_then(|()| tempfile::tempfile_in(dir));
    probe
        .map(drop)
        .with_context(|| format!("cannot write {TUNED_FILE} into {}: give another --output", dir.display()))
}
