//! `jacobi run`: a whole recipe.

use std::time::Duration;

use crate::recipe::{Recipe, RecipeArgs};
use crate::run_dir::RunDir;
use crate::signals::Stop;
use crate::{launch, output, pipeline, plan};

/// Run a whole recipe: for each round generate and train, then export, tune and evaluate
///
/// Restartable: run the same command again after an interruption, and finished stages are skipped.
///
/// Several processes can share the work, started by torchrun, srun or --nproc: all generate and train, and the first one does
/// the rest. They need a shared file system.
#[derive(Debug, clap::Args)]
pub struct RunArgs {
    #[command(flatten)]
    recipe: RecipeArgs,
    /// Start N ranks on this machine that share the work; leave it out under torchrun or Slurm
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    nproc: Option<u16>,
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
    if let Some(count) = args.nproc.filter(|&count| count > 1) {
        return launch::start(usize::from(count), &Stop::quietly()?);
    }
    perform(&recipe, args.overwrite)
}

/// Runs `recipe`, as one of several ranks if the environment says so. The first one prints the final table.
///
/// # Errors
/// See [`pipeline::run`].
pub fn perform(recipe: &Recipe, overwrite: bool) -> anyhow::Result<()> {
    let timeout = recipe.rounds.iter().map(|round| round.train.dist_timeout).max().unwrap_or_default();
    let peers = launch::connect(recipe.model.device, Duration::from_secs(timeout))?;
    let stop = launch::listen(&peers)?;
    launch::together(&peers, || {
        if let Some(table) = pipeline::run(recipe, overwrite, &peers, &stop)? {
            output::result(&format!("\n{table}"))?;
            tell_where(recipe)?;
        }
        Ok(())
    })
}

/// Says where the results are, and how to try them.
fn tell_where(recipe: &Recipe) -> anyhow::Result<()> {
    let run = RunDir::new(&recipe.output_dir);
    output::status(&format!("everything is in {}", run.root().display()));
    if plan::has_evaluation(recipe)? {
        output::status(&format!("the report: {}", run.report().join("report.html").display()));
    }
    let option = if recipe.exports_adapter() { "--adapter" } else { "--model" };
    output::status(&format!("try it: jacobi decode {option} {}", run.export().display()));
    Ok(())
}
