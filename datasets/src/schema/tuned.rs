//! The results of tuning: `jacobi.json` in a model's directory (schema [`TUNED_SCHEMA`]), the best decoder
//! for it on a machine, and `tune.json` (schema [`TRIALS_SCHEMA`]), everything that was tried.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::schema::eval_row::decoder_label;

/// The file in a model's directory.
pub const TUNED_FILE: &str = "jacobi.json";

/// The `schema` field of `jacobi.json`.
pub const TUNED_SCHEMA: &str = "jacobi-tune/1";

/// The `schema` field of `tune.json`.
pub const TRIALS_SCHEMA: &str = "jacobi-trials/1";

/// The figure that tuning maximises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Objective {
    /// Tokens per second of decoding.
    #[default]
    Tps,
    /// Tokens per forward pass.
    Tpf,
}

/// A decoder measured on some prompts. A figure that was not measured is `None` and `null` in JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// Name and settings by their keys in `[[eval.decoders]]`: a `DecoderConfig` of the decoder crate, which
    /// this crate does not see.
    pub decoder: Map<String, Value>,
    /// Whether these are the decoder's defaults, or the autoregressive baseline.
    pub is_default: bool,
    /// Prompts decoded, from the start of the file.
    pub prompts: usize,
    /// Tokens of decode forwards.
    pub tokens: usize,
    /// Decode forwards.
    pub forwards: usize,
    /// Rows fed to them.
    pub rows: usize,
    /// Seconds of decode forwards, with drafting and verifying.
    pub decode_seconds: f64,
    /// `tokens` / `forwards`.
    pub tpf: Option<f64>,
    /// `tokens` / `decode_seconds`.
    pub tps: Option<f64>,
    /// `tps` divided by that of autoregressive decoding on the same prompts.
    pub speedup_over_ar: Option<f64>,
}

impl Trial {
    /// Name of the decoder.
    pub fn name(&self) -> &str {
        self.decoder.get("name").and_then(Value::as_str).unwrap_or_default()
    }

    /// The decoder with its settings, for tables: `multi_block n=16 K=2 pool=4 r=0.85`.
    pub fn label(&self) -> String {
        let label = decoder_label(self.name(), &self.decoder);
        self.setting("spawn_ratio").map_or(label.clone(), |ratio| format!("{label} r={ratio}"))
    }

    /// A setting that is a number.
    pub fn setting(&self, name: &str) -> Option<f64> {
        self.decoder.get(name).and_then(Value::as_f64)
    }

    /// Mean rows of a forward.
    pub fn rows_per_forward(&self) -> Option<f64> {
        (self.forwards > 0).then(|| self.rows as f64 / self.forwards as f64)
    }

    /// The figure to compare by, which depends little on the prompts tried: TPF, or the speedup.
    pub fn score(&self, objective: Objective) -> Option<f64> {
        match objective {
            Objective::Tps => self.speedup_over_ar,
            Objective::Tpf => self.tpf,
        }
    }
}

/// Seconds of forward passes by their width.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Cached tokens before the measured rows.
    pub cached: usize,
    /// The largest width that costs little more than one row.
    pub knee: usize,
    /// Ascending, from one row on.
    pub widths: Vec<WidthLatency>,
}

/// A forward pass of some width.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct WidthLatency {
    /// Rows fed.
    pub rows: usize,
    /// Seconds, the median of several passes.
    pub seconds: f64,
}

/// The content of `tune.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trials {
    /// [`TRIALS_SCHEMA`].
    pub schema: String,
    /// The maximised figure.
    pub objective: Objective,
    /// Dtype the weights were computed in.
    pub dtype: String,
    /// Every decoder tried, best first.
    pub trials: Vec<Trial>,
    /// Forward passes by width.
    pub latency: Latency,
    /// The command line of the tuning.
    pub command: String,
    /// Versions, device, threads.
    pub environment: Map<String, Value>,
}

impl Trials {
    /// The content of `jacobi.json`; `None` if nothing was tried.
    pub fn best(&self) -> Option<Tuned> {
        Some(Tuned {
            schema: TUNED_SCHEMA.to_owned(),
            best: self.trials.first()?.clone(),
            objective: self.objective,
            dtype: self.dtype.clone(),
            latency: self.latency.clone(),
            command: self.command.clone(),
            environment: self.environment.clone(),
        })
    }
}

/// The content of `jacobi.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tuned {
    /// [`TUNED_SCHEMA`].
    pub schema: String,
    /// The decoder and its figures.
    #[serde(flatten)]
    pub best: Trial,
    /// The maximised figure.
    pub objective: Objective,
    /// Dtype the weights were computed in.
    pub dtype: String,
    /// Forward passes by width.
    pub latency: Latency,
    /// The command line of the tuning.
    pub command: String,
    /// Versions, device, threads.
    pub environment: Map<String, Value>,
}

#[cfg(test)]
mod tests;
