//! `jacobi import`: published trajectories of the reference implementation to shards.

use std::path::PathBuf;

use jacobi_datasets::hub;
use jacobi_trajectory_gen::{ERRORS_FILE, ImportJob, import};

use crate::output;
use crate::run_dir::DirLock;

/// Import trajectories that the reference implementation published
///
/// Reads its recorded trajectories (JSON with diffusion_itr_id, data_id, prompt_ids, answer_trajectory_ids,
/// teacher_output_ids) and its packed training records (JSONL with prompt_ids, prompt_ids_len,
/// complete_training_sequence_ids, traj_position_indices). The shards can be inspected and trained on.
#[derive(Debug, clap::Args)]
pub struct ImportArgs {
    /// The files
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The model that made them, for its tokenizer: a directory, or ORG/NAME@REVISION of the hub
    #[arg(long, short, value_name = "DIR")]
    model: PathBuf,
    /// Output directory of the shards
    #[arg(long, short, value_name = "DIR")]
    output: PathBuf,
    /// Replace existing shards
    #[arg(long)]
    overwrite: bool,
}

/// Imports and prints the counts.
///
/// # Errors
/// See [`import`].
pub fn run(args: &ImportArgs) -> anyhow::Result<()> {
    let model_dir = hub::model_dir(&args.model)?;
    let _lock = DirLock::take(&args.output)?;
    let job = ImportJob {
        files: &args.files,
        model_dir: &model_dir,
        output: &args.output,
        overwrite: args.overwrite,
    };
    let manifest = import(&job)?;
    if manifest.failed > 0 {
        let errors = args.output.join(ERRORS_FILE);
        output::status(&format!("{} samples left out; see {}", manifest.failed, errors.display()));
    }
    Ok(output::result(&format!("{} trajectories in {}", manifest.written, args.output.display()))?)
}
