//! `jacobi generate`: prompts and a model to trajectory shards.

use std::path::PathBuf;

use jacobi_datasets::Tokenizer;

use crate::exit::UsageError;
use crate::pipeline::model_of_round;
use crate::recipe::RecipeArgs;
use crate::run_dir::{DirLock, RunDir};
use crate::signals::Stop;
use crate::{output, plan, stages};

/// Generate trajectory shards from prompts and a model
///
/// Resumable: run the same command again, and it goes on behind the last finished shard.
#[derive(Debug, clap::Args)]
pub struct GenerateArgs {
    #[command(flatten)]
    recipe: RecipeArgs,
    /// The round to generate for; later rounds use the checkpoint of the one before
    #[arg(long, default_value_t = 1, value_name = "N")]
    round: usize,
    /// Where the shards go; by default the place of the round in output_dir
    #[arg(long, short, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Print what would be done, and stop
    #[arg(long)]
    dry_run: bool,
}

/// Generates, or with `--dry-run` says what would be generated.
///
/// # Errors
/// See [`stages::generate`].
pub fn run(args: &GenerateArgs) -> anyhow::Result<()> {
    let recipe = args.recipe.load()?;
    let run = RunDir::new(&recipe.output_dir);
    let round = args.round;
    check_round(round, recipe.rounds.len())?;
    let model = model_of_round(&recipe, &run, round)?;
    let target = args.output.clone().unwrap_or_else(|| run.trajectories(round));
    if args.dry_run {
        Tokenizer::load(&model)?;
        let config = &recipe.rounds[round - 1].generate;
        return Ok(output::result(&format!(
            "generate with {} into {}\n{}, block_size {}, at most {} new tokens each",
            model.display(),
            target.display(),
            plan::count(&recipe.prompts)?,
            config.block_size,
            config.max_new_tokens
        ))?);
    }
    let _lock = DirLock::take(args.output.as_deref().unwrap_or(run.root()))?;
    let manifest = stages::generate(&recipe, round, &model, &target, &Stop::listen()?)?;
    output::result(&format!("{} trajectories in {}", manifest.written, target.display()))?;
    Ok(())
}

/// Refuses a round that the recipe does not have.
///
/// # Errors
/// [`UsageError`].
pub fn check_round(round: usize, rounds: usize) -> Result<(), UsageError> {
    if (1..=rounds).contains(&round) {
        return Ok(());
    }
    Err(UsageError(format!("--round {round}: the recipe has {rounds} rounds, counted from 1")))
}
