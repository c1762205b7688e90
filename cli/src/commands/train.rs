//! `jacobi train`: trajectory shards, or plain prompts with responses, to checkpoints.

use std::path::{Path, PathBuf};
use std::time::Duration;

use jacobi_datasets::{Difference, Differences, Manifest, PromptsConfig, Section};
use jacobi_model::{Architecture, Compute};
use jacobi_trainer::{TrainData, forecast};

use crate::commands::generate::check_round;
use crate::exit::UsageError;
use crate::pipeline::models_of_round;
use crate::recipe::{Recipe, RecipeArgs, Round};
use crate::run_dir::{DirLock, RunDir};
use crate::signals::Stop;
use crate::{device, launch, output, plan, stages, supervised};

/// Train a model on trajectory shards
///
/// Without --trajectories and with responses in the prompts (prompts.response_column, response_template, or conversations
/// that end with the assistant's turn and have no trajectories), trains on those: with the autoregressive loss only, or an
/// adapter with random or on-policy states.
///
/// Resumable: the same command continues from the newest checkpoint. Create a file `save-now` in the output directory to
/// save a checkpoint at once.
///
/// Several processes can train together, started by torchrun, srun or --nproc. They need a shared file system.
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
    /// Output directory of checkpoints and metrics; by default the round's directory in output_dir
    #[arg(long, short, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Start N ranks on this machine that train together; leave it out under torchrun or Slurm
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    nproc: Option<u16>,
    /// Remove the output of a run with other settings, data or weights, and start over
    #[arg(long)]
    overwrite: bool,
    /// Print what would be done, and stop
    #[arg(long)]
    dry_run: bool,
}

/// Trains, or with `--dry-run` prints the plan.
///
/// # Errors
/// See [`stages::train`].
pub fn run(args: &TrainArgs) -> anyhow::Result<()> {
    let recipe = args.recipe.load()?;
    let run = RunDir::new(&recipe.output_dir);
    check_round(args.round, recipe.rounds.len())?;
    let models = models_of_round(&recipe, &run, args.round)?;
    let model = &models.model;
    let target = args.output.clone().unwrap_or_else(|| run.round(args.round));
    let shards = match &args.trajectories {
        Some(dir) => Some(dir.clone()),
        None if gives_responses(&recipe.rounds[args.round - 1].prompts, &run.trajectories(args.round)) => {
            None
        }
        None => {
            let dir = run.trajectories(args.round);
            check_settings(&recipe, args.round, &dir)?;
            Some(dir)
        }
    };
    if args.dry_run {
        return Ok(output::result(&forecast_of(args, &recipe, model, shards.as_deref())?)?);
    }
    if let Some(count) = args.nproc.filter(|&count| count > 1) {
        return launch::start(usize::from(count), &Stop::quietly()?);
    }
    let device = device::of(&recipe.model)?;
    let timeout = Duration::from_secs(recipe.rounds[args.round - 1].train.dist_timeout);
    let peers = launch::connect(recipe.model.device, timeout)?;
    let checkpoint = launch::together(&peers, || {
        let Round { prompts, train, .. } = &recipe.rounds[args.round - 1];
        if peers.is_first() && shards.is_none() && train.uses_recorded_states() {
            let path = prompts.path.display();
            output::status(&format!(
                "training on the responses of {path}: the autoregressive loss alone, since they have no trajectories"
            ));
        }
        let place = args.output.as_deref().unwrap_or(run.root());
        let _lock = peers.is_first().then(|| DirLock::take(place)).transpose()?;
        let stage = stages::TrainStage {
            round: args.round,
            models: &models,
            data: data(prompts, model, shards.as_deref())?,
            output: &target,
            overwrite: args.overwrite,
            device,
            ranks: peers.join(device, timeout)?,
        };
        stages::train(&recipe, stage, &launch::listen(&peers)?)
    })?;
    if peers.is_first() {
        output::result(&checkpoint.display().to_string())?;
    }
    Ok(())
}

/// Whether the rows of `prompts` have the responses to train on: in a column, by a template, or as the last turn of
/// conversations that no trajectories were made for.
fn gives_responses(prompts: &PromptsConfig, trajectories: &Path) -> bool {
    prompts.response_column.is_some()
        || prompts.response_template.is_some()
        || prompts.messages_column.is_some() && !trajectories.exists()
}

/// Refuses the run's own trajectories in `dir` if they were generated with other settings of `[generate]`, another template or
/// another seed.
fn check_settings(recipe: &Recipe, round: usize, dir: &Path) -> anyhow::Result<()> {
    let Some(manifest) = Manifest::load(dir)? else { return Ok(()) };
    let Round { prompts, generate, .. } = &recipe.rounds[round - 1];
    let mut settings = generate.deciding();
    settings.extend(prompts.deciding_template());
    settings.set("seed", recipe.seed);
    let Differences(mut changes) = settings.differences(&manifest.settings);
    // The others come from the files of model and responses.
    let is_of_recipe = |key: &str| key.starts_with("generate.") && key != "generate.responses";
    changes
        .retain(|Difference { key, .. }| is_of_recipe(key) || key.starts_with("prompts.") || key == "seed");
    if changes.is_empty() {
        return Ok(());
    }
    let (dir, changes) = (dir.display(), Differences(changes));
    Err(UsageError(format!(
        "{dir} was generated with other settings:{changes}\nrun `jacobi generate` with these settings first, or train on the \
         trajectories as they are with --trajectories {dir}"
    ))
    .into())
}

fn data(prompts: &PromptsConfig, model: &Path, shards: Option<&Path>) -> anyhow::Result<TrainData> {
    Ok(match shards {
        Some(dir) => TrainData::Trajectories(dir.to_path_buf()),
        None => supervised::load(prompts, model)?,
    })
}

fn forecast_of(
    args: &TrainArgs,
    recipe: &Recipe,
    model: &Path,
    shards: Option<&Path>,
) -> anyhow::Result<String> {
    let manifests = shards.map(Manifest::load).transpose()?;
    if manifests.is_some_and(|manifest| manifest.is_none_or(|manifest| manifest.written == 0)) {
        let text = describe(recipe, args.round, model, shards)?;
        return Ok(format!("{text}\nmemory and time can be estimated once there are trajectories"));
    }
    let Round { prompts, train, .. } = &recipe.rounds[args.round - 1];
    let (shape, from) = (Architecture::from_dir(model)?, model.display());
    let compute = Compute { dtype: recipe.model.dtype, device: device::of(&recipe.model)? };
    let estimate = forecast(&shape, compute, data(prompts, model, shards)?, train, recipe.seed)?;
    Ok(format!("train {from} with a learning rate of {:e}\n{estimate}", train.learning_rate))
}

fn describe(recipe: &Recipe, round: usize, model: &Path, shards: Option<&Path>) -> anyhow::Result<String> {
    let Round { prompts, train, .. } = &recipe.rounds[round - 1];
    let (samples, origin) = match shards {
        Some(dir) => (Manifest::load(dir)?.map_or(0, |manifest| manifest.written), dir),
        None => (plan::count(prompts)?.usable, prompts.path.as_path()),
    };
    Ok(format!(
        "train {} on {samples} samples of {}\n{} steps of {} samples, learning rate {:e}{}",
        model.display(),
        origin.display(),
        plan::steps(train, samples),
        train.batch_size,
        train.learning_rate,
        plan::adapter_in_words(train)
    ))
}
