//! `jacobi train`: trajectory shards, or plain prompts with responses, to checkpoints.

use std::path::{Path, PathBuf};

use jacobi_datasets::Manifest;
use jacobi_model::Architecture;
use jacobi_trainer::{TrainData, forecast};

use crate::commands::generate::check_round;
use crate::pipeline::model_of_round;
use crate::recipe::{Recipe, RecipeArgs};
use crate::run_dir::{DirLock, RunDir};
use crate::signals::Stop;
use crate::{output, plan, stages, supervised};

/// Train a model on trajectory shards
///
/// With prompts.response_column set and no --trajectories, trains on those responses instead, by the autoregressive
/// loss alone. Resumable: run the same command again, and it goes on from the newest checkpoint. A file `save-now` in
/// the output directory has a checkpoint saved at once.
#[derive(Debug, clap::Args)]
pub struct TrainArgs {
    #[command(flatten)]
    recipe: RecipeArgs,
    /// The round to train; later rounds start from the checkpoint of the one before
    #[arg(long, default_value_t = 1, value_name = "N")]
    round: usize,
    /// Directory of trajectory shards; by default those of the round in output_dir
    #[arg(long, value_name = "DIR")]
    trajectories: Option<PathBuf>,
    /// Where checkpoints and metrics go; by default the place of the round in output_dir
    #[arg(long, short, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Remove what a run with other settings, data or weights left in the output, and start over
    #[arg(long)]
    overwrite: bool,
    /// Print what would be done, and stop
    #[arg(long)]
    dry_run: bool,
}

/// Trains, or with `--dry-run` says what would be trained.
///
/// # Errors
/// See [`stages::train`].
pub fn run(args: &TrainArgs) -> anyhow::Result<()> {
    let recipe = args.recipe.load()?;
    let run = RunDir::new(&recipe.output_dir);
    check_round(args.round, recipe.rounds.len())?;
    let model = model_of_round(&recipe, &run, args.round)?;
    let target = args.output.clone().unwrap_or_else(|| run.round(args.round));
    let shards = match &args.trajectories {
        Some(dir) => Some(dir.clone()),
        None if recipe.prompts.response_column.is_some() => None,
        None => Some(run.trajectories(args.round)),
    };
    let data = |shards| -> anyhow::Result<TrainData> {
        Ok(match shards {
            Some(dir) => TrainData::Trajectories(dir),
            None => supervised::load(&recipe.prompts, &model)?,
        })
    };
    if args.dry_run {
        let known = shards.as_deref().map(Manifest::load).transpose()?;
        if known.is_some_and(|manifest| manifest.is_none_or(|manifest| manifest.written == 0)) {
            let text = describe(&recipe, args.round, &model, shards.as_deref())?;
            return Ok(output::result(&format!(
                "{text}\nmemory and time are known once there are trajectories"
            ))?);
        }
        let train = &recipe.rounds[args.round - 1].train;
        let (shape, from) = (Architecture::from_dir(&model)?, model.display());
        let takes = forecast(&shape, recipe.model.dtype, data(shards)?, train, recipe.seed)?;
        let text = format!("train {from} with a learning rate of {:e}\n{takes}", train.learning_rate);
        return Ok(output::result(&text)?);
    }
    let _lock = DirLock::take(args.output.as_deref().unwrap_or(run.root()))?;
    let stage = stages::TrainStage {
        round: args.round,
        model_dir: &model,
        data: data(shards)?,
        output: &target,
        overwrite: args.overwrite,
    };
    let checkpoint = stages::train(&recipe, stage, &Stop::listen()?)?;
    Ok(output::result(&checkpoint.display().to_string())?)
}

fn describe(recipe: &Recipe, round: usize, model: &Path, shards: Option<&Path>) -> anyhow::Result<String> {
    let (samples, origin) = match shards {
        Some(dir) => (Manifest::load(dir)?.map_or(0, |manifest| manifest.written), dir),
        None => (plan::count(&recipe.prompts)?.usable, recipe.prompts.path.as_path()),
    };
    let train = &recipe.rounds[round - 1].train;
    Ok(format!(
        "train {} on {samples} samples of {}\n{} steps of {} samples, learning rate {:e}",
        model.display(),
        origin.display(),
        plan::steps(train, samples),
        train.batch_size,
        train.learning_rate
    ))
}
