//! The arguments of the benchmarks: names and values, in any order.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail, ensure};

/// What a benchmark was started with, of which each takes what it knows. Paths are taken from the workspace root, whatever
/// directory cargo starts in.
pub struct Arguments {
    bench: &'static str,
    values: BTreeMap<String, String>,
    usage: &'static str,
    /// How the benchmark was started.
    command: String,
}

impl Arguments {
    /// # Errors
    /// An argument without a value.
    pub fn read(bench: &'static str, usage: &'static str) -> anyhow::Result<Self> {
        // cargo adds --bench to what it passes on.
        let arguments: Vec<String> =
            std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
        let mut values = BTreeMap::new();
        for pair in arguments.chunks(2) {
            let [name, value] = pair else { bail!("{} needs a value; usage: {usage}", pair[0]) };
            values.insert(name.clone(), value.clone());
        }
        let features = if cfg!(feature = "cuda") { " --features cuda" } else { "" };
        let command = format!("cargo bench --workspace{features} --bench {bench} -- {}", arguments.join(" "));
        Ok(Self { bench, values, usage, command })
    }

    /// What was given as `name`.
    pub fn text(&mut self, name: &str) -> Option<String> {
        self.values.remove(name)
    }

    /// The same as a path.
    pub fn path(&mut self, name: &str) -> Option<PathBuf> {
        self.text(name).map(|value| root().join(value))
    }

    /// The same as a number, which is at least `least`.
    ///
    /// # Errors
    /// Anything else.
    pub fn count(&mut self, name: &str, least: usize, default: usize) -> anyhow::Result<usize> {
        let Some(value) = self.text(name) else { return Ok(default) };
        let count: usize =
            value.parse().with_context(|| format!("{name} {value}: a whole number is needed"))?;
        ensure!(count >= least, "{name} {count}: at least {least}");
        Ok(count)
    }

    /// The directory of the model, and the number of threads, which all benchmarks have.
    ///
    /// # Errors
    /// No model, a number that is none.
    pub fn model_and_threads(&mut self) -> anyhow::Result<(PathBuf, usize)> {
        let model =
            self.path("--model").with_context(|| format!("--model is missing; usage: {}", self.usage))?;
        Ok((model, self.count("--threads", 1, 2)?))
    }

    /// The file to write.
    pub fn output(&mut self) -> PathBuf {
        self.path("--output").unwrap_or_else(|| root().join(format!("bench-results/{}.json", self.bench)))
    }

    /// # Errors
    /// An argument that nobody has taken.
    pub fn finish(self) -> anyhow::Result<String> {
        match self.values.first_key_value() {
            Some((name, _)) => bail!("unknown argument {name}; usage: {}", self.usage),
            None => Ok(self.command),
        }
    }
}

/// The workspace root.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace")
}
