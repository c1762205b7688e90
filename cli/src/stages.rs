//! One function per stage, used by its own verb and by `run`: one library call with progress and a summary.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, ensure};
use jacobi_datasets::schema::eval_row::{EvalRow, EvalSample, RESULTS_SCHEMA, Results};
use jacobi_datasets::{BadRow, Manifest, Rank};
use jacobi_eval::{EvalJob, EvalModel, EvalOutcome, EvalProgress, evaluate, paired_tests};
use jacobi_model::Device;
use jacobi_report::{ROWS_LEFT_OUT, TrainingCurve, write_report};
use jacobi_trainer::{Evaluation, Init, Ranks, TrainData, TrainJob, TrainProgress};
use jacobi_trajectory_gen::{CUT_RESPONSES, ERRORS_FILE, GenerateJob, Rejected, RejectedKind};
use serde_json::{Map, Value};

use crate::adapter::ModelDirs;
use crate::exit::{Interrupted, UsageError};
use crate::kept_eval::{KeptEval, Replace};
use crate::progress::Progress;
use crate::recipe::{Recipe, Round};
use crate::run_dir::{DirLock, command_line};
use crate::signals::Stop;
use crate::{device, output, plan};

/// Options of `generate` that are not in the recipe.
#[derive(Clone, Copy, Debug, Default)]
pub struct GenerateOptions {
    /// This process's share of the prompts; `None` takes all.
    pub rank: Option<Rank>,
    /// Remove results of other settings from the output.
    pub overwrite: bool,
    /// Show neither progress nor a summary.
    pub quiet: bool,
}

/// The generation job of round `round` (from 1) with `models`.
///
/// # Errors
/// [`UsageError`] when there are no prompts, or they name responses; a device that is not there.
pub fn generate_job<'a>(
    recipe: &'a Recipe,
    round: usize,
    models: &'a ModelDirs,
    output: &'a Path,
    options: GenerateOptions,
) -> anyhow::Result<GenerateJob<'a>> {
    let prompts = recipe.prompts(round)?;
    let Round { generate, train, .. } = &recipe.rounds[round - 1];
    if prompts.response_column.is_some() || prompts.response_template.is_some() {
        let message = format!(
            "the prompts of round {round} name given responses (response_column, response_template), and generating makes the \
             model's own: leave the setting out, or give the responses as the file generate.responses, or train on them \
             without generating, by `jacobi train`"
        );
        return Err(UsageError(message).into());
    }
    Ok(GenerateJob {
        model_dir: &models.model,
        adapter: models.adapter.as_deref(),
        dtype: recipe.model.dtype,
        device: device::of(&recipe.model)?,
        prompts,
        output,
        config: generate,
        train: train.pack(),
        seed: recipe.seed,
        rank: options.rank,
        overwrite: options.overwrite,
    })
}

/// Generates the trajectories of `job` while holding the lock of its directory.
///
/// # Errors
/// From reading prompts and generating; [`crate::exit::Interrupted`] after a signal.
pub fn generate(job: &GenerateJob, options: GenerateOptions, stop: &Stop) -> anyhow::Result<Manifest> {
    let _lock = DirLock::take(&job.directory())?;
    let mut progress = (!options.quiet).then(|| Progress::new("generate"));
    // The rate starts at the first report: loading the model and counting prompts come before it.
    let mut start = None;
    let outcome = jacobi_trajectory_gen::generate(job, stop.flag(), &mut |now| {
        let Some(progress) = &mut progress else { return };
        let seconds = start.get_or_insert_with(Instant::now).elapsed().as_secs_f64();
        let rate = now.tokens as f64 / seconds.max(f64::MIN_POSITIVE);
        let mut detail = format!("{rate:.0} tokens/s");
        if now.iterations > 0 {
            detail += &format!(", {:.2} iterations/token", now.iterations as f64 / now.tokens.max(1) as f64);
        }
        if now.failed > 0 {
            detail += &format!(", {} failed", now.failed);
        }
        progress.update(now.done, now.total, &detail);
    })?;
    if outcome.interrupted {
        stop.check()?;
    }
    let manifest = outcome.manifest;
    if let Some(progress) = progress {
        progress.finish(&generation_summary(&manifest, &job.directory()));
    }
    Ok(manifest)
}

