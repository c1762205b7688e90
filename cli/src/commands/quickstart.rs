//! `jacobi quickstart`: the recipe of the quick start, with its model and prompts.

use std::path::Path;

use crate::commands::run;
use crate::recipe::Recipe;
use crate::{output, shipped};

/// Run the quick start: the whole pipeline on a small model that travels with this program
///
/// Writes the model, its prompts and recipes into datasets/default/ and configs/ of the current directory; a file that is
/// there with another content is an error. Then does what `jacobi run --config configs/quickstart.toml` does, some minutes
/// on two cores. Restartable, as `run` is.
#[derive(Debug, clap::Args)]
pub struct QuickstartArgs {
    /// Overrides one setting of the recipe. May be given several times
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
    /// Remove the results of stages with other settings, and repeat these stages
    #[arg(long)]
    overwrite: bool,
}

/// Writes the files, then runs the recipe.
///
/// # Errors
/// As [`shipped::write_into`] and [`run::perform`].
pub fn run(args: &QuickstartArgs) -> anyhow::Result<()> {
    let written = shipped::write_into(Path::new(""))?;
    if written > 0 {
        output::status(&format!("wrote {written} files into configs/ and datasets/default/"));
    }
    output::status(&format!("running {}", shipped::QUICKSTART));
    run::perform(&Recipe::load(Path::new(shipped::QUICKSTART), &args.set)?, args.overwrite)
}
