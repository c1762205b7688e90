//! `jacobi run`: the stages of a recipe in order. A finished stage is skipped, an interrupted one resumes.
//!
//! A stage's result depends on its settings and on the stages before it. When the settings of a recorded stage have
//! changed, it and all later stages are void: the run refuses, or with `--overwrite` removes them and repeats them. The
//! result of tuning is measured, so a repeated stage can find another decoder: then the evaluation is repeated too.
//!
//! On several ranks the first one does all of this; the others take part in generation and training (`shared_work.rs`).

use std::path::{Path, PathBuf};

use anyhow::Context;
use jacobi_datasets::schema::eval_row::{ModelRole, Results};
use jacobi_datasets::schema::tuned::{TRIALS_FILE, TUNED_FILE};
use jacobi_datasets::{Differences, Manifest};
use jacobi_eval::EvalModel;
use jacobi_report::{TrainingCurve, terminal_summary, tune_table};
use jacobi_trainer::{Peers, TrainerState, latest_checkpoint, result_checkpoint};
use jacobi_trajectory_gen::{StatesKept, rank_directories};

use crate::adapter::ModelDirs;
use crate::exit::UsageError;
use crate::kept_eval::Replace;
use crate::ledger::{Ledger, Status};
use crate::plan::{Stage, Work, plan};
use crate::recipe::Recipe;
use crate::run_dir::{DirLock, RunDir, command_line};
use crate::shared_work::SharedWork;
use crate::signals::Stop;
use crate::tuning::{Tuning, is_tuned};
use crate::{device, export, output, stages};

/// Runs the recipe together with `peers` and returns the final summary; `None` on all ranks but the first.
///
/// # Errors
/// From each stage; [`UsageError`] when a recorded stage has other settings and `overwrite` is false;
/// [`crate::exit::Interrupted`] after a signal.
pub fn run(recipe: &Recipe, overwrite: bool, peers: &Peers, stop: &Stop) -> anyhow::Result<Option<String>> {
    let mut work = SharedWork::new(recipe, overwrite, peers, stop);
    if !peers.is_first() {
        return work.follow().map(|()| None);
    }
    let run = RunDir::new(&recipe.output_dir);
    let stages = plan(recipe)?;
    let _lock = DirLock::take(run.root())?;
    let mut ledger = open_ledger(&run, overwrite)?;
    if let Some((first, changes)) = first_changed(&stages, &ledger) {
        if !overwrite {
            return Err(changed_error(&run, &stages[first].name, &changes).into());
        }
        discard(&stages[first..], &stages[..first], &mut ledger)?;
    }
    run.record(&recipe.to_toml(), &command_line())?;
    for (index, stage) in stages.iter().enumerate() {
        let label = format!("stage {} of {}: {}", index + 1, stages.len(), stage.name);
        let unmeasured = if stage.work == Work::Eval { unmeasured(recipe, &run)? } else { None };
        if is_done(stage, &ledger) {
            let Some(decoder) = unmeasured else {
                output::status(&format!("{label}: finished before, skipped"));
                continue;
            };
            output::status(&format!("{label}: finished before {decoder} was tuned, so it is repeated"));
        }
        output::status(&format!("{label}: {}", stage.summary));
        ledger.start(&stage.name, &stage.settings)?;
        perform(recipe, &run, stage.work, (overwrite, stop), &mut work)
            .with_context(|| format!("in stage {}", stage.name))?;
        stop.check()?;
        ledger.finish(&stage.name)?;
    }
    let is_evaluated = stages.iter().any(|stage| stage.work == Work::Eval);
    let results = is_evaluated.then(|| stages::read_results(&run.report())).transpose()?;
    export::write_card(recipe, &run, &run.export(), results.as_ref())?;
    work.end()?;
    summary(&run, &stages, results.as_ref()).map(Some)
}

