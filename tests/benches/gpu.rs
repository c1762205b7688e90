//! The benchmark of a GPU. With `--check NAME`: whether one code path computes there what the CPU computes. Else: how fast it
//! is, at two shapes with random weights, each figure beside what PyTorch with transformers does in the same call.
//! `scripts/bench-gpu.sh` runs the checks one by one, each in a process, and then the figures. With
//! `--scale smoke` it goes its whole way on a CPU with tiny shapes, and its figures mean nothing.

#[expect(dead_code, reason = "this one has no counts, and makes its models itself")]
mod arguments;
#[path = "gpu/checks.rs"]
mod checks;
#[path = "gpu/decoding.rs"]
mod decoding;
#[path = "gpu/generation.rs"]
mod generation;
#[path = "gpu/machine.rs"]
mod machine;
mod metered;
#[path = "gpu/options.rs"]
mod options;
#[path = "gpu/shapes.rs"]
mod shapes;
mod sheet;
#[path = "gpu/training.rs"]
mod training;
#[path = "training/work.rs"]
mod work;

use std::{io::Write, path::Path, time::Instant};

use jacobi_model::{Compute, Dtype, Transformer, environment};
use jacobi_torch_ext::{reset_peak_memory, synchronize};
use serde_json::{Value, json};
use tch::Device;

use machine::Machine;
use options::Options;
use shapes::{Scale, Shape};
use sheet::Sheet;

/// What a section is given to measure with.
pub struct Bench<'a> {
    /// Where.
    pub device: Device,
    /// How much.
    pub scale: &'a Scale,
    /// What it can do.
    pub machine: Machine,
    /// What PyTorch reached, by the names of our figures.
    theirs: Value,
    started: Instant,
    /// After so many seconds no section is begun.
    limit: f64,
}

fn main() -> anyhow::Result<()> {
    let options = Options::read()?;
    let started = Instant::now();
    let scale = if options.smoke { Scale::smoke() } else { Scale::full() };
    if let Some(path) = &options.task {
        return write_task(path, &scale, options.smoke);
    }
    let say = |line: &str| writeln!(std::io::stdout(), "{line}");
    if options.list_checks {
        return Ok(checks::names().try_for_each(say)?);
    }
    if let Some(name) = &options.check {
        return Ok(say(&checks::run(name, options.device)?)?);
    }
    let mut sheet = Sheet::default();
    let theirs = match &options.theirs {
        Some(path) => serde_json::from_str(&fs_err::read_to_string(path)?)?,
        None => Value::Null,
    };
    let mut bench = Bench {
        device: options.device,
        scale: &scale,
        machine: Machine::measure(&mut sheet, options.device, &scale),
        theirs,
        started,
        limit: options.seconds,
    };
    for shape in shapes::all(options.smoke) {
        if options.shape.as_ref().is_none_or(|wanted| wanted == shape.name) {
            measure(&mut bench, &mut sheet, &shape)?;
        }
    }
    let mut environment = environment();
    environment["smoke"] = options.smoke.into();
    environment["pytorch"] = bench.theirs["versions"].clone();
    environment["seconds"] = started.elapsed().as_secs_f64().into();
    sheet.print()?;
    sheet.write(&options.output, &options.command, &environment)
}

/// Shapes, sizes and samples: PyTorch is to do the same work.
fn write_task(path: &Path, scale: &Scale, smoke: bool) -> anyhow::Result<()> {
    let mut listed = Vec::new();
    for shape in shapes::all(smoke) {
        let vocabulary = shape.config["vocab_size"].as_u64().unwrap_or(0) as u32;
        listed.push(json!({
            "name": shape.name,
            "config": shape.config,
            "trained_layers": shape.trained_layers,
            "training": work::as_json(&training::samples(scale, vocabulary)?),
        }));
    }
    let task = json!({
        "smoke": smoke,
        "rounds": scale.rounds,
        "contexts": scale.contexts,
        "widths": scale.widths,
        "width_context": scale.width_context,
        "passes": scale.passes,
        "slots": scale.slots,
        "prompt": scale.prompt,
        "response": scale.response,
        "row_tokens": scale.row_tokens,
        "shapes": listed,
    });
    if let Some(folder) = path.parent() {
        fs_err::create_dir_all(folder)?;
    }
    Ok(fs_err::write(path, task.to_string())?)
}

type Section = fn(&Bench, &mut Sheet, &Shape) -> anyhow::Result<()>;

fn measure(bench: &mut Bench, sheet: &mut Sheet, shape: &Shape) -> anyhow::Result<()> {
    let sections: [(&str, Section); 3] = [
        ("decoding", decoding::measure),
        ("generation", generation::measure),
        ("training", training::measure),
    ];
    for (name, section) in sections {
        if bench.started.elapsed().as_secs_f64() > bench.limit {
            sheet.figure(format!("{}: {name}: NOT measured, out of time", shape.name), "", f64::NAN);
            continue;
        }
        reset_peak_memory(bench.device);
        section(bench, sheet, shape)?;
        synchronize(bench.device)?;
    }
    Ok(())
}

impl Bench<'_> {
    /// Random weights of a shape, made on the device.
    pub fn model(&self, config: &Value) -> anyhow::Result<Transformer> {
        let dir = shapes::directory(config)?;
        let dtype = if self.device == Device::Cpu { Dtype::Float32 } else { Dtype::Bfloat16 };
        Ok(Transformer::random(dir.path(), Compute { dtype, device: self.device }, 0)?)
    }

    /// What PyTorch reached beside our figure `name`, and how ours compares: above 1 is faster here.
    pub fn beside(&self, sheet: &mut Sheet, name: &str, unit: &'static str, ours: f64) -> Option<f64> {
        let theirs = self.theirs["figures"][name].as_f64()?;
        sheet.figure(format!("{name}: PyTorch"), unit, theirs);
        let ratio = if unit == "ms" { theirs / ours } else { ours / theirs };
        Some(sheet.figure(format!("{name}: ours / PyTorch"), "x", ratio))
    }

    /// Seconds of `work`, from when the device is idle to when it is again: as often as asked, after once.
    pub fn time(&self, mut work: impl FnMut()) -> Vec<f64> {
        let idle = || synchronize(self.device).expect("a device that works");
        work();
        let timed = |_| {
            idle();
            let started = Instant::now();
            work();
            idle();
            started.elapsed().as_secs_f64()
        };
        (0..self.scale.rounds).map(timed).collect()
    }
}