/// The numbers of prompts written, skipped and failed, with the rules that skipped them and the first failure.
pub fn generation_summary(manifest: &Manifest, dir: &Path) -> String {
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
        if let Some(reason) = first_failure(dir).filter(|_| manifest.failed > 0) {
            summary += &format!("; the first failure: {reason}");
        }
    }
    if let Some(blocks) = manifest.counts.get("disagreeing_blocks") {
        summary += &format!(
            "; {blocks} blocks of the given responses differ from the model's output and are treated as \
             generate.on_disagreement says"
        );
    }
    if let Some(cut) = manifest.counts.get(CUT_RESPONSES) {
        summary += &format!("; {cut} responses were cut at generate.max_new_tokens");
        // The share decides over the rows of all ranks.
        if manifest.rank.is_none() {
            summary += match 2 * cut <= manifest.written {
                true => ": train.cut_responses = \"drop\" leaves them out",
                false => {
                    ": more than half, so train.cut_responses = \"drop\" keeps them, and training does not teach the model to stop"
                }
            };
        }
    }
    summary
}

/// The first line of errors.jsonl about a prompt that failed.
fn first_failure(dir: &Path) -> Option<String> {
    let text = fs_err::read_to_string(dir.join(ERRORS_FILE)).ok()?;
    let mut lines = text.lines().filter_map(|line| serde_json::from_str::<Rejected>(line).ok());
    let Rejected { prompt, reason, .. } = lines.find(|line| line.kind == RejectedKind::Failed)?;
    Some(format!("{prompt}: {reason}"))
}

/// The inputs of a round of training.
pub struct TrainStage<'a> {
    /// The round, from 1.
    pub round: usize,
    /// The model to start from, and the adapter to go on training if there is one.
    pub models: &'a ModelDirs,
    /// The training data.
    pub data: TrainData,
    /// The directory of the round.
    pub output: &'a Path,
    /// Remove results of other settings from it.
    pub overwrite: bool,
    /// The device.
    pub device: Device,
    /// The group of processes that train together.
    pub ranks: Ranks,
}

/// Trains and returns the best checkpoint, or the last one if no evaluation ran.
///
/// # Errors
/// From training; [`crate::exit::Interrupted`] after a signal.
pub fn train(recipe: &Recipe, stage: TrainStage, stop: &Stop) -> anyhow::Result<PathBuf> {
    let job = TrainJob {
        model_dir: &stage.models.model,
        adapter: stage.models.adapter.as_deref(),
        // Only the first round can start from random weights.
        init: if stage.round == 1 { recipe.model.init } else { Init::Weights },
        dtype: recipe.model.dtype,
        device: stage.device,
        data: stage.data,
        output: stage.output,
        config: &recipe.rounds[stage.round - 1].train,
        seed: recipe.seed,
        overwrite: stage.overwrite,
        ranks: stage.ranks.clone(),
    };
    let mut progress = stage.ranks.is_first().then(|| Progress::new("train"));
    let (mut last_loss, mut evaluated) = (None, None);
    let outcome = jacobi_trainer::train(job, stop.flag(), &mut |now| {
        let Some(progress) = &mut progress else { return };
        last_loss = Some(now.loss);
        if let Some(evaluation) = now.evaluation
            && evaluated != Some(evaluation.step)
        {
            evaluated = Some(evaluation.step);
            progress.say(&describe_evaluation(&evaluation));
        }
        progress.update(now.step, now.total_steps, &describe_step(now));
    })?;
    if !outcome.finished {
        stop.check()?;
        // A signal reached another rank.
        return Err(Interrupted(signal_hook::consts::SIGTERM).into());
    }
    let mut summary = format!("finished at {}", outcome.checkpoint.display());
    if let Some(loss) = last_loss {
        summary += &format!(", loss {loss:.3}");
    }
    if outcome.skipped > 0 {
        summary += &format!(", {} samples longer than train.max_length left out", outcome.skipped);
    }
    if let Some(cut) = outcome.cut {
        summary += &format!("; {cut}");
    }
    if let Some(progress) = progress {
        progress.finish(&summary);
    }
    Ok(outcome.checkpoint)
}