/// The figures of the evaluation, else those of tuning.
fn summary(run: &RunDir, stages: &[Stage], results: Option<&Results>) -> anyhow::Result<String> {
    if let Some(results) = results {
        return Ok(terminal_summary(results));
    }
    let unevaluated = "not evaluated: neither eval.prompts.path nor [[eval.tasks]] is set\n";
    if !stages.iter().any(|stage| stage.work == Work::Tune) {
        return Ok(unevaluated.to_owned());
    }
    let trials = serde_json::from_slice(&fs_err::read(run.tune().join(TRIALS_FILE))?)?;
    Ok(format!("{}\n{unevaluated}", tune_table(&trials)))
}

/// The tuned decoder, if a finished evaluation lacks it.
fn unmeasured(recipe: &Recipe, run: &RunDir) -> anyhow::Result<Option<String>> {
    if !is_tuned(&run.export()) {
        return Ok(None);
    }
    match stages::read_results(&run.report()) {
        Ok(results) => Ok(recipe.eval.unmeasured_tuned(&[exported_model(recipe, run)?], &results.rows)?),
        Err(_) => Ok(None),
    }
}

/// The exported model of a run; or its exported adapter, over the model that it drafts for.
///
/// # Errors
/// When the round before has no checkpoint.
pub fn exported_model(recipe: &Recipe, run: &RunDir) -> anyhow::Result<EvalModel> {
    let name = recipe.name.clone();
    if !recipe.exports_adapter() {
        return Ok(EvalModel { name, role: ModelRole::Trained, dir: run.export(), adapter: None });
    }
    let dir = models_of_round(recipe, run, recipe.rounds.len())?.model;
    Ok(EvalModel { name, role: ModelRole::Adapter, dir, adapter: Some(run.export()) })
}

/// The plan of a run in words.
#[derive(Debug)]
pub struct Description {
    /// The stages with their status, and the resolved recipe.
    pub text: String,
    /// Why [`run`] would refuse to start, if it would.
    pub refusal: Option<anyhow::Error>,
}

/// Describes the plan of `recipe` and the status of each stage. Writes nothing.
///
/// # Errors
/// As [`plan`]; a ledger that cannot be read, without `overwrite`.
pub fn describe(recipe: &Recipe, overwrite: bool) -> anyhow::Result<Description> {
    let run = RunDir::new(&recipe.output_dir);
    let stages = plan(recipe)?;
    let ledger = open_ledger(&run, overwrite)?;
    let mut text = format!("run {} in {}\n", recipe.name, run.root().display());
    let void = first_changed(&stages, &ledger);
    if let Some((first, changes)) = void.as_ref().filter(|_| overwrite) {
        text += &format!("to be repeated, from stage {} on:{changes}\n", stages[*first].name);
    }
    let changed = || void.as_ref().map(|(first, changes)| changed_error(&run, &stages[*first].name, changes));
    let is_finished = void.is_none() && stages.iter().all(|stage| is_done(stage, &ledger));
    let refusal = if let Err(error) = run.check_writable() {
        Some(error)
    } else if let Some(error) = changed().filter(|_| !overwrite) {
        Some(error.into())
    } else {
        device::of(&recipe.model).err().filter(|_| !is_finished)
    };
    for (index, stage) in stages.iter().enumerate() {
        let state = match ledger.status(&stage.name) {
            Status::Started | Status::Finished if void.as_ref().is_some_and(|(first, _)| *first <= index) => {
                "void"
            }
            _ if is_done(stage, &ledger) => "finished",
            Status::Started => "to resume",
            Status::New | Status::Finished => "to do",
        };
        text += &format!("{:3}. {:<18} {state:<9}  {}\n", index + 1, stage.name, stage.summary);
    }
    Ok(Description { text: text + "\n" + &recipe.to_toml(), refusal })
}

/// The record of earlier stages; with `overwrite`, a damaged one counts as empty.
fn open_ledger(run: &RunDir, overwrite: bool) -> anyhow::Result<Ledger> {
    match Ledger::open(run.ledger()) {
        Err(_) if overwrite => Ok(Ledger::empty(run.ledger())),
        outcome => outcome,
    }
}

