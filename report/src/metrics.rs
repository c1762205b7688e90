//! Training curves read from `metrics.jsonl`, one JSON object per logged step or evaluation.

use std::path::Path;

use jacobi_datasets::DatasetError;
use serde_json::{Map, Value};

use crate::ReportError;
use crate::text::number;

/// One logged step. A figure that was not logged is `None`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrainingPoint {
    /// Optimizer step, from 1.
    pub step: u64,
    /// Total loss, `train/loss`.
    pub loss: Option<f64>,
    /// Autoregressive part, `train/loss_ar`.
    pub loss_ar: Option<f64>,
    /// Consistency part, `train/loss_pc`.
    pub loss_pc: Option<f64>,
    /// `train/tokens_per_second`.
    pub tokens_per_second: Option<f64>,
}

/// An evaluation during training, on held-out prompts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EvaluationPoint {
    /// Optimizer steps so far; 0 for the initial model.
    pub step: u64,
    /// Accepted tokens per forward pass, `eval/tpf`.
    pub tpf: f64,
    /// `eval/exact_match_ar`.
    pub exact_match_ar: Option<f64>,
    /// `eval/loss_ar`.
    pub loss_ar: Option<f64>,
}

/// The log of one training run.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainingCurve {
    /// Its name, e.g. `round-1`.
    pub label: String,
    /// Samples per optimizer step.
    pub samples_per_step: usize,
    /// Steps in the order logged.
    pub points: Vec<TrainingPoint>,
    /// Evaluations in the order logged.
    pub evaluations: Vec<EvaluationPoint>,
    /// Seconds over all sittings with evaluations; if logged.
    pub seconds: Option<f64>,
}

impl TrainingCurve {
    /// Reads `metrics.jsonl` of a run with `samples_per_step` samples per step. A last line without newline
    /// is an incomplete write and is ignored; steps logged again after a resume replace the earlier ones.
    ///
    /// # Errors
    /// The file cannot be read, or a line is not a JSON object.
    pub fn read(label: &str, path: &Path, samples_per_step: usize) -> Result<Self, ReportError> {
        let text = fs_err::read_to_string(path).map_err(DatasetError::io("read", path))?;
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let (mut points, mut evaluations, mut clock) = (Vec::new(), Vec::new(), Clock::default());
        for (index, line) in whole.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let line = serde_json::from_str(line).map(Logged).map_err(|source| ReportError::MetricsLine {
                path: path.to_owned(),
                line: index + 1,
                source,
            })?;
            clock.tick(&line);
            replace(&mut points, line.step(), |point: &TrainingPoint| point.step);
            replace(&mut evaluations, line.evaluation(), |point: &EvaluationPoint| point.step);
        }
        Ok(Self { label: label.to_owned(), samples_per_step, points, evaluations, seconds: clock.seconds })
    }

    /// Samples in this many steps; repeated samples count again.
    pub(crate) fn samples(&self, steps: u64) -> u64 {
        steps * self.samples_per_step as u64
    }

    fn last_step(&self) -> Option<u64> {
        self.points.last().map(|last| last.step)
    }

    /// `round-1: 240 steps, 1920 samples, 3.2 h`.
    pub(crate) fn cost(&self) -> String {
        let Some(last) = self.last_step() else { return format!("{}: no steps logged", self.label) };
        let time = self.seconds.map_or_else(String::new, |seconds| format!(", {}", duration(seconds)));
        format!("{}: {last} steps, {} samples{time}", self.label, self.samples(last))
    }

    /// [`TrainingCurve::cost`], and
    /// `, loss 2.31 to 1.02 (autoregressive 0.30 to 0.21, consistency 2.01 to 0.81), 512 tokens/s, TPF 1.08 to 1.83`.
    /// The ends of a loss are means over a tenth of the steps, because single steps are noisy.
    pub(crate) fn summary(&self) -> String {
        let mut text = self.cost();
        let ends = |get: fn(&TrainingPoint) -> Option<f64>| {
            let values: Vec<f64> = self.points.iter().filter_map(get).collect();
            let tenth = values.len().div_ceil(10);
            (!values.is_empty()).then(|| (mean(&values[..tenth]), mean(&values[values.len() - tenth..])))
        };
        let describe = |name: &str, ends: Option<(f64, f64)>| {
            ends.map(|(first, last)| format!("{name} {} to {}", number(Some(first)), number(Some(last))))
        };
        if let Some(whole) = describe("loss", ends(|p| p.loss)) {
            text += &format!(", {whole}");
        }
        let parts =
            [describe("autoregressive", ends(|p| p.loss_ar)), describe("consistency", ends(|p| p.loss_pc))];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        if !parts.is_empty() {
            text += &format!(" ({})", parts.join(", "));
        }
        let speeds: Vec<f64> = self.points.iter().filter_map(|p| p.tokens_per_second).collect();
        if !speeds.is_empty() {
            text += &format!(", {} tokens/s", number(Some(mean(&speeds))));
        }
        let evaluated = self.evaluations.first().zip(self.evaluations.last());
        if let Some(tpf) = describe("TPF", evaluated.map(|(first, last)| (first.tpf, last.tpf))) {
            text += &format!(", {tpf}");
        }
        text
    }
}

/// Appends the point of a line, and drops all points from its step on.
fn replace<T>(points: &mut Vec<T>, point: Option<T>, step: fn(&T) -> u64) {
    if let Some(point) = point {
        points.retain(|earlier| step(earlier) < step(&point));
        points.push(point);
    }
}

/// A line of metrics.
struct Logged(Map<String, Value>);

impl Logged {
    fn figure(&self, name: &str) -> Option<f64> {
        self.0.get(name).and_then(Value::as_f64)
    }

    fn at(&self) -> Option<u64> {
        self.0.get("step").and_then(Value::as_u64)
    }

    /// `None` for a line without training figures.
    fn step(&self) -> Option<TrainingPoint> {
        self.0.keys().find(|key| key.starts_with("train/"))?;
        Some(TrainingPoint {
            step: self.at()?,
            loss: self.figure("train/loss"),
            loss_ar: self.figure("train/loss_ar"),
            loss_pc: self.figure("train/loss_pc"),
            tokens_per_second: self.figure("train/tokens_per_second"),
        })
    }

    fn evaluation(&self) -> Option<EvaluationPoint> {
        Some(EvaluationPoint {
            step: self.at()?,
            tpf: self.figure("eval/tpf")?,
            exact_match_ar: self.figure("eval/exact_match_ar"),
            loss_ar: self.figure("eval/loss_ar"),
        })
    }
}

/// Sums the time of all sittings. `seconds` of a line counts from the start of its sitting, so a decrease
/// means a new sitting.
#[derive(Default)]
struct Clock {
    sitting: f64,
    seconds: Option<f64>,
}

impl Clock {
    fn tick(&mut self, line: &Logged) {
        if let Some(now) = line.figure("seconds") {
            let since = if now >= self.sitting { now - self.sitting } else { now };
            self.seconds = Some(self.seconds.unwrap_or(0.0) + since);
            self.sitting = now;
        }
    }
}

/// `42 s`, `12 min`, `3.2 h`.
fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

#[cfg(test)]
mod tests;
