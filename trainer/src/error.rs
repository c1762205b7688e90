//! Everything that can end a training run early.

use std::path::PathBuf;

use jacobi_datasets::{DatasetError, PackError};
use jacobi_model::ModelError;

/// A failure of training. Nothing already written is lost by any of them.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The model.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The trajectories.
    #[error(transparent)]
    Data(#[from] DatasetError),
    /// A sample that teaches nothing, or does not fit together.
    #[error("cannot pack a training sample")]
    Pack(#[from] PackError),
    /// Reading or writing the output; the source names the path.
    #[error("cannot access the training output")]
    Io(#[from] std::io::Error),
    /// A setting that no run can have.
    #[error("train.{field} = {value}: {rule}")]
    Setting {
        /// The key.
        field: &'static str,
        /// Its value.
        value: String,
        /// What it has to be.
        rule: &'static str,
    },
    /// Nothing to learn from.
    #[error(
        "no training sample is left of {rows} rows in {origin}: {skipped} are longer than train.max_length = {max_length}"
    )]
    NoSamples {
        /// Where they came from.
        origin: String,
        /// Rows read.
        rows: usize,
        /// Rows dropped for their length.
        skipped: usize,
        /// The limit.
        max_length: usize,
    },
    /// A checkpoint of another run.
    #[error(
        "{path} was made with {field} = {stored}, this run has {current}: set it back, or train into another directory"
    )]
    Mismatch {
        /// The checkpoint.
        path: PathBuf,
        /// What differs.
        field: String,
        /// Then.
        stored: String,
        /// Now.
        current: String,
    },
    /// A checkpoint file that cannot be used.
    #[error(
        "checkpoint {path} cannot be resumed ({reason}): remove that directory to resume from the one before"
    )]
    BadCheckpoint {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// NaN or infinity, found before the weights were touched.
    #[error(
        "step {step}: {what} is not finite; samples {samples:?}; the weights of the last step are untouched. Lower train.learning_rate, or look at these samples with `jacobi inspect`"
    )]
    NonFinite {
        /// The step, from 1.
        step: usize,
        /// Loss or gradient norm.
        what: &'static str,
        /// Sample ids of the step.
        samples: Vec<String>,
    },
}
