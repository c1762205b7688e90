//! Quality and speed of models under decoders: prompts in, one
//! [`EvalRow`](jacobi_datasets::schema::eval_row::EvalRow) per model and decoder out, with every sample behind
//! it.
//!
//! The autoregressive decoder always runs, on the same prompts in turn with the others: speeds are ratios to
//! its speed, and outputs are compared with its output. It is added in front if the configuration leaves it
//! out.
//!
//! [`tune()`] searches the decoder that is best for a model on this machine, [`tuned()`] reads its result.
//!
//! Reading order: [`config`] (the settings), [`tasks`] (questions and scoring), [`run`] (the loop), [`score`]
//! (figures from samples).

pub mod config;
mod divergence;
mod error;
mod floor;
mod interval;
mod journal;
mod judge;
mod opening;
mod paired;
mod questions;
mod recording;
pub mod run;
mod running;
pub mod sandbox;
pub mod score;
pub mod tasks;
mod tune;
mod tuned;

#[cfg(test)]
mod fixtures;

pub use config::{BaseDecoders, EvalConfig, EvalModel, TaskConfig};
pub use error::EvalError;
pub use journal::read_samples;
pub use judge::{TaskCheck, check_task};
pub use opening::LeftOut;
pub use paired::paired_tests;
pub use run::{EvalJob, EvalOutcome, EvalProgress, evaluate};
pub use running::Running;
pub use sandbox::SandboxConfig;
pub use tune::{TuneConfig, TuneJob, TuneOutcome, TuneProgress, tune};
pub use tuned::{tuned, tuned_file};
