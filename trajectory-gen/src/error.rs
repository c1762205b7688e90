//! Errors of generation.

use std::path::PathBuf;

use jacobi_datasets::{DatasetError, Differences};
use jacobi_model::ModelError;

/// An error that ends a generation run. Rows already written stay, and the next run continues after them.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// The model.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Prompts, tokenizer or shards.
    #[error(transparent)]
    Data(#[from] DatasetError),
    /// Reading or writing the output; the source names the path.
    #[error("cannot access the trajectory directory")]
    Io(#[from] std::io::Error),
    /// A setting that must not be 0.
    #[error("generate.{field} must be at least 1")]
    Setting {
        /// The key.
        field: &'static str,
    },
    /// An empty range.
    #[error("generate.{min_key} = {min} is above generate.{max_key} = {max}")]
    Range {
        /// The lower end's key.
        min_key: &'static str,
        /// The lower end.
        min: usize,
        /// The upper end's key.
        max_key: &'static str,
        /// The upper end.
        max: usize,
    },
    /// A number out of range.
    #[error("generate.{field} = {value}: it must be {must}")]
    Number {
        /// The key.
        field: &'static str,
        /// What it is.
        value: f64,
        /// What it must be.
        must: &'static str,
    },
    /// Scheduled states under a random schedule, which selects other states in every epoch.
    #[error(
        "generate.states = \"scheduled\" needs to know the states that training will select, but train.noise_schedule = \"random\" draws new ones in every epoch: set generate.states = \"all\", or another schedule"
    )]
    NoSchedule,
    /// An adapter that would neither refine blocks nor draft responses.
    #[error(
        "--adapter has no use here: generate.states = \"none\" records no states that it could make, and drafts for \
         {samples} samples side by side do not fit into generate.pass_tokens = {pass_tokens}: leave it out, which gives the \
         same responses, or lower generate.batch_size"
    )]
    IdleAdapter {
        /// Samples side by side.
        samples: usize,
        /// The setting.
        pass_tokens: usize,
    },
    /// The output has shards of another run.
    #[error(
        "{} holds trajectories made with other settings:{changes}\nchoose another directory, or give --overwrite to remove them and make them again",
        dir.display()
    )]
    Mismatch {
        /// The output directory.
        dir: PathBuf,
        /// The settings that differ.
        changes: Differences,
    },
    /// The output of an import already has shards.
    #[error("{} holds trajectories already: choose another directory, or give --overwrite to remove them", dir.display())]
    OutputTaken {
        /// The output directory.
        dir: PathBuf,
    },
    /// The output has rows of prompts that are not in the prompt file.
    #[error(
        "{} holds {count} trajectories of prompts that {} does not have, the first of sample {first}: choose another directory, or give --overwrite to remove all of them",
        dir.display(),
        prompts.display()
    )]
    ForeignRows {
        /// The output directory.
        dir: PathBuf,
        /// The prompt file.
        prompts: PathBuf,
        /// How many.
        count: usize,
        /// The sample id of one.
        first: String,
    },
    /// A text out of range, under a setting that makes this an error.
    #[error(
        "sample {sample_id}: {reason}; set generate.{setting} to \"drop\" or \"truncate\", or widen the range"
    )]
    OutOfRange {
        /// The sample.
        sample_id: String,
        /// Which limit it breaks.
        reason: String,
        /// The key that makes it an error.
        setting: &'static str,
    },
    /// Many failures in a row, so the cause is probably not in the rows.
    #[error(
        "{count} prompts in a row failed (generate.max_consecutive_errors), the last one, {prompt}: {reason}; all are in {}",
        errors.display()
    )]
    TooManyErrors {
        /// How many.
        count: usize,
        /// The last one.
        prompt: String,
        /// Why it failed.
        reason: String,
        /// errors.jsonl.
        errors: PathBuf,
    },
    /// Not one prompt could be used.
    #[error("none of {input} prompts gave a trajectory; the reasons are in {}", errors.display())]
    NothingWritten {
        /// Prompts read.
        input: usize,
        /// errors.jsonl.
        errors: PathBuf,
    },
    /// The directories of the ranks are not one complete job.
    #[error("cannot merge {}: {reason}", dir.display())]
    Merge {
        /// Where the ranks' directories are.
        dir: PathBuf,
        /// What is missing or differs.
        reason: String,
    },
}

impl GenerateError {
    /// Whether the user's settings are at fault.
    pub fn is_usage(&self) -> bool {
        match self {
            Self::Setting { .. }
            | Self::Range { .. }
            | Self::Mismatch { .. }
            | Self::Number { .. }
            | Self::NoSchedule
            | Self::IdleAdapter { .. }
            | Self::OutOfRange { .. }
            | Self::OutputTaken { .. }
            | Self::ForeignRows { .. } => true,
            Self::Data(error) => matches!(error, DatasetError::StrayShards { .. }),
            _ => false,
        }
    }
}
