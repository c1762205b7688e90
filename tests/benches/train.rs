//! The training benchmark, on a real model: our passes beside the plain ones, the matrix products alone, and PyTorch with
//! transformers. `scripts/bench-train.sh` sets it up and runs it. Each way is measured in a process of its own.

mod arguments;
#[path = "training/cost.rs"]
mod cost;
#[path = "training/measure.rs"]
mod measure;
#[path = "training/measured.rs"]
mod measured;
#[path = "training/options.rs"]
mod options;
#[path = "../oracle.rs"]
mod oracle;
mod sheet;
#[path = "training/work.rs"]
mod work;

use std::{path::Path, process::Command};

use anyhow::ensure;
use jacobi_model::{Architecture, dtype_name, environment};
use serde_json::{Value, json};

use cost::Line;
use measure::Way;
use measured::Measured;
use options::Options;
use sheet::{Bound, Sheet, instructions, median};

const GIGABYTE: f64 = 1e9;

/// From this many tokens per row on, the bars of long rows hold.
const LONG_ROWS: usize = 8192;

fn main() -> anyhow::Result<()> {
    let options = Options::read()?;
    jacobi_torch_ext::set_threads(options.threads);
    if let Some(way) = &options.child {
        let measured = measure::child(&options, Way::parse(way)?, options.rows[0])?;
        return print(&measured);
    }
    if let Some(path) = &options.samples {
        return write_samples(&options, path);
    }
    let theirs = options.pytorch.as_deref().map(measured::read).transpose()?;
    let settings = json!({
        "model": options.model.display().to_string(),
        "tokens": options.tokens,
        "threads": options.threads,
        "dtype": options.dtype,
        "instructions": instructions(),
    });
    let mut measured = Measured::open(options.measured.as_deref(), &settings)?;
    let mut sheet = Sheet::default();
    let mut rows = Vec::new();
    for &tokens in &options.rows {
        let mut of = |way: Way| measured.of(tokens, way.name(), || run_child(&options, way, tokens));
        let [oracle, fast, again, adapter, on_policy] = Way::ALL.map(&mut of);
        let theirs = theirs.as_ref().and_then(|theirs| theirs["rows"].get(tokens.to_string())).cloned();
        let (adapter, on_policy) = (adapter?, on_policy?);
        rows.push(Row { tokens, oracle: oracle?, fast: fast?, again: again?, adapter, on_policy, theirs });
    }
    for row in &rows {
        row.tell(&mut sheet);
    }
    if let [first, .., last] = &rows[..] {
        let ratio = Row::seconds_per_token(&last.fast) / Row::seconds_per_token(&first.fast);
        sheet.bar("fast: seconds per token, longest rows / shortest", ratio, Bound::AtMost(1.1));
        cost::draw(&options.output.with_extension("svg"), &lines(&rows))?;
    }
    let mut environment = environment();
    environment["settings"] = settings;
    if let Some(theirs) = &theirs {
        environment["pytorch"] = theirs["versions"].clone();
    }
    sheet.print()?;
    sheet.write(&options.output, &options.command, &environment)
}

/// What was measured at one size of row.
struct Row {
    tokens: usize,
    oracle: Value,
    fast: Value,
    again: Value,
    adapter: Value,
    on_policy: Value,
    theirs: Option<Value>,
}

impl Row {
    fn seconds_per_token(of: &Value) -> f64 {
        median(&seconds(of, "seconds")) / number(of, "tokens")
    }

    fn tell(&self, sheet: &mut Sheet) {
        let Self { tokens: rows, oracle, fast, again, adapter, on_policy, .. } = self;
        let plain = self.speed(sheet, "dense mask, autograd", oracle);
        let ours = self.speed(sheet, "fast", fast);
        let frugal = self.speed(sheet, "fast, recomputing", again);
        let drafting = self.speed(sheet, "adapter", adapter);
        self.speed(sheet, "adapter, on-policy", on_policy);
        let floor = median(&seconds(fast, "floor_seconds"));
        let share = floor / median(&seconds(fast, "seconds"));
        sheet.figure(format!("{rows}: matrix products alone"), "s", floor);
        sheet.figure(format!("{rows}: fast / dense mask, autograd"), "x", ours / plain);
        sheet.bar(format!("{rows}: matrix products' share of the fast step"), share, Bound::AtLeast(0.6));
        sheet.bar(format!("{rows}: recomputing / fast"), frugal / ours, Bound::AtLeast(0.72));
        sheet.bar(format!("{rows}: samples/s, adapter / fast"), drafting / ours, Bound::AtLeast(2.0));
        self.tell_memory(sheet);
        if let Some(theirs) = &self.theirs {
            let pytorch = self.speed(sheet, "PyTorch, transformers", theirs);
            sheet.figure(
                format!("{rows}: PyTorch: peak memory"),
                "GB",
                number(theirs, "peak_bytes") / GIGABYTE,
            );
            let bound = if *rows >= LONG_ROWS { 2.5 } else { 1.4 };
            sheet.bar(format!("{rows}: fast / PyTorch"), ours / pytorch, Bound::AtLeast(bound));
        }
    }

