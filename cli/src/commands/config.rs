//! `jacobi config`: the schema of recipes; shows and checks a recipe.

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
    /// Print the resolved recipe: defaults, file and --set merged
    Show(RecipeArgs),
    /// Check a recipe and locate errors; the files named in it need not exist
    Validate(RecipeArgs),
}

/// Prints the schema, the recipe or the result of the check.
///
/// # Errors
/// A recipe that is wrong.
pub fn run(args: &ConfigArgs) -> anyhow::Result<()> {
    let text = match &args.action {
        Action::Schema => serde_json::to_string_pretty(&Recipe::schema())?,
        Action::Show(args) => args.load()?.to_toml(),
        Action::Validate(args) => {
            let notes = args.load()?.missing_settings()?;
            let notes: String = notes.iter().map(|note| format!("\n  {note}")).collect();
            format!("{}: valid{notes}", args.config.display())
        }
    };
    Ok(output::result(&text)?)
}