fn describe_step(now: &TrainProgress) -> String {
    let mut text = format!("loss {:.3} (ar {:.3}, pc {:.3})", now.loss, now.loss_ar, now.loss_pc);
    if let Some(evaluation) = &now.evaluation {
        text += &format!("  TPF {:.2}", evaluation.tpf);
    }
    text + &format!("  {:.0} tokens/s  MFU {:.0} %", now.tokens_per_second, 100.0 * now.mfu)
}

fn describe_evaluation(evaluation: &Evaluation) -> String {
    let Evaluation { step, tpf, exact_match_ar, loss_ar, .. } = evaluation;
    let text = format!(
        "step {step}: TPF {tpf:.2}, exact match with AR {:.0} %, AR loss {loss_ar:.3}",
        100.0 * exact_match_ar
    );
    match evaluation.degenerate {
        true => text + ", degenerate: responses repeat themselves",
        false => text,
    }
}

/// Options of `eval` that are not in the recipe.
#[derive(Clone, Copy, Debug)]
pub struct EvalOptions<'a> {
    /// The models, the base model first.
    pub models: &'a [EvalModel],
    /// Their training curves.
    pub training: &'a [TrainingCurve],
    /// The report directory.
    pub report: &'a Path,
    /// Which results of an earlier evaluation to remove.
    pub replace: Replace,
}

/// Measures models and writes the report. Results with the same settings are kept: a killed evaluation
/// resumes, and a finished one only rewrites its report.
///
/// # Errors
/// From evaluating and writing; [`crate::exit::UsageError`] when the results there have other settings and `replace`
/// keeps them; [`crate::exit::Interrupted`] after a signal.
pub fn eval(recipe: &Recipe, options: EvalOptions, stop: &Stop) -> anyhow::Result<Vec<EvalRow>> {
    let EvalOptions { models, training, report, replace } = options;
    let mut kept = KeptEval::open(report, plan::eval_settings(recipe, models)?, replace)?;
    if let Some((results, samples)) = kept.finished()? {
        write_report(report, &results, &samples, training)?;
        output::status(&format!(
            "eval: measured before, the report in {} is rewritten; --overwrite measures again",
            report.display()
        ));
        for decoder in recipe.eval.unmeasured(models, &results.rows)? {
            output::status(&format!("eval: {decoder} was not measured"));
        }
        return Ok(results.rows);
    }
    kept.start()?;
    let job = EvalJob {
        models,
        dtype: recipe.model.dtype,
        device: device::of(&recipe.model)?,
        config: &recipe.eval,
        seed: recipe.seed,
        samples: &kept.samples(),
    };
    let mut progress = Progress::new("eval");
    let outcome = evaluate(&job, stop.flag(), &mut |now| {
        progress.update(now.done, now.total, &describe_eval(now));
    })?;
    if outcome.interrupted {
        stop.check()?;
    }
    for line in outcome.left_out.iter().map(ToString::to_string).chain(outcome.warnings.iter().cloned()) {
        output::status(&format!("eval: {line}"));
    }
    report_failed_samples(&outcome.samples);
    if let Some(isolation) = outcome.isolation {
        progress.say(&format!("generated programs were isolated by {isolation}"));
    }
    let environment = environment_of(&outcome);
    let paired_tests = paired_tests(&outcome.samples);
    let settings = kept.settings().clone();
    let tuned_models = outcome.tuned_models;
    let results = Results {
        paired_tests,
        tuned_models,
        settings,
        ..Results::new(command_line(), environment, outcome.rows)
    };
    write_report(report, &results, &outcome.samples, training)?;
    kept.finish()?;
    progress.finish(&format!("report in {}", report.display()));
    Ok(results.rows)
}

/// The machine and the facts about an evaluation that no row holds.
fn environment_of(outcome: &EvalOutcome) -> Map<String, Value> {
    let environment = crate::environment::describe();
    let mut environment = environment.as_object().cloned().unwrap_or_default();
    if let Some(isolation) = outcome.isolation {
        environment.insert("generated_programs_isolated_by".to_owned(), isolation.to_string().into());
    }
    let left_out: Vec<String> = outcome.left_out.iter().map(ToString::to_string).collect();
    if !left_out.is_empty() {
        environment.insert(ROWS_LEFT_OUT.to_owned(), left_out.join(". ").into());
    }
    environment
}