    fn speed(&self, sheet: &mut Sheet, name: &str, of: &Value) -> f64 {
        let tokens = number(of, "tokens");
        let speeds: Vec<f64> = seconds(of, "seconds").iter().map(|seconds| tokens / seconds).collect();
        sheet.samples(format!("{}: {name}", self.tokens), "tokens/s", &speeds)
    }

    fn tell_memory(&self, sheet: &mut Sheet) {
        let Self { tokens: rows, oracle, fast, again, adapter, on_policy, .. } = self;
        let activations = |of: &Value| number(of, "peak_bytes") - number(of, "settled_bytes");
        for (name, of) in [
            ("dense mask, autograd", oracle),
            ("fast", fast),
            ("fast, recomputing", again),
            ("adapter", adapter),
            ("adapter, on-policy", on_policy),
        ] {
            sheet.figure(format!("{rows}: {name}: peak memory"), "GB", number(of, "peak_bytes") / GIGABYTE);
            sheet.figure(format!("{rows}: {name}: of it for activations"), "GB", activations(of) / GIGABYTE);
        }
        let outlives = number(adapter, "settled_bytes") / number(fast, "settled_bytes");
        let what = format!("{rows}: memory that outlives a step, adapter / fast");
        sheet.bar(what, outlives, Bound::AtMost(0.45));
        for (name, of) in [
            ("fast", fast),
            ("fast, recomputing", again),
            ("adapter", adapter),
            ("adapter, on-policy", on_policy),
        ] {
            let ratio = number(of, "predicted_bytes") / number(of, "peak_bytes");
            sheet.bar(format!("{rows}: {name}: predicted / measured peak, above"), ratio, Bound::AtMost(1.1));
            sheet.bar(
                format!("{rows}: {name}: predicted / measured peak, below"),
                ratio,
                Bound::AtLeast(0.9),
            );
        }
        if *rows >= LONG_ROWS {
            let saved = activations(again) / activations(oracle);
            sheet.bar(format!("{rows}: activations, recomputing / plain"), saved, Bound::AtMost(0.25));
        }
    }
}

/// What a row of each size costs, each way.
fn lines(rows: &[Row]) -> Vec<Line> {
    let line = |name, of: fn(&Row) -> Option<&Value>| {
        let point =
            |row: &Row| Some((row.tokens as f64, Row::seconds_per_token(of(row)?) * row.tokens as f64));
        Line { name, points: rows.iter().filter_map(point).collect() }
    };
    vec![
        line("fast", |row| Some(&row.fast)),
        line("fast, recomputing", |row| Some(&row.again)),
        line("adapter", |row| Some(&row.adapter)),
        line("dense mask, autograd", |row| Some(&row.oracle)),
        line("PyTorch, transformers", |row| row.theirs.as_ref()),
    ]
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
        .args(["--dtype", dtype_name(options.dtype.resolve(None))])
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

fn print(value: &Value) -> anyhow::Result<()> {
    use std::io::Write;
    Ok(writeln!(std::io::stdout(), "{value}")?)
}

/// The samples as scripts/bench_train_pytorch.py reads them.
fn write_samples(options: &Options, path: &Path) -> anyhow::Result<()> {
    let vocabulary = Architecture::from_dir(&options.model)?.vocab_size as u32;
    let longest = options.rows.iter().copied().max().unwrap_or(0).max(options.tokens);
    let json = work::as_json(&work::samples(longest / work::SAMPLE_TOKENS, vocabulary)?);
    if let Some(folder) = path.parent() {
        fs_err::create_dir_all(folder)?;
    }
    Ok(fs_err::write(path, json.to_string())?)
}
