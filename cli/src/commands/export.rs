//! `jacobi export`: exports a checkpoint as a Hugging Face model directory.

use std::path::PathBuf;

use crate::exit::UsageError;
use crate::export::{base_on_hub, check_replaceable, export, write_card};
use crate::pipeline::checkpoint_of_round;
use crate::recipe::RecipeArgs;
use crate::run_dir::RunDir;
use crate::{output, stages};

/// Export a checkpoint as a Hugging Face model directory
///
/// Give --checkpoint and --output, or a recipe: then the best checkpoint of its last round (the last one if
/// train.eval_steps is not set) is exported to its export directory, with a model card and a jacobi.json.
#[derive(Debug, clap::Args)]
pub struct ExportArgs {
    /// The recipe whose run is exported
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Overrides one setting of the recipe. May be given several times
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE", requires = "config")]
    set: Vec<String>,
    /// The checkpoint; by default the final one of the recipe's run
    #[arg(long, value_name = "DIR")]
    checkpoint: Option<PathBuf>,
    /// Output directory; by default the export directory of the recipe's run
    #[arg(long, short, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Replace an existing model in --output
    #[arg(long)]
    overwrite: bool,
    /// Whether to add custom_generate/, with which transformers decodes several tokens per pass. transformers 4.57 uses
    /// it for a local directory by default
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    custom_generate: bool,
}

/// Exports.
///
/// # Errors
/// See [`export`].
pub fn run(args: &ExportArgs) -> anyhow::Result<()> {
    let recipe = args
        .config
        .as_ref()
        .map(|config| RecipeArgs { config: config.clone(), set: args.set.clone() }.load())
        .transpose()?;
    let run = recipe.as_ref().map(|recipe| RunDir::new(&recipe.output_dir));
    let checkpoint = match (&args.checkpoint, &recipe, &run) {
        (Some(dir), _, _) => dir.clone(),
        (None, Some(recipe), Some(run)) => checkpoint_of_round(run, recipe.rounds.len())?,
        _ => return Err(missing("--checkpoint DIR").into()),
    };
    let target = match (&args.output, &run) {
        (Some(dir), _) => dir.clone(),
        (None, Some(run)) => run.export(),
        _ => return Err(missing("--output DIR").into()),
    };
    // A run may always replace its own export.
    check_replaceable(&target, &checkpoint, args.overwrite || args.output.is_none())?;
    let base_on_hub = recipe.as_ref().and_then(base_on_hub);
    export(&checkpoint, &target, base_on_hub.as_ref(), args.custom_generate)?;
    if let (Some(recipe), Some(run)) = (&recipe, &run) {
        // With measured rows, if there are any.
        write_card(recipe, run, &target, stages::read_results(&run.report()).ok().as_ref())?;
    }
    Ok(output::result(&target.display().to_string())?)
}

fn missing(option: &str) -> UsageError {
    UsageError(format!("nothing to export: give {option}, or a recipe with --config"))
}
