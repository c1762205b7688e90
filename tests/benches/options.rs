//! What the decoding and the generation benchmark are asked for.

use std::path::PathBuf;

use crate::arguments::Arguments;

/// What is measured, and where it goes.
pub struct Options {
    /// Hugging Face directory.
    pub model: PathBuf,
    /// What it reads beside the model.
    pub input: Option<PathBuf>,
    /// Tokens decoded after the first, or of a response.
    pub tokens: usize,
    /// Repetitions of every measurement.
    pub rounds: usize,
    /// How many threads compute.
    pub threads: usize,
    /// The file to write.
    pub output: PathBuf,
    /// How it was started.
    pub command: String,
}

impl Options {
    /// Takes them from what was `given`, and is the last to take. `input` is the argument that says what is read beside the model.
    ///
    /// # Errors
    /// An argument that is not known, has no value, or a bad one; no model.
    pub fn take(mut given: Arguments, input: &str) -> anyhow::Result<Self> {
        let (model, threads) = given.model_and_threads()?;
        Ok(Self {
            model,
            input: given.path(input),
            tokens: given.count("--tokens", 1, 64)?,
            rounds: given.count("--rounds", 1, 5)?,
            threads,
            output: given.output(),
            command: given.finish()?,
        })
    }
}
