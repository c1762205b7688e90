//! `jacobi env`: versions, devices and threads for bug reports.

use crate::{environment, output};

/// Print versions, devices and threads, for bug reports
#[derive(Debug, clap::Args)]
pub struct EnvArgs {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Prints the environment.
///
/// # Errors
/// When standard output cannot be written.
pub fn run(args: &EnvArgs) -> anyhow::Result<()> {
    let environment = environment::describe();
    let text = if args.json {
        serde_json::to_string_pretty(&environment)?
    } else {
        environment::as_text(&environment)
    };
    Ok(output::result(&text)?)
}
