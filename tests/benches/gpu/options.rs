//! What the benchmark of a GPU is asked for.

use std::path::PathBuf;

use anyhow::{Context, bail, ensure};
use jacobi_model::DeviceChoice;
use tch::Device;

use crate::arguments::Arguments;

/// What is measured, where, and where it goes.
pub struct Options {
    /// The device.
    pub device: Device,
    /// Tiny shapes, to see that it runs.
    pub smoke: bool,
    /// One shape alone.
    pub shape: Option<String>,
    /// What scripts/bench_gpu_pytorch.py wrote.
    pub theirs: Option<PathBuf>,
    /// Receives what scripts/bench_gpu_pytorch.py is to do, and nothing is measured.
    pub task: Option<PathBuf>,
    /// The one check to run; nothing is measured.
    pub check: Option<String>,
    /// Lists the names of the checks, and nothing is measured.
    pub list_checks: bool,
    /// After so many seconds nothing more is begun.
    pub seconds: f64,
    /// The file to write.
    pub output: PathBuf,
    /// How it was started.
    pub command: String,
}

const USAGE: &str = "cargo bench --workspace --features cuda --bench gpu -- [--device cuda:0] [--scale full|smoke] \
                     [--shape smollm2-135m|qwen2.5-7b] [--theirs JSON] [--task JSON] [--seconds 100] [--check NAME] [--list-checks 1] \
                     [--output bench-results/gpu.json]";

impl Options {
    /// # Errors
    /// An argument that is not known, has no value, or a bad one; no GPU, unless this is a smoke run.
    pub fn read() -> anyhow::Result<Self> {
        let mut given = Arguments::read("gpu", USAGE)?;
        let smoke = match given.text("--scale").as_deref() {
            None | Some("full") => false,
            Some("smoke") => true,
            Some(other) => bail!("--scale {other}: full or smoke; usage: {USAGE}"),
        };
        let usual = if smoke { "cpu" } else { "cuda" };
        let choice: DeviceChoice = given.text("--device").unwrap_or_else(|| usual.to_owned()).parse()?;
        let task = given.path("--task");
        let list_checks = given.text("--list-checks").is_some();
        let none = task.is_some() || list_checks;
        let device = if none { Device::Cpu } else { choice.resolve(0)?.device };
        ensure!(
            smoke || none || device != Device::Cpu,
            "this measures a GPU; --scale smoke goes through it on a CPU"
        );
        let seconds = given.text("--seconds").unwrap_or_else(|| "100".to_owned());
        Ok(Self {
            device,
            smoke,
            shape: given.text("--shape"),
            theirs: given.path("--theirs"),
            task,
            check: given.text("--check"),
            list_checks,
            seconds: seconds.parse().with_context(|| format!("--seconds {seconds}: a number is needed"))?,
            output: given.output(),
            command: given.finish()?,
        })
    }
}
