//! `jacobi hub`: uploads exported models to the Hugging Face hub.

use std::path::{Path, PathBuf};

use jacobi_datasets::hub::{ExportFile, Hub, HubRepo, PushOptions, export_files};
use jacobi_model::StoredAdapter;
use serde_json::Value;

use crate::exit::UsageError;
use crate::output;

/// Upload an exported model to the Hugging Face hub
#[derive(Debug, clap::Args)]
pub struct HubArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    Push(PushArgs),
}

/// List the files of an exported model that would be uploaded to the hub; with --upload, upload them
///
/// HF_TOKEN, or the token file in HF_HOME, authenticates you; HF_ENDPOINT selects the server. A missing repository is
/// created, as a private one unless --public is given. After an interruption the same command uploads the rest.
#[derive(Debug, clap::Args)]
struct PushArgs {
    /// The exported model
    #[arg(value_name = "DIR")]
    model: PathBuf,
    /// The target: your repository or one of an organization you can write to, at main or at a revision
    #[arg(value_name = "ORG/NAME[@REVISION]")]
    repo: String,
    /// Upload the files
    #[arg(long)]
    upload: bool,
    /// Create a new repository as a public one
    #[arg(long, requires = "upload")]
    public: bool,
    /// First line of the commit message
    #[arg(long, default_value = "Upload a model made with jacobi", value_name = "TEXT")]
    message: String,
}

/// Lists the files, or uploads them and prints their address.
///
/// # Errors
/// [`UsageError`] for a malformed repository name; a directory that is no export; a failed upload.
pub fn run(args: &HubArgs) -> anyhow::Result<()> {
    let Action::Push(args) = &args.action;
    push(args)
}

fn push(args: &PushArgs) -> anyhow::Result<()> {
    let repo = HubRepo::named(&args.repo).ok_or_else(|| {
        UsageError(format!("{} is not a repository name: write ORG/NAME, or ORG/NAME@REVISION", args.repo))
    })?;
    let files = export_files(&args.model)?;
    if let Some(base) = local_base(&args.model) {
        output::status(&format!(
            "warning: adapter_config.json names its base {base}, which is a directory of this machine: set \
             base_model_name_or_path to ORG/NAME of the hub"
        ));
    }
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

/// The base of an adapter, if it is a local directory.
fn local_base(dir: &Path) -> Option<String> {
    let config = fs_err::read(dir.join(StoredAdapter::FILES[0])).ok()?;
    let config: Value = serde_json::from_slice(&config).ok()?;
    let base = config["base_model_name_or_path"].as_str()?;
    Path::new(base).exists().then(|| base.to_owned())
}

fn listing(files: &[ExportFile]) -> String {
    let width = files.iter().map(|file| file.name.len()).max().unwrap_or(0);
    let line = |name: &str, bytes: u64| format!("{name:<width$}  {:>12}", megabytes(bytes));
    let mut lines: Vec<String> = files.iter().map(|file| line(&file.name, file.bytes)).collect();
    lines.push(line("total", total(files)));
    lines.join("\n")
}

fn total(files: &[ExportFile]) -> u64 {
    files.iter().map(|file| file.bytes).sum()
}

fn megabytes(bytes: u64) -> String {
    format!("{:.3} MB", bytes as f64 / 1e6)
}