fn is_done(stage: &Stage, ledger: &Ledger) -> bool {
    let is_complete = |output: &PathBuf| match stage.work {
        // The user may have deleted a damaged shard, so that its rows are generated again.
        Work::Generate(_) => matches!(
            Manifest::load(output),
            Ok(Some(manifest)) if manifest.shards.iter().all(|shard| output.join(&shard.file).exists())
        ),
        // The model may have been exported again.
        Work::Tune if output.ends_with(TUNED_FILE) => output.parent().is_some_and(is_tuned),
        Work::Train(_) | Work::Export | Work::Tune | Work::Eval => output.exists(),
    };
    ledger.status(&stage.name) == Status::Finished && stage.outputs.iter().all(is_complete)
}

/// The first stage whose results were made with other settings, and how the settings differ.
fn first_changed(stages: &[Stage], ledger: &Ledger) -> Option<(usize, Differences)> {
    let changes = |stage: &Stage| match has_results(stage) {
        true => ledger.changes(&stage.name, &stage.settings),
        false => Differences::default(),
    };
    stages.iter().map(changes).enumerate().find(|(_, changes)| !changes.is_empty())
}

/// Whether a stage has results to protect. Trajectories without rows do not count, so that a prompt file without usable
/// rows can be corrected and the run started again.
fn has_results(stage: &Stage) -> bool {
    let counts = |output: &PathBuf| match stage.work {
        Work::Generate(_) => has_rows(output),
        Work::Train(_) | Work::Export | Work::Tune | Work::Eval => output.exists(),
    };
    stage.outputs.iter().any(counts)
}

/// Whether there are rows in the trajectories in `dir`, or in the shares of ranks that have not been merged yet.
fn has_rows(dir: &Path) -> bool {
    let has_shards = |dir: &Path| {
        Manifest::load(dir)
            .map_or(true, |manifest| manifest.is_some_and(|manifest| !manifest.shards.is_empty()))
    };
    has_shards(dir) || rank_directories(dir).iter().any(|dir| has_shards(dir))
}

fn changed_error(run: &RunDir, stage: &str, changes: &Differences) -> UsageError {
    UsageError(format!(
        "{} was made with other settings, from stage {stage} on:{changes}\nset another output_dir, or give --overwrite \
         to remove the results of those stages and repeat them",
        run.root().display()
    ))
}

/// Removes the results of the stages `void`, then their records, so that a run killed in between still finds
/// them void. Trajectories of the first void stage stay: generation keeps the rows that match the new settings.
fn discard(void: &[Stage], kept: &[Stage], ledger: &mut Ledger) -> anyhow::Result<()> {
    let keeps_matching_rows =
        |(at, stage): &(usize, &Stage)| *at == 0 && matches!(stage.work, Work::Generate(_));
    let removed = void.iter().enumerate().filter(|stage| !keeps_matching_rows(stage));
    for path in removed.flat_map(|(_, stage)| &stage.outputs) {
        if path.is_dir() {
            // Rename first: a half-deleted directory must not look complete.
            let doomed = path.with_extension("discarded");
            if doomed.exists() {
                fs_err::remove_dir_all(&doomed)?;
            }
            fs_err::rename(path, &doomed)?;
            fs_err::remove_dir_all(doomed)?;
        } else if path.exists() {
            fs_err::remove_file(path)?;
        }
    }
    let names: Vec<&str> = kept.iter().map(|stage| stage.name.as_str()).collect();
    ledger.keep_only(&names)
}

