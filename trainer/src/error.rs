//! Errors of training.

use std::path::PathBuf;

use jacobi_datasets::{DatasetError, Differences, PackError};
use jacobi_model::ModelError;

use crate::RankFailure;

/// An error that ends a training run. Checkpoints already written stay complete.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The model.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The trajectories.
    #[error(transparent)]
    Data(#[from] DatasetError),
    /// A sample that has no target, or contradicts itself.
    #[error("cannot pack a training sample")]
    Pack(#[from] PackError),
    /// Reading or writing the output; the source names the path.
    #[error("cannot access the training output")]
    Io(#[from] std::io::Error),
    /// Another rank failed.
    #[error(
        "training on several ranks failed; the same command, with any number of ranks, resumes from the last checkpoint"
    )]
    Ranks(#[from] RankFailure),
    /// An invalid setting.
    #[error("train.{field} = {value}: {rule}")]
    Setting {
        /// The key.
        field: &'static str,
        /// Its value.
        value: String,
        /// The rule it breaks.
        rule: &'static str,
    },
    /// No usable sample.
    #[error(
        "none of the {rows} rows in {origin} can be trained on: {skipped} are longer than train.max_length = {max_length} \
         or than the model's context of {context} tokens"
    )]
    NoSamples {
        /// Where the rows came from.
        origin: String,
        /// Rows read.
        rows: usize,
        /// Rows dropped for their length.
        skipped: usize,
        /// The limit on packed tokens.
        max_length: usize,
        /// The limit on tokens of prompt and response.
        context: usize,
    },
    /// Rows of another tokenizer.
    #[error(
        "sample {sample_id} in {origin} has the token id {id}, and the model's vocabulary has {vocabulary} tokens: it was \
         made with another tokenizer; train the model it was made with"
    )]
    ForeignToken {
        /// Where it came from.
        origin: String,
        /// The sample.
        sample_id: String,
        /// The token.
        id: u32,
        /// `vocab_size` of config.json.
        vocabulary: u32,
    },
    /// A row without the states that its loss needs.
    #[error(
        "sample {sample_id} in {origin} has no recorded states, and the consistency loss needs them: generate with \
         generate.states = \"all\", or train an adapter with train.adapter.states = \"random\" or \"on_policy\", which need \
         responses only"
    )]
    NoStates {
        /// Where it came from.
        origin: String,
        /// The sample.
        sample_id: String,
    },
    /// Every usable row is held out.
    #[error(
        "all {rows} usable rows in {origin} are held out for evaluation: train.eval_samples = {held_out}; lower it, or \
         unset train.eval_steps"
    )]
    AllHeldOut {
        /// Where they came from.
        origin: String,
        /// Rows that could be trained on.
        rows: usize,
        /// The setting.
        held_out: usize,
    },
    /// A checkpoint of another run.
    #[error(
        "{} belongs to another run:{differences}\nrestore these settings, or train into another directory; \
         --overwrite removes the checkpoints of that run and starts over", path.display()
    )]
    Mismatch {
        /// The checkpoint.
        path: PathBuf,
        /// What differs.
        differences: Differences,
    },
    /// A checkpoint file that cannot be used.
    #[error(
        "cannot resume from {path} ({reason}): remove the directory of this checkpoint to resume from the one before it"
    )]
    BadCheckpoint {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A loss or gradient norm that is NaN or infinite, found before the update.
    #[error(
        "step {step}: {what} is not finite; the weights are those of step {}. Samples: {}; their tokens and layouts are in {}. Lower \
         train.learning_rate, or look at these samples with `jacobi inspect`",
        step - 1, samples.join(", "), batch.display()
    )]
    NonFinite {
        /// The step, from 1.
        step: usize,
        /// Loss or gradient norm.
        what: &'static str,
        /// Sample ids of the step.
        samples: Vec<String>,
        /// Their tokens and layouts.
        batch: PathBuf,
    },
}

impl TrainError {
    /// Whether the user's settings are at fault.
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::Setting { .. } | Self::Mismatch { .. } | Self::AllHeldOut { .. } | Self::NoStates { .. }
        )
    }
}
