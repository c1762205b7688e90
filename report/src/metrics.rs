//! Training curves read from `metrics.jsonl`, one JSON object per logged step.

use std::path::Path;

use serde_json::{Map, Value};

use crate::ReportError;
use crate::text::number;

/// One logged step. A figure that the step did not log is `None`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrainingPoint {
    /// Optimizer step, from 1.
    pub step: u64,
    /// Whole loss, `train/loss`.
    pub loss: Option<f64>,
    /// Autoregressive part, `train/loss_ar`.
    pub loss_ar: Option<f64>,
    /// Consistency part, `train/loss_pc`.
    pub loss_pc: Option<f64>,
    /// `train/tokens_per_second`.
    pub tokens_per_second: Option<f64>,
}

/// The logged steps of one training run.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainingCurve {
    /// What to call it: `round-1`.
    pub label: String,
    /// Points in the order logged.
    pub points: Vec<TrainingPoint>,
}

impl TrainingCurve {
    /// Reads `metrics.jsonl`. A last line without its newline is a write cut short, and is left out; steps
    /// logged again after a resume replace those of the first attempt.
    ///
    /// # Errors
    /// The file cannot be read, or a line is not a JSON object.
    pub fn read(label: &str, path: &Path) -> Result<Self, ReportError> {
        let text = fs_err::read_to_string(path)
            .map_err(|source| ReportError::ReadMetrics { path: path.to_owned(), source })?;
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let mut points: Vec<TrainingPoint> = Vec::new();
        for (index, line) in whole.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let object: Map<String, Value> = serde_json::from_str(line).map_err(|source| {
                ReportError::MetricsLine { path: path.to_owned(), line: index + 1, source }
            })?;
            if let Some(point) = TrainingPoint::of(&object) {
                while points.last().is_some_and(|last| last.step >= point.step) {
                    points.pop();
                }
                points.push(point);
            }
        }
        Ok(Self { label: label.to_owned(), points })
    }

    /// `round-1: 240 steps, loss 2.31 to 1.02 (autoregressive 0.30 to 0.21, consistency 2.01 to 0.81), 512 tokens/s`.
    /// Ends of a curve are means over a tenth of it, because single steps are noisy.
    pub(crate) fn summary(&self) -> String {
        let Some(last) = self.points.last() else { return format!("{}: no steps logged", self.label) };
        let ends = |get: fn(&TrainingPoint) -> Option<f64>| {
            let values: Vec<f64> = self.points.iter().filter_map(get).collect();
            let tenth = values.len().div_ceil(10);
            (!values.is_empty()).then(|| (mean(&values[..tenth]), mean(&values[values.len() - tenth..])))
        };
        let describe = |name: &str, ends: Option<(f64, f64)>| {
            ends.map(|(first, last)| format!("{name} {} to {}", number(Some(first)), number(Some(last))))
        };
        let mut text = format!("{}: {} steps", self.label, last.step);
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
        text
    }
}

impl TrainingPoint {
    /// `None` for a line that tells of no step, but of an evaluation.
    fn of(object: &Map<String, Value>) -> Option<Self> {
        object.keys().find(|key| key.starts_with("train/"))?;
        let figure = |name: &str| object.get(name).and_then(Value::as_f64);
        Some(Self {
            step: object.get("step")?.as_u64()?,
            loss: figure("train/loss"),
            loss_ar: figure("train/loss_ar"),
            loss_pc: figure("train/loss_pc"),
            tokens_per_second: figure("train/tokens_per_second"),
        })
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<TrainingCurve, ReportError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        fs_err::write(&path, text).unwrap();
        TrainingCurve::read("round-1", &path)
    }

    #[test]
    fn reads_and_sums_up() {
        let curve = read(concat!(
            "{\"step\": 1, \"train/loss\": 4.0, \"train/loss_ar\": 1.0, \"train/tokens_per_second\": 100}\n",
            "{\"step\": 2, \"train/loss\": 9.0, \"train/tokens_per_second\": 200}\n",
            "{\"step\": 2, \"train/loss\": 2.0, \"train/tokens_per_second\": 300}\n",
            "{\"note\": \"no step\"}\n",
            "{\"step\": 2, \"eval/tpf\": 1.5}\n",
            "{\"step\": 3, \"train/l"
        ))
        .unwrap();
        assert_eq!(curve.points.len(), 2);
        assert_eq!(
            curve.summary(),
            "round-1: 2 steps, loss 4.00 to 2.00 (autoregressive 1.00 to 1.00), 200.0 tokens/s"
        );
        assert_eq!(read("").unwrap().summary(), "round-1: no steps logged");
    }

    #[test]
    fn a_bad_line_is_named() {
        let message = read("{\"step\": 1}\noops\n").unwrap_err().to_string();
        assert!(message.contains("metrics.jsonl:2:"), "{message}");
    }
}
