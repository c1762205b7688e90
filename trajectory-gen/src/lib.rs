//! Prompts to trajectory shards: one process, resumable shard by shard, every prompt accounted for.

mod config;
mod engine;
mod error;
mod generate;
mod ledger;
mod recorder;

pub use config::GenerateConfig;
pub use error::GenerateError;
pub use generate::{GenerateJob, GenerateOutcome, GenerateProgress, generate};
pub use ledger::{Rejected, RejectedKind};
pub use recorder::Recorder;
