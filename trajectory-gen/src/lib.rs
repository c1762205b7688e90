//! Prompts to trajectory shards: resumable by content, shared among ranks, every prompt accounted for.

mod accounting;
mod config;
mod engine;
mod error;
mod estimate;
mod filters;
mod generate;
mod import;
mod ledger;
mod merge;
mod prompts;
mod survey;

pub use accounting::CUT_RESPONSES;
pub use config::{BatchSize, Choice, GenerateConfig, OnDisagreement, OutOfRange, StatesKept};
pub use error::GenerateError;
pub use estimate::{Calibration, Estimate, estimate};
pub use filters::Rule;
pub use generate::{GenerateJob, GenerateOutcome, GenerateProgress, generate};
pub use import::{ImportJob, import};
pub use ledger::{ERRORS_FILE, Rejected, RejectedKind};
pub use merge::{merge, rank_directories, ranks_in};