fn perform(
    recipe: &Recipe,
    run: &RunDir,
    work: Work,
    (overwrite, stop): (bool, &Stop),
    shared: &mut SharedWork,
) -> anyhow::Result<()> {
    match work {
        Work::Generate(round) => shared.generate(round)?,
        Work::Train(round) => shared.train(round)?,
        Work::Export => {
            let checkpoint = checkpoint_of_round(run, recipe.rounds.len())?;
            export::export(&checkpoint, &run.export(), export::base_on_hub(recipe).as_ref(), true)?;
        }
        Work::Tune => drop(Tuning::of_run(recipe)?.perform(stop)?),
        Work::Eval => {
            let models = [base_model(recipe)?, exported_model(recipe, run)?];
            let curves = training_curves(run)?;
            let report = &run.report();
            let replace = match unmeasured(recipe, run)? {
                Some(_) => Replace::Everything,
                None if overwrite => Replace::Others,
                None => Replace::Nothing,
            };
            let options = stages::EvalOptions { models: &models, training: &curves, report, replace };
            stages::eval(recipe, options, stop)?;
        }
    }
    Ok(())
}

/// The base model of a recipe, for evaluation.
///
/// # Errors
/// When `model.path` is not set.
pub fn base_model(recipe: &Recipe) -> anyhow::Result<EvalModel> {
    let name = recipe.model_path()?.display().to_string();
    Ok(EvalModel { name, role: ModelRole::Base, dir: recipe.model_dir()?, adapter: None })
}

/// The model that round `round` (from 1) starts from: the base, or the checkpoint of the last round before that trains a
/// model. If the round before trains an adapter that drafts, that adapter too.
///
/// # Errors
/// When such a round has no checkpoint.
pub fn models_of_round(recipe: &Recipe, run: &RunDir, round: usize) -> anyhow::Result<ModelDirs> {
    let checkpoint = |round| checkpoint_of_round(run, round);
    Ok(ModelDirs {
        model: recipe.round_of_model(round).map_or_else(|| recipe.model_dir(), checkpoint)?,
        adapter: recipe.round_of_adapter(round).map(checkpoint).transpose()?,
    })
}

/// The model that generates for round `round`, with the adapter if it has a use: it changes no response, only the states.
///
/// # Errors
/// As [`models_of_round`].
pub fn models_that_generate(recipe: &Recipe, run: &RunDir, round: usize) -> anyhow::Result<ModelDirs> {
    let ModelDirs { model, adapter } = models_of_round(recipe, run, round)?;
    let has_states = recipe.rounds[round - 1].generate.states != StatesKept::None;
    Ok(ModelDirs { model, adapter: adapter.filter(|_| has_states) })
}

/// The checkpoint of round `round`: the best by its evaluations, or the last if there were none.
///
/// # Errors
/// When there is none.
pub fn checkpoint_of_round(run: &RunDir, round: usize) -> anyhow::Result<PathBuf> {
    let dir = run.round(round);
    result_checkpoint(&dir)
        .with_context(|| format!("{} has no checkpoint: run `jacobi train` for it first", dir.display()))
}

/// The training curves of a run's rounds; rounds without one are left out.
///
/// # Errors
/// As [`training_curve`].
pub fn training_curves(run: &RunDir) -> anyhow::Result<Vec<TrainingCurve>> {
    let rounds = (1..).take_while(|&round| run.round(round).is_dir());
    let curves = rounds.map(|round| training_curve(&run.round(round), &format!("round-{round}")));
    curves.filter_map(Result::transpose).collect()
}

/// The training curve in `dir`. Needs a checkpoint too, which has the number of samples per step.
///
/// # Errors
/// When `metrics.jsonl` or the checkpoint is damaged.
pub fn training_curve(dir: &Path, label: &str) -> anyhow::Result<Option<TrainingCurve>> {
    let (metrics, checkpoint) = (dir.join("metrics.jsonl"), latest_checkpoint(dir));
    let Some(checkpoint) = checkpoint.filter(|_| metrics.is_file()) else { return Ok(None) };
    let Some(samples) = TrainerState::read(&checkpoint)?.samples_per_step() else { return Ok(None) };
    Ok(Some(TrainingCurve::read(label, &metrics, samples)?))
}

#[cfg(test)]
mod tests;
