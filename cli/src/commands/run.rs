//! `jacobi run`: a whole recipe.

use crate::recipe::{Recipe, RecipeArgs};
use crate::signals::Stop;
use crate::{output, pipeline};

/// Run a whole recipe: for each round generate and train, then export, tune and evaluate
///
/// Restartable: run the same command again after an interruption, and finished stages are skipped.
#[derive(Debug, clap::Args)]
pub struct RunArgs {
    #[command(flatten)]
    recipe: RecipeArgs,
    /// Remove the results of stages with other settings, and repeat these stages
    #[arg(long)]
    overwrite: bool,
    /// Print the plan and the resolved recipe, and stop
    #[arg(long)]
    dry_run: bool,
}

/// Runs, or with `--dry-run` prints the plan.
///
/// # Errors
/// As [`perform`], with `--dry-run` after the plan.
pub fn run(args: &RunArgs) -> anyhow::Result<()> {
    let recipe = args.recipe.load()?;
    if args.dry_run {
        let plan = pipeline::describe(&recipe, args.overwrite)?;
        output::result(&plan.text)?;
        return plan.refusal.map_or(Ok(()), Err);
    }
    perform(&recipe, args.overwrite)
}

/// Runs `recipe` and prints the final table.
///
/// # Errors
/// See [`pipeline::run`].
pub fn perform(recipe: &Recipe, overwrite: bool) -> anyhow::Result<()> {
    let table = pipeline::run(recipe, overwrite, &Stop::listen()?)?;
    output::result(&format!("\n{table}"))?;
    output::status(&format!("everything is in {}", recipe.output_dir.display()));
    Ok(())
}