fn describe_eval(now: &EvalProgress) -> String {
    let mut text = format!("{} {}", now.model, now.decoder);
    if let Some(accuracy) = now.so_far.accuracy() {
        text += &format!("  {:.1} % right", 100.0 * accuracy);
    }
    if let Some(tps) = now.so_far.tps() {
        text += &format!("  {tps:.1} tokens/s");
    }
    if let Some(speedup) = now.so_far.speedup() {
        text += &format!(" ({speedup:.2}x)");
    }
    if now.so_far.failed > 0 {
        text += &format!("  {} failed", now.so_far.failed);
    }
    text
}

/// Reports samples without a response.
fn report_failed_samples(samples: &[EvalSample]) {
    let failed: Vec<&EvalSample> = samples.iter().filter(|sample| sample.error.is_some()).collect();
    if let Some(first) = failed.first() {
        let reason = first.error.as_deref().unwrap_or_default();
        output::status(&format!(
            "eval: {} samples failed, counted as wrong; the first, {} under {}: {reason}",
            failed.len(),
            first.sample_id,
            first.decoder_label()
        ));
    }
}

/// Reads the rows of a report directory.
///
/// # Errors
/// When there is no report or its schema is another one.
pub fn read_results(report: &Path) -> anyhow::Result<Results> {
    let path = report.join("results.json");
    let text = fs_err::read_to_string(&path)?;
    let unusable = || format!("{} is not usable: measure again with --overwrite", path.display());
    results_of(&text).with_context(unusable)
}

fn results_of(text: &str) -> anyhow::Result<Results> {
    let value: Value = serde_json::from_str(text)?;
    let schema = &value["schema"];
    ensure!(schema == RESULTS_SCHEMA, "its schema is {schema}, not \"{RESULTS_SCHEMA}\"");
    Ok(serde_json::from_value(value)?)
}

/// Reports rows of a prompt file that could not be used.
pub fn report_bad_rows(verb: &str, bad_rows: &[BadRow]) {
    if let Some(bad) = bad_rows.first() {
        let count = bad_rows.len();
        output::status(&format!("{verb}: {count} malformed prompts left out; the first, {bad}"));
    }
}

#[cfg(test)]
mod tests {
    use jacobi_datasets::Place;
    use jacobi_eval::LeftOut;

    use super::*;

    #[test]
    fn results_of_another_schema_are_refused() {
        let results = Results::new("jacobi eval".to_owned(), Map::new(), Vec::new());
        let text = serde_json::to_string(&results).unwrap();
        assert_eq!(results_of(&text).unwrap(), results);
        let rows = [
            (text.replace("eval/1", "eval/2"), "its schema is \"jacobi-eval/2\", not \"jacobi-eval/1\""),
            (text.replace("schema", "scheme"), "its schema is null"),
            ("[]".to_owned(), "its schema is null"),
            (text.replace("rows", "lines"), "missing field `rows`"),
            (String::new(), "EOF"),
        ];
        for (text, part) in rows {
            let message = results_of(&text).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
        let dir = tempfile::tempdir().unwrap();
        fs_err::write(dir.path().join("results.json"), "{}").unwrap();
        let message = read_results(dir.path()).unwrap_err().to_string();
        assert!(message.contains("results.json is not usable"), "{message}");
    }

    #[test]
    fn rows_that_could_not_be_read_are_in_the_environment() {
        let bad_rows =
            vec![BadRow { file: None, at: Place::Line(7), reason: "it has no column q".to_owned() }];
        let left_out = LeftOut { task: "sums".to_owned(), rows: 9, bad_rows };
        let environment = environment_of(&EvalOutcome { left_out: vec![left_out], ..EvalOutcome::default() });
        let expected =
            "1 of 9 rows of task \"sums\" could not be read; the first, line 7: it has no column q";
        assert_eq!(environment[ROWS_LEFT_OUT], expected);
        assert!(!environment_of(&EvalOutcome::default()).contains_key(ROWS_LEFT_OUT));
    }
}
