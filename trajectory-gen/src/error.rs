//! Everything that can end a generation run early.

use std::path::PathBuf;

use jacobi_datasets::DatasetError;
use jacobi_model::ModelError;

/// A failure of generation. Shards already written stay, and a second run continues after them.
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
    /// A setting that no run can have.
    #[error("generate.{field} must be at least 1")]
    Setting {
        /// The key.
        field: &'static str,
    },
    /// Shards of another run are there.
    #[error(
        "{dir} holds trajectories made with another model, other prompts or other settings: choose another directory, or remove this one"
    )]
    Mismatch {
        /// The output directory.
        dir: PathBuf,
    },
    /// Not one prompt could be used.
    #[error("none of {input} prompts gave a trajectory; the reasons are in {errors}")]
    NothingWritten {
        /// Prompts read.
        input: usize,
        /// errors.jsonl.
        errors: PathBuf,
    },
}
