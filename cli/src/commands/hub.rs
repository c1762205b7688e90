//! `jacobi hub`: what goes to the Hugging Face hub.

use std::path::PathBuf;

use jacobi_datasets::hub::{ExportFile, Hub, HubRepo, PushOptions, export_files};

use crate::exit::UsageError;
use crate::output;

/// Send an exported model to the Hugging Face hub
#[derive(Debug, clap::Args)]
pub struct HubArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    Push(PushArgs),
}

/// Show what of an exported model would go to the hub; with --upload, send it
///
/// HF_TOKEN, or the token file in HF_HOME, says who is asking; HF_ENDPOINT says whom. A repository that is not there is
/// made, and only you can see it unless --public. Broken off and started again, a push sends what is not there yet.
#[derive(Debug, clap::Args)]
struct PushArgs {
    /// The exported model
    #[arg(value_name = "DIR")]
    model: PathBuf,
    /// Where to: a repository of yours or of an organization you write for, at main or at a revision
    #[arg(value_name = "ORG/NAME[@REVISION]")]
    repo: String,
    /// Send it
    #[arg(long)]
    upload: bool,
    /// Make a new repository visible to everybody
    #[arg(long, requires = "upload")]
    public: bool,
    /// First line of the commit
    #[arg(long, default_value = "Upload a model made with jacobi", value_name = "TEXT")]
    message: String,
}

/// Lists what would go, or sends it and prints where it is.
///
/// # Errors
/// [`UsageError`] for a name that is none; a directory that is no export; whatever keeps the hub from taking it.
pub fn run(args: &HubArgs) -> anyhow::Result<()> {
    let Action::Push(args) = &args.action;
    push(args)
}

fn push(args: &PushArgs) -> anyhow::Result<()> {
    let repo = HubRepo::named(&args.repo).ok_or_else(|| {
        UsageError(format!("{} is no repository: name it ORG/NAME, or ORG/NAME@REVISION", args.repo))
    })?;
    let files = export_files(&args.model)?;
    let hub = Hub::from_environment();
    if !args.upload {
        return Ok(output::result(&format!(
            "{}\nnothing was sent; --upload sends it to {} on {}",
            listing(&files),
            args.repo,
            hub.endpoint
        ))?);
    }
    let options = PushOptions { public: args.public, message: &args.message };
    output::status(&format!("sending {} files, {}", files.len(), megabytes(total(&files))));
    Ok(output::result(&hub.push(&files, &repo, options)?)?)
}

fn listing(files: &[ExportFile]) -> String {
    let width = files.iter().map(|file| file.name.len()).max().unwrap_or(0);
    let line = |name: &str, bytes: u64| format!("{name:<width$}  {:>12}", megabytes(bytes));
    let mut lines: Vec<String> = files.iter().map(|file| line(&file.name, file.bytes)).collect();
    lines.push(line("in all", total(files)));
    lines.join("\n")
}

fn total(files: &[ExportFile]) -> u64 {
    files.iter().map(|file| file.bytes).sum()
}

fn megabytes(bytes: u64) -> String {
    format!("{:.3} MB", bytes as f64 / 1e6)
}
