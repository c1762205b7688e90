//! One function per stage, used alike by its own verb and by `run`: one library call, its progress, its result.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;
use jacobi_datasets::schema::eval_row::{EvalRow, Results};
use jacobi_datasets::{BadRow, Manifest};
use jacobi_eval::{EvalJob, EvalModel, evaluate};
use jacobi_report::{TrainingCurve, write_report};
use jacobi_trainer::{Init, TrainData, TrainJob};
use jacobi_trajectory_gen::{ERRORS_FILE, GenerateJob, Rank};

use crate::exit::Unmeasured;
use crate::output;
use crate::progress::Progress;
use crate::recipe::Recipe;
use crate::run_dir::command_line;
use crate::signals::Stop;

/// What `generate` is asked for beyond the recipe.
#[derive(Clone, Copy, Debug, Default)]
pub struct GenerateOptions {
    /// Which part of the prompts.
    pub rank: Option<Rank>,
    /// Whether what another run left in the output is removed.
    pub overwrite: bool,
}

/// The job of making the trajectories of round `round` (from 1) with the model in `model_dir`.
pub fn generate_job<'a>(
    recipe: &'a Recipe,
    round: usize,
    model_dir: &'a Path,
    output: &'a Path,
    options: GenerateOptions,
) -> GenerateJob<'a> {
    GenerateJob {
        model_dir,
        dtype: recipe.model.dtype,
        prompts: &recipe.prompts,
        output,
        config: &recipe.rounds[round - 1].generate,
        train: recipe.rounds[round - 1].train.pack(),
        seed: recipe.seed,
        rank: options.rank,
        overwrite: options.overwrite,
    }
}

/// Makes the trajectories of `job`.
///
/// # Errors
/// Those of reading prompts and of generating; [`crate::exit::Interrupted`] when a signal asked to stop.
pub fn generate(job: &GenerateJob, stop: &Stop) -> anyhow::Result<Manifest> {
    let mut progress = Progress::new("generate");
    let start = Instant::now();
    let outcome = jacobi_trajectory_gen::generate(job, stop.flag(), &mut |now| {
        let per_token = now.forwards as f64 / now.tokens.max(1) as f64;
        let rate = now.tokens as f64 / start.elapsed().as_secs_f64();
        let mut detail = format!("{rate:.0} tokens/s, {per_token:.2} iterations/token");
        if now.failed > 0 {
            detail += &format!(", {} failed", now.failed);
        }
        progress.update(now.done, now.total, &detail);
    })?;
    if outcome.interrupted {
        stop.check()?;
    }
    let manifest = outcome.manifest;
    progress.finish(&outcome_of(&manifest, &job.directory()));
    Ok(manifest)
}

/// How many prompts became what, and by which rules.
fn outcome_of(manifest: &Manifest, dir: &Path) -> String {
    let mut summary = format!("{} trajectories of {} prompts", manifest.written, manifest.input);
    if manifest.written < manifest.input {
        let rules: Vec<String> =
            manifest.skipped_by.iter().map(|(rule, count)| format!("{count} {rule}")).collect();
        let rules = if rules.is_empty() { String::new() } else { format!(" ({})", rules.join(", ")) };
        let errors = dir.join(ERRORS_FILE);
        summary += &format!(
            ", {} skipped{rules}, {} failed; see {}",
            manifest.skipped,
            manifest.failed,
            errors.display()
        );
    }
    summary
}

/// Trains round `round` (from 1) from the model in `model_dir` and returns the last checkpoint.
///
/// # Errors
/// Those of training; [`crate::exit::Interrupted`] when a signal asked to stop.
pub fn train(
    recipe: &Recipe,
    round: usize,
    model_dir: &Path,
    data: TrainData,
    output: &Path,
    stop: &Stop,
) -> anyhow::Result<PathBuf> {
    let job = TrainJob {
        model_dir,
        // Later rounds train on: only the first can start from nothing.
        init: if round == 1 { recipe.model.init } else { Init::Weights },
        dtype: recipe.model.dtype,
        data,
        output,
        config: &recipe.rounds[round - 1].train,
        seed: recipe.seed,
    };
    let mut progress = Progress::new("train");
    let mut last_loss = None;
    let outcome = jacobi_trainer::train(job, stop.flag(), &mut |now| {
        last_loss = Some(now.loss);
        let detail = format!(
            "loss {:.3} (ar {:.3}, pc {:.3})  {:.0} tokens/s",
            now.loss, now.loss_ar, now.loss_pc, now.tokens_per_second
        );
        progress.update(now.step, now.total_steps, &detail);
    })?;
    if !outcome.finished {
        stop.check()?;
    }
    let mut summary = format!("finished at {}", outcome.checkpoint.display());
    if let Some(loss) = last_loss {
        summary += &format!(", loss {loss:.3}");
    }
    if outcome.skipped > 0 {
        summary += &format!(", {} samples longer than train.max_length left out", outcome.skipped);
    }
    progress.finish(&summary);
    Ok(outcome.checkpoint)
}

/// Measures `models` and writes the report into `report`.
///
/// # Errors
/// Those of evaluating and of writing; [`crate::exit::Interrupted`] when a signal asked to stop.
pub fn eval(
    recipe: &Recipe,
    models: &[EvalModel],
    training: &[TrainingCurve],
    report: &Path,
    stop: &Stop,
) -> anyhow::Result<Vec<EvalRow>> {
    let job = EvalJob { models, dtype: recipe.model.dtype, config: &recipe.eval, seed: recipe.seed };
    let mut progress = Progress::new("eval");
    let outcome = evaluate(&job, stop.flag(), &mut |now| {
        progress.update(now.done, now.total, &format!("{} {}", now.model, now.decoder));
    })?;
    if outcome.interrupted {
        stop.check().map_err(Unmeasured::from)?;
    }
    say_left_out("eval", &outcome.bad_rows);
    let environment = crate::environment::describe();
    let environment = environment.as_object().cloned().unwrap_or_default();
    let results = Results::new(command_line(), environment, outcome.rows);
    write_report(report, &results, &outcome.samples, training)?;
    progress.finish(&format!("report in {}", report.display()));
    Ok(results.rows)
}

/// The measured rows of a report directory.
///
/// # Errors
/// When there is no report, or another schema.
pub fn read_results(report: &Path) -> anyhow::Result<Results> {
    let path = report.join("results.json");
    let text = fs_err::read_to_string(&path)?;
    serde_json::from_str(&text).with_context(|| format!("{} is not a jacobi-eval/1 file", path.display()))
}

/// Says which rows of a prompt file could not be used.
pub fn say_left_out(verb: &str, bad_rows: &[BadRow]) {
    if let Some(bad) = bad_rows.first() {
        let (count, line, reason) = (bad_rows.len(), bad.line, &bad.reason);
        output::status(&format!(
            "{verb}: {count} malformed prompts left out; the first, line {line}: {reason}"
        ));
    }
}
