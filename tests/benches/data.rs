//! The benchmark of training's data: memory and start-up over few and many samples, and the speed of training on both.
//! `scripts/bench-data.sh` runs it. Each measurement has a process of its own.

mod arguments;
#[path = "data/samples.rs"]
mod samples;
mod sheet;

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::AtomicBool,
    time::Instant,
};

use anyhow::{Context, ensure};
use jacobi_model::{Architecture, Device, Dtype, environment};
use jacobi_trainer::{Dataset, Init, Ranks, TrainConfig, TrainData, TrainJob, train};
use serde_json::{Value, json};

use arguments::Arguments;
use sheet::{Bound, Sheet, median};

const USAGE: &str = "cargo bench --workspace --bench data -- --model DIR --trajectories DIR --work DIR [--few 2000] \
                     [--many 200000] [--tokens 512] [--steps 50] [--train-steps 0] [--threads 2] \
                     [--output bench-results/data.json]";

const MEGABYTE: f64 = 1e6;

struct Options {
    model: PathBuf,
    /// Real rows, of which the samples are made.
    trajectories: PathBuf,
    /// Holds the samples, which are kept between calls.
    work: PathBuf,
    counts: [usize; 2],
    /// Response tokens of a sample.
    tokens: usize,
    /// Steps that are read and packed.
    steps: usize,
    /// Steps of training; 0 leaves it out.
    train_steps: usize,
    threads: usize,
    output: PathBuf,
    /// A child process: the directory that it reads.
    child: Option<PathBuf>,
    command: String,
}

impl Options {
    fn read() -> anyhow::Result<Self> {
        let mut given = Arguments::read("data", USAGE)?;
        let (model, threads) = given.model_and_threads()?;
        let missing = |name: &str| format!("{name} is missing; usage: {USAGE}");
        Ok(Self {
            model,
            trajectories: given.path("--trajectories").with_context(|| missing("--trajectories"))?,
            work: given.path("--work").with_context(|| missing("--work"))?,
            counts: [given.count("--few", 1, 2000)?, given.count("--many", 1, 200_000)?],
            tokens: given.count("--tokens", 1, 512)?,
            steps: given.count("--steps", 1, 50)?,
            train_steps: given.count("--train-steps", 0, 0)?,
            threads,
            output: given.output(),
            child: given.path("--child"),
            command: given.finish()?,
        })
    }
}

fn main() -> anyhow::Result<()> {
    let options = Options::read()?;
    jacobi_torch_ext::set_threads(options.threads);
    if let Some(dir) = &options.child {
        let measured = if options.train_steps > 0 { training(&options, dir) } else { reading(&options, dir) };
        use std::io::Write;
        return Ok(writeln!(std::io::stdout(), "{}", measured?)?);
    }
    let mut sheet = Sheet::default();
    let directories = options.counts.map(|count| {
        let dir = options.work.join(format!("{count}-samples-of-{}", options.tokens));
        samples::make(&options.trajectories, &dir, count, options.tokens).map(|()| dir)
    });
    let [few, many] = directories;
    let (few, many) = (few?, many?);
    let [small, large] = [run_child(&options, &few, 0)?, run_child(&options, &many, 0)?];
    for (count, measured) in options.counts.into_iter().zip([&small, &large]) {
        let number = |field: &str| measured[field].as_f64().unwrap_or(f64::NAN);
        sheet.figure(format!("{count} samples: to open"), "s", number("open_seconds"));
        sheet.figure(format!("{count} samples: memory once open"), "MB", number("open_bytes") / MEGABYTE);
        sheet.figure(format!("{count} samples: memory at the peak"), "MB", number("peak_bytes") / MEGABYTE);
        let seconds: Vec<f64> =
            measured["step_seconds"].as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
        sheet.samples(format!("{count} samples: to read and pack a step"), "s", &seconds);
    }
    let peak = |of: &Value| of["peak_bytes"].as_f64().unwrap_or(f64::NAN) / MEGABYTE;
    sheet.bar(
        "memory of many samples above that of few, MB",
        peak(&large) - peak(&small),
        Bound::AtMost(300.0),
    );
    sheet.bar(
        "start-up with many samples, s",
        large["open_seconds"].as_f64().unwrap_or(f64::NAN),
        Bound::AtMost(20.0),
    );
    if options.train_steps > 0 {
        // In turn, so that a drift of the machine affects both alike.
        let mut speeds = [Vec::new(), Vec::new()];
        for _ in 0..2 {
            for (dir, speeds) in [&few, &many].into_iter().zip(&mut speeds) {
                let measured = run_child(&options, dir, options.train_steps)?;
                speeds.push(measured["tokens_per_second"].as_f64().unwrap_or(f64::NAN));
            }
        }
        let [few, many] = options.counts;
        let slow = sheet.samples(format!("{few} samples: training"), "tokens/s", &speeds[0]);
        let fast = sheet.samples(format!("{many} samples: training"), "tokens/s", &speeds[1]);
        sheet.bar("training on many samples / on few", fast / slow, Bound::AtLeast(0.97));
    }
    let mut environment = environment();
    environment["settings"] =
        json!({"tokens": options.tokens, "counts": options.counts, "steps": options.steps});
    sheet.print()?;
    sheet.write(&options.output, &options.command, &environment)
}

