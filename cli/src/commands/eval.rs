//! `jacobi eval`: quality and speed of models under decoders.

use std::path::PathBuf;

use jacobi_datasets::schema::eval_row::ModelRole;
use jacobi_eval::EvalModel;
use jacobi_report::terminal_table;

use crate::pipeline::{base_model, training_curves};
use crate::recipe::RecipeArgs;
use crate::run_dir::{DirLock, RunDir};
use crate::signals::Stop;
use crate::{output, plan, stages};

/// Measure quality and speed of models under decoders, and write a report
///
/// Without --trained, the exported model of the recipe's run is measured beside the base model if it is there.
#[derive(Debug, clap::Args)]
pub struct EvalArgs {
    #[command(flatten)]
    recipe: RecipeArgs,
    /// The base model; by default model.path
    #[arg(long, value_name = "DIR")]
    base: Option<PathBuf>,
    /// A trained model; may be given several times
    #[arg(long, value_name = "DIR")]
    trained: Vec<PathBuf>,
    /// Where the report goes; by default the report directory in output_dir
    #[arg(long, short, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Print what would be done, and stop
    #[arg(long)]
    dry_run: bool,
}

/// Evaluates and prints the table, or with `--dry-run` says what would be evaluated.
///
/// # Errors
/// See [`stages::eval`].
pub fn run(args: &EvalArgs) -> anyhow::Result<()> {
    let mut recipe = args.recipe.load()?;
    if let Some(base) = &args.base {
        recipe.model.path.clone_from(base);
    }
    let run = RunDir::new(&recipe.output_dir);
    let mut models = vec![base_model(&recipe)?];
    let named = |dir: &PathBuf| EvalModel {
        name: dir.display().to_string(),
        role: ModelRole::Trained,
        dir: dir.clone(),
    };
    models.extend(args.trained.iter().map(named));
    if args.trained.is_empty() && run.export().is_dir() {
        models.push(EvalModel { name: recipe.name.clone(), role: ModelRole::Trained, dir: run.export() });
    }
    let target = args.output.clone().unwrap_or_else(|| run.report());
    if args.dry_run {
        let prompts = plan::count(&recipe.eval.prompts)?;
        let names: Vec<&str> = models.iter().map(|model| model.name.as_str()).collect();
        return Ok(output::result(&format!(
            "evaluate {} on {prompts}, report into {}",
            names.join(" and "),
            target.display()
        ))?);
    }
    let _lock = DirLock::take(args.output.as_deref().unwrap_or(run.root()))?;
    let curves = training_curves(&run, recipe.rounds.len())?;
    let rows = stages::eval(&recipe, &models, &curves, &target, &Stop::listen()?)?;
    Ok(output::result(&terminal_table(&rows))?)
}
