//! The training benchmark, on a real model: our passes beside the plain ones, the matrix products alone, and PyTorch with
//! transformers. `scripts/bench-train.sh` sets it up and runs it. Each way is measured in a process of its own.

#[path = "training/measure.rs"]
mod measure;
#[path = "training/options.rs"]
mod options;
#[path = "../oracle.rs"]
mod oracle;
mod sheet;
#[path = "training/work.rs"]
mod work;

use std::{path::Path, process::Command};

use anyhow::{Context, ensure};
use jacobi_datasets::PackedSample;
use jacobi_model::{Architecture, environment};
use serde_json::{Value, json};

use measure::Way;
use options::Options;
use sheet::{Bound, Sheet, median};

const GIGABYTE: f64 = 1e9;

fn main() -> anyhow::Result<()> {
    let options = Options::parse(std::env::args().skip(1))?;
    tch::set_num_threads(options.threads);
    if let Some(way) = &options.child {
        let measured = measure::child(&options, Way::parse(way)?, options.rows[0])?;
        return print(&measured);
    }
    if let Some(path) = &options.samples {
        return write_samples(&options, path);
    }
    let theirs = options.pytorch.as_deref().map(read_pytorch).transpose()?;
    let mut sheet = Sheet::default();
    let mut per_token = Vec::new();
    for &rows in &options.rows {
        per_token.push(rows_of(&mut sheet, &options, rows, theirs.as_ref())?);
    }
    if let [first, .., last] = per_token[..] {
        sheet.figure("fast: seconds per token, longest rows / shortest", "x", last / first);
    }
    let mut environment = environment();
    environment["model"] = options.model.display().to_string().into();
    environment["rounds"] = options.rounds.into();
    if let Some(theirs) = &theirs {
        environment["pytorch"] = theirs["versions"].clone();
    }
    sheet.print()?;
    sheet.write(&options.output, &options.command, &environment)
}

/// Measures every way at `rows` tokens per row; the seconds a token takes the fast way.
fn rows_of(sheet: &mut Sheet, options: &Options, rows: usize, theirs: Option<&Value>) -> anyhow::Result<f64> {
    let [oracle, fast, again] = Way::ALL.map(|way| run_child(options, way, rows));
    let (oracle, fast, again) = (oracle?, fast?, again?);
    let speed = |sheet: &mut Sheet, name: &str, of: &Value| {
        let tokens = of["tokens"].as_f64().unwrap_or(0.0);
        let speeds: Vec<f64> = seconds(of, "seconds").iter().map(|seconds| tokens / seconds).collect();
        sheet.samples(format!("{rows}: {name}"), "tokens/s", &speeds)
    };
    let plain = speed(sheet, "dense mask, autograd", &oracle);
    let ours = speed(sheet, "fast", &fast);
    let frugal = speed(sheet, "fast, recomputing", &again);
    let floor = median(&seconds(&fast, "floor_seconds"));
    let share = floor / median(&seconds(&fast, "seconds"));
    sheet.figure(format!("{rows}: matrix products alone"), "s", floor);
    sheet.figure(format!("{rows}: fast / dense mask, autograd"), "x", ours / plain);
    sheet.bar(format!("{rows}: matrix products' share of the fast step"), share, Bound::AtLeast(0.6));
    sheet.bar(format!("{rows}: recomputing / fast"), frugal / ours, Bound::AtLeast(0.72));
    for (name, of) in [("dense mask, autograd", &oracle), ("fast", &fast), ("fast, recomputing", &again)] {
        let bytes = |field: &str| of[field].as_f64().unwrap_or(0.0) / GIGABYTE;
        sheet.figure(format!("{rows}: {name}: peak memory"), "GB", bytes("peak_bytes"));
        let activations = bytes("peak_bytes") - bytes("settled_bytes");
        sheet.figure(format!("{rows}: {name}: of it for activations"), "GB", activations);
    }
    for (name, of) in [("fast", &fast), ("fast, recomputing", &again)] {
        let ratio = number(of, "predicted_bytes") / number(of, "peak_bytes");
        sheet.bar(format!("{rows}: {name}: predicted / measured peak, above"), ratio, Bound::AtMost(1.1));
        sheet.bar(format!("{rows}: {name}: predicted / measured peak, below"), ratio, Bound::AtLeast(0.9));
    }
    let activations = |of: &Value| number(of, "peak_bytes") - number(of, "settled_bytes");
    let saved = activations(&again) / activations(&oracle);
    if rows >= 8192 {
        sheet.bar(format!("{rows}: activations, recomputing / plain"), saved, Bound::AtMost(0.25));
    }
    if let Some(theirs) = theirs.and_then(|theirs| theirs["rows"].get(rows.to_string())) {
        let pytorch = speed(sheet, "PyTorch, transformers", theirs);
        sheet.figure(format!("{rows}: PyTorch: peak memory"), "GB", number(theirs, "peak_bytes") / GIGABYTE);
        let bound = if rows >= 8192 { 2.5 } else { 1.4 };
        sheet.bar(format!("{rows}: fast / PyTorch"), ours / pytorch, Bound::AtLeast(bound));
    }
    Ok(1.0 / ours)
}