fn run_child(options: &Options, dir: &Path, train_steps: usize) -> anyhow::Result<Value> {
    let number = |number: usize| number.to_string();
    let output = Command::new(std::env::current_exe()?)
        .args(["--steps", &number(options.steps), "--train-steps", &number(train_steps)])
        .args(["--threads", &number(options.threads)])
        .arg("--model")
        .arg(&options.model)
        .arg("--trajectories")
        .arg(&options.trajectories)
        .arg("--work")
        .arg(&options.work)
        .arg("--child")
        .arg(dir)
        .output()?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {}: {told}", dir.display(), output.status);
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn config() -> TrainConfig {
    TrainConfig { max_length: 1 << 20, eval_steps: None, ..TrainConfig::default() }
}

/// Opens the samples, then reads and packs steps one after the other, without training between them.
fn reading(options: &Options, dir: &Path) -> anyhow::Result<Value> {
    let (config, shape) = (config(), Architecture::from_dir(&options.model)?);
    let started = Instant::now();
    let mut dataset = Dataset::open(TrainData::Trajectories(dir.to_path_buf()), &config, 1, &shape)?;
    let open_seconds = started.elapsed().as_secs_f64();
    let open_bytes = memory("VmRSS:")?;
    let mut step_seconds = Vec::new();
    for step in 0..options.steps {
        let started = Instant::now();
        dataset.step(step, config.batch_size, &config)?;
        step_seconds.push(started.elapsed().as_secs_f64());
    }
    let peak_bytes = memory("VmHWM:")?;
    Ok(json!({
        "open_seconds": open_seconds,
        "open_bytes": open_bytes,
        "peak_bytes": peak_bytes,
        "step_seconds": step_seconds,
    }))
}

/// Trains some steps.
fn training(options: &Options, dir: &Path) -> anyhow::Result<Value> {
    let config = TrainConfig { max_steps: Some(options.train_steps), ..config() };
    let output = tempfile::tempdir()?;
    let job = TrainJob {
        model_dir: &options.model,
        init: Init::Weights,
        adapter: None,
        dtype: Dtype::Auto,
        device: Device::Cpu,
        data: TrainData::Trajectories(dir.to_path_buf()),
        output: output.path(),
        config: &config,
        seed: 1,
        overwrite: false,
        ranks: Ranks::alone(),
    };
    let mut speeds = Vec::new();
    train(job, &AtomicBool::new(false), &mut |progress| speeds.push(progress.tokens_per_second))?;
    // The first step reads its own samples, and others are warm.
    let warm = &speeds[1.min(speeds.len() - 1)..];
    Ok(json!({"tokens_per_second": median(warm)}))
}

/// A size in `/proc/self/status`, in bytes.
fn memory(field: &str) -> anyhow::Result<f64> {
    let status = fs_err::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)).context("no memory in /proc")?;
    let kilobytes: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(1024.0 * kilobytes)
}
