//! The arguments of the benchmarks.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};

/// What is measured, and where it goes. Paths are taken from the workspace root, whatever directory cargo starts in.
pub struct Options {
    /// Hugging Face directory.
    pub model: PathBuf,
    /// What scripts/bench_transformers.py wrote. Of the decoding benchmark.
    pub transformers: Option<PathBuf>,
    /// Questions, in a column of that name. Of the generation benchmark.
    pub prompts: PathBuf,
    /// Tokens decoded after the first, or of a response.
    pub tokens: usize,
    /// Repetitions of every measurement.
    pub rounds: usize,
    /// libtorch's threads.
    pub threads: i32,
    /// The file to write.
    pub output: PathBuf,
    /// How it was started.
    pub command: String,
}

const USAGE: &str = "cargo bench --workspace --bench decode|generate -- --model DIR [--transformers JSON] \
                     [--prompts JSONL] [--tokens 64] [--rounds 5] [--threads 2] [--output bench-results/NAME.json]";

impl Options {
    /// # Errors
    /// An argument that is not known, has no value, or a bad one; no model.
    pub fn parse(name: &str, arguments: impl Iterator<Item = String>) -> anyhow::Result<Self> {
        // cargo adds --bench to what it passes on.
        let arguments: Vec<String> = arguments.filter(|argument| argument != "--bench").collect();
        let mut options = Self {
            model: PathBuf::new(),
            transformers: None,
            prompts: PathBuf::new(),
            tokens: 64,
            rounds: 5,
            threads: 2,
            output: root().join(format!("bench-results/{name}.json")),
            command: format!("cargo bench --workspace --bench {name} -- {}", arguments.join(" ")),
        };
        let mut rest = arguments.iter();
        while let Some(name) = rest.next() {
            let value = rest.next().with_context(|| format!("{name} needs a value; usage: {USAGE}"))?;
            let bad = || format!("{name} {value}: a whole number is needed");
            match name.as_str() {
                "--model" => options.model = root().join(value),
                "--transformers" => options.transformers = Some(root().join(value)),
                "--prompts" => options.prompts = root().join(value),
                "--output" => options.output = root().join(value),
                "--tokens" => options.tokens = value.parse().with_context(bad)?,
                "--rounds" => options.rounds = value.parse().with_context(bad)?,
                "--threads" => options.threads = value.parse().with_context(bad)?,
                _ => bail!("unknown argument {name}; usage: {USAGE}"),
            }
        }
        ensure!(!options.model.as_os_str().is_empty(), "--model is missing; usage: {USAGE}");
        let counts = options.tokens > 0 && options.rounds > 0 && options.threads > 0;
        ensure!(counts, "--tokens, --rounds and --threads are at least 1");
        Ok(options)
    }
}

/// The workspace root.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace")
}