fn run_child(options: &Options, way: Way, rows: usize) -> anyhow::Result<Value> {
    let numbers = [rows, options.tokens, options.rounds].map(|number| number.to_string());
    let output = Command::new(std::env::current_exe()?)
        .args([
            "--child",
            way.name(),
            "--rows",
            &numbers[0],
            "--tokens",
            &numbers[1],
            "--rounds",
            &numbers[2],
        ])
        .args(["--threads", &options.threads.to_string(), "--model"])
        .arg(&options.model)
        .output()?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{} at {rows} tokens per row: {}: {told}", way.name(), output.status);
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn seconds(of: &Value, field: &str) -> Vec<f64> {
    of[field].as_array().into_iter().flatten().filter_map(Value::as_f64).collect()
}

fn number(of: &Value, field: &str) -> f64 {
    of[field].as_f64().unwrap_or(f64::NAN)
}

fn read_pytorch(path: &Path) -> anyhow::Result<Value> {
    let text = fs_err::read_to_string(path)?;
    serde_json::from_str(&text).with_context(|| format!("{} is not JSON", path.display()))
}

fn print(value: &Value) -> anyhow::Result<()> {
    use std::io::Write;
    Ok(writeln!(std::io::stdout(), "{value}")?)
}

/// The samples as scripts/bench_train_pytorch.py reads them.
fn write_samples(options: &Options, path: &Path) -> anyhow::Result<()> {
    let vocabulary = Architecture::from_dir(&options.model)?.vocab_size as u32;
    let longest = options.rows.iter().copied().max().unwrap_or(0).max(options.tokens);
    let samples = work::samples(longest / work::SAMPLE_TOKENS, vocabulary)?;
    let of = |sample: &PackedSample| {
        let layout = &sample.layout;
        let positions: Vec<usize> = (0..sample.tokens.len()).map(|t| layout.position(t)).collect();
        let seen: Vec<_> =
            (0..sample.tokens.len()).map(|q| layout.visible(q).map(|run| [run.start, run.end])).collect();
        json!({
            "tokens": sample.tokens,
            "positions": positions,
            "seen": seen,
            "ar": sample.ar.iter().map(|target| (target.row, target.token)).collect::<Vec<_>>(),
            "pc": sample.pc.iter().map(|pair| (pair.student, pair.teacher)).collect::<Vec<_>>(),
        })
    };
    let json = json!({ "sample_tokens": work::SAMPLE_TOKENS, "samples": samples.iter().map(of).collect::<Vec<_>>() });
    if let Some(folder) = path.parent() {
        fs_err::create_dir_all(folder)?;
    }
    Ok(fs_err::write(path, json.to_string())?)
}
