//! The arguments of the training benchmark.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};

/// What is measured, and where it goes. Paths are taken from the workspace root, whatever directory cargo starts in.
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
    /// libtorch's threads.
    pub threads: i32,
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
                     [--tokens 2048] [--rounds 2] [--threads 2] [--output bench-results/train.json] [--samples JSON]";

impl Options {
    /// # Errors
    /// An argument that is not known, has no value, or a bad one; no model.
    pub fn parse(arguments: impl Iterator<Item = String>) -> anyhow::Result<Self> {
        // cargo adds --bench to what it passes on.
        let arguments: Vec<String> = arguments.filter(|argument| argument != "--bench").collect();
        let mut options = Self {
            model: PathBuf::new(),
            pytorch: None,
            measured: None,
            rows: vec![512, 2048, 8192],
            tokens: 2048,
            rounds: 2,
            threads: 2,
            output: root().join("bench-results/train.json"),
            samples: None,
            child: None,
            command: format!("cargo bench --workspace --bench train -- {}", arguments.join(" ")),
        };
        let mut rest = arguments.iter();
        while let Some(name) = rest.next() {
            let value = rest.next().with_context(|| format!("{name} needs a value; usage: {USAGE}"))?;
            let bad = || format!("{name} {value}: a whole number is needed");
            match name.as_str() {
                "--model" => options.model = root().join(value),
                "--pytorch" => options.pytorch = Some(root().join(value)),
                "--measured" => options.measured = Some(root().join(value)),
                "--output" => options.output = root().join(value),
                "--samples" => options.samples = Some(root().join(value)),
                "--child" => options.child = Some(value.clone()),
                "--rows" => {
                    let sizes = value.split(',').map(|size| size.parse().with_context(bad));
                    options.rows = sizes.collect::<anyhow::Result<_>>()?;
                }
                "--tokens" => options.tokens = value.parse().with_context(bad)?,
                "--rounds" => options.rounds = value.parse().with_context(bad)?,
                "--threads" => options.threads = value.parse().with_context(bad)?,
                _ => bail!("unknown argument {name}; usage: {USAGE}"),
            }
        }
        ensure!(!options.model.as_os_str().is_empty(), "--model is missing; usage: {USAGE}");
        let counts =
            options.tokens >= super::work::SAMPLE_TOKENS && options.rounds > 0 && options.threads > 0;
        ensure!(counts, "--tokens is at least one sample, --rounds and --threads are at least 1");
        Ok(options)
    }
}

/// The workspace root.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace")
}
