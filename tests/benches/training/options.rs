//! What the training benchmark is asked for.

use std::path::PathBuf;

use anyhow::Context;
use jacobi_model::Dtype;
use serde_json::json;

use super::work::SAMPLE_TOKENS;
use crate::arguments::Arguments;

/// What is measured, and where it goes.
#[derive(Clone, Debug)]
pub struct Options {
    /// Hugging Face directory.
    pub model: PathBuf,
    /// What scripts/bench_train_pytorch.py wrote.
    pub pytorch: Option<PathBuf>,
    /// Where measurements are kept and found again.
    pub measured: Option<PathBuf>,
    /// Tokens per row, one measurement each.
    pub rows: Vec<usize>,
    /// Tokens of a step where a row has fewer.
    pub tokens: usize,
    /// Steps measured, after one that is not.
    pub rounds: usize,
    /// Ours computes in it; master weights are fp32.
    pub dtype: Dtype,
    /// How many threads compute.
    pub threads: usize,
    /// The file to write.
    pub output: PathBuf,
    /// Writes the samples here, and stops.
    pub samples: Option<PathBuf>,
    /// A child process: the way it measures.
    pub child: Option<String>,
    /// How it was started.
    pub command: String,
}

const USAGE: &str = "cargo bench --workspace --bench train -- --model DIR [--pytorch JSON] [--measured JSON] [--rows 512,2048,8192] \
                     [--tokens 2048] [--rounds 2] [--dtype bfloat16|float32] [--threads 2] [--output bench-results/train.json] [--samples JSON]";

impl Options {
    /// # Errors
    /// An argument that is not known, has no value, or a bad one; no model.
    pub fn read() -> anyhow::Result<Self> {
        let mut given = Arguments::read("train", USAGE)?;
        let (model, threads) = given.model_and_threads()?;
        let rows = given.text("--rows").unwrap_or_else(|| "512,2048,8192".to_owned());
        let size =
            |size: &str| size.parse().with_context(|| format!("--rows {rows}: whole numbers are needed"));
        let dtype = given.text("--dtype").unwrap_or_else(|| "bfloat16".to_owned());
        Ok(Self {
            model,
            dtype: serde_json::from_value(json!(dtype)).with_context(|| format!("--dtype {dtype}"))?,
            pytorch: given.path("--pytorch"),
            measured: given.path("--measured"),
            rows: rows.split(',').map(size).collect::<anyhow::Result<_>>()?,
            tokens: given.count("--tokens", SAMPLE_TOKENS, 2048)?,
            rounds: given.count("--rounds", 1, 2)?,
            threads,
            output: given.output(),
            samples: given.path("--samples"),
            child: given.text("--child"),
            command: given.finish()?,
        })
    }
}
