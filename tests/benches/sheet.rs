//! What a benchmark measured: rows and bars, as an aligned table and as a file of the schema `jacobi-bench/1`.

use std::{
    io::{self, Write},
    path::Path,
};

use serde_json::{Value, json};

/// A measured figure.
struct Row {
    name: String,
    value: f64,
    unit: &'static str,
    /// Least and greatest of the rounds.
    spread: Option<(f64, f64)>,
}

/// A figure that is held against a bound.
struct Bar {
    name: String,
    value: f64,
    bound: f64,
    at_least: bool,
}

/// Which side of its bound a figure should be on.
pub enum Bound {
    /// Not below.
    AtLeast(f64),
    /// Not above.
    AtMost(f64),
}

/// Rows and bars in the order in which they were measured.
#[derive(Default)]
pub struct Sheet {
    rows: Vec<Row>,
    bars: Vec<Bar>,
}

/// The middle one; of an even number the mean of the middle two.
pub fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    (sorted[(sorted.len() - 1) / 2] + sorted[half]) / 2.0
}

/// The instructions that libtorch and our kernels are limited to.
pub fn instructions() -> String {
    std::env::var("ATEN_CPU_CAPABILITY").unwrap_or_else(|_| "native".to_owned())
}

impl Sheet {
    /// Adds the median of `samples`, one per round, with their spread, and returns it.
    pub fn samples(&mut self, name: impl Into<String>, unit: &'static str, samples: &[f64]) -> f64 {
        let value = median(samples);
        let least = samples.iter().copied().fold(f64::INFINITY, f64::min);
        let greatest = samples.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        self.rows.push(Row { name: name.into(), value, unit, spread: Some((least, greatest)) });
        value
    }

    /// Adds a figure that does not vary, or follows from others.
    pub fn figure(&mut self, name: impl Into<String>, unit: &'static str, value: f64) -> f64 {
        self.rows.push(Row { name: name.into(), value, unit, spread: None });
        value
    }

    /// Holds a figure against its bound.
    pub fn bar(&mut self, name: impl Into<String>, value: f64, bound: Bound) {
        let (bound, at_least) = match bound {
            Bound::AtLeast(bound) => (bound, true),
            Bound::AtMost(bound) => (bound, false),
        };
        self.bars.push(Bar { name: name.into(), value, bound, at_least });
    }

    /// Prints rows, then bars.
    pub fn print(&self) -> io::Result<()> {
        let spread = |row: &Row| match row.spread {
            Some((least, greatest)) => format!("{}..{}", digits(least), digits(greatest)),
            None => String::new(),
        };
        let head = ["figure", "median", "unit", "spread"].map(str::to_owned);
        let rows =
            self.rows.iter().map(|row| [row.name.clone(), digits(row.value), row.unit.into(), spread(row)]);
        let mut out = io::stdout().lock();
        print_table(&mut out, head, rows.collect())?;
        writeln!(out)?;
        let head = ["bar", "measured", "bound", ""].map(str::to_owned);
        let bars = self.bars.iter().map(|bar| {
            let sign = if bar.at_least { ">=" } else { "<=" };
            let verdict = if bar.is_met() { "met" } else { "MISSED" };
            [bar.name.clone(), digits(bar.value), format!("{sign} {}", bar.bound), verdict.into()]
        });
        print_table(&mut out, head, bars.collect())
    }

    /// Writes the file whole or not at all, and its directory before.
    pub fn write(&self, path: &Path, command: &str, environment: &Value) -> anyhow::Result<()> {
        let row = |row: &Row| {
            let spread = row.spread.map(|(least, greatest)| [least, greatest]);
            json!({ "name": row.name, "value": row.value, "unit": row.unit, "spread": spread })
        };
        let bar = |bar: &Bar| json!({ "name": bar.name, "value": bar.value, "bound": bar.bound, "at_least": bar.at_least });
        let sheet = json!({
            "schema": "jacobi-bench/1",
            "command": command,
            "instructions": instructions(),
            "environment": environment,
            "rows": self.rows.iter().map(row).collect::<Vec<_>>(),
            "bars": self.bars.iter().map(bar).collect::<Vec<_>>(),
        });
        if let Some(folder) = path.parent() {
            fs_err::create_dir_all(folder)?;
        }
        jacobi_datasets::atomic::write_atomic(path, |out| writeln!(out, "{sheet:#}"))?;
        Ok(())
    }
}

impl Bar {
    fn is_met(&self) -> bool {
        if self.at_least { self.value >= self.bound } else { self.value <= self.bound }
    }
}

/// As many digits as a measurement is good for.
fn digits(value: f64) -> String {
    match value.abs() {
        size if size >= 1000.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

/// Names to the left, numbers to the right, the last two columns to the left.
fn print_table(out: &mut impl Write, head: [String; 4], rows: Vec<[String; 4]>) -> io::Result<()> {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([head[column].chars().count()]).max().unwrap_or(0)
    };
    let [name, value, unit] = [0, 1, 2].map(width);
    for row in [&head].into_iter().chain(&rows) {
        let line = format!("{:name$}  {:>value$}  {:unit$}  {}", row[0], row[1], row[2], row[3]);
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}
