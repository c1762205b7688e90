//! Quality and speed of models under decoders: prompts in, one [`EvalRow`](jacobi_datasets::schema::eval_row::EvalRow)
//! per model and decoder out, with every sample behind it.
//!
//! The autoregressive decoder always runs, on the same prompts in turn with the others: it is what speed is compared
//! with and what output is checked against. It is added in front if the configuration leaves it out.
//!
//! [`tune()`] searches the decoder that is best for a model on this machine, [`tuned()`] reads what it found.
//!
//! Reading order: [`config`] (what is asked), [`run`] (the loop), [`score`] (samples to figures), [`tasks`] (what a
//! right answer is).

pub mod config;
pub mod decoders;
mod divergence;
mod error;
mod floor;
mod interval;
mod journal;
mod judge;
mod opening;
mod paired;
mod per_prompt;
mod questions;
mod ranks;
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

pub use config::{EvalConfig, EvalModel, SandboxConfig, TaskConfig};
pub use decoders::{DecoderConfig, DecoderName, FillerName, WindowName};
pub use error::EvalError;
pub use journal::read_samples;
pub use judge::{TaskCheck, check_task};
pub use opening::LeftOut;
pub use paired::paired_tests;
pub use run::{EvalJob, EvalOutcome, EvalProgress, evaluate};
pub use running::Running;
pub use tune::{TuneJob, TuneOutcome, TuneProgress, tune};
pub use tuned::tuned;
