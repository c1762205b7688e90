//! `jacobi config`: what recipes may say, and what one says.

use crate::output;
use crate::recipe::{Recipe, RecipeArgs};

/// Describe, show or check recipes
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub struct ConfigArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Print the JSON Schema of recipes: every key, its type, its default
    Schema,
    /// Print a recipe as it is resolved: file, --set and defaults together
    Show(RecipeArgs),
    /// Check a recipe and say where it is wrong; files it names need not be there
    Validate(RecipeArgs),
}

/// Prints.
///
/// # Errors
/// A recipe that is wrong.
pub fn run(args: &ConfigArgs) -> anyhow::Result<()> {
    let text = match &args.action {
        Action::Schema => serde_json::to_string_pretty(&Recipe::schema())?,
        Action::Show(args) => args.load()?.to_toml(),
        Action::Validate(args) => {
            let notes = args.load()?.lacks()?;
            let notes: String = notes.iter().map(|note| format!("\n  {note}")).collect();
            format!("{}: valid{notes}", args.config.display())
        }
    };
    Ok(output::result(&text)?)
}
