//! The results of tuning: `jacobi.json` in a model's directory (schema [`TUNED_SCHEMA`]), the best decoder
//! for it on a machine, and `tune.json` (schema [`TRIALS_SCHEMA`]), everything that was tried.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::schema::eval_row::{AUTOREGRESSIVE, ModelRole, decoder_label};

/// The file in a model's directory.
pub const TUNED_FILE: &str = "jacobi.json";

/// The `schema` field of `jacobi.json`.
pub const TUNED_SCHEMA: &str = "jacobi-tune/1";

/// The file with everything that was tried.
pub const TRIALS_FILE: &str = "tune.json";

/// The `schema` field of `tune.json`.
pub const TRIALS_SCHEMA: &str = "jacobi-trials/1";

/// Prompts that a race needs before its result may be that no decoder beats `ar`.
pub const DECIDING_PROMPTS: usize = 20;

/// The figure that tuning maximises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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

    /// Whether this is the autoregressive baseline.
    pub fn is_autoregressive(&self) -> bool {
        self.name() == AUTOREGRESSIVE
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

impl Latency {
    /// The cost of a pass of `rows` rows in passes over one row: linear between measured widths, in proportion beyond
    /// the widest. `None` if nothing was measured.
    pub fn cost(&self, rows: usize) -> Option<f64> {
        let (first, last) = (self.widths.first()?, self.widths.last()?);
        let around = self.widths.windows(2).find(|pair| rows <= pair[1].rows);
        let seconds = match around {
            _ if rows <= first.rows => first.seconds,
            Some(pair) => {
                let share = (rows - pair[0].rows) as f64 / (pair[1].rows - pair[0].rows) as f64;
                pair[0].seconds + share * (pair[1].seconds - pair[0].seconds)
            }
            None => last.seconds * rows as f64 / last.rows as f64,
        };
        Some(seconds / first.seconds)
    }
}

/// A forward pass of some width.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct WidthLatency {
    /// Rows fed.
    pub rows: usize,
    /// Seconds, the median of several passes.
    pub seconds: f64,
}

/// How much was measured before a decoder was chosen.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RaceSummary {
    /// Decoders tried, `ar` included.
    pub decoders: usize,
    /// Prompts that the last of them decoded.
    pub prompts: usize,
    /// Whether these were at least [`DECIDING_PROMPTS`]. Otherwise the result is the fastest decoder so far.
    pub decided: bool,
    /// Whether the time limit ended it.
    pub out_of_time: bool,
    /// Seconds that it took, passes by width included.
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
    /// How much was measured.
    #[serde(default)]
    pub race: RaceSummary,
    /// Forward passes by width.
    pub latency: Latency,
    /// Digest of the model's files.
    #[serde(default)]
    pub model_files: String,
    /// The command line of the tuning.
    pub command: String,
    /// Versions, device, threads.
    pub environment: Map<String, Value>,
}

impl Trials {
    /// The decoder to use: the best one; but `ar` only if enough prompts were decoded to say that nothing beats it,
    /// otherwise the best of the others. `None` if nothing was tried.
    pub fn chosen(&self) -> Option<&Trial> {
        let first = self.trials.first()?;
        let may_win = self.race.decided || !first.is_autoregressive();
        Some(if may_win { first } else { self.best_parallel().unwrap_or(first) })
    }

    /// The best decoder other than `ar`.
    fn best_parallel(&self) -> Option<&Trial> {
        self.trials.iter().find(|trial| !trial.is_autoregressive())
    }

    /// The content of `jacobi.json`; `None` if nothing was tried.
    pub fn best(&self) -> Option<Tuned> {
        let best = self.chosen()?.clone();
        Some(Tuned {
            schema: TUNED_SCHEMA.to_owned(),
            runner_up: self.best_parallel().filter(|_| best.is_autoregressive()).cloned(),
            best,
            objective: self.objective,
            dtype: self.dtype.clone(),
            race: self.race.clone(),
            latency: self.latency.clone(),
            model_files: self.model_files.clone(),
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
    /// How much was measured.
    #[serde(default)]
    pub race: RaceSummary,
    /// The best other decoder, if `decoder` is `ar`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runner_up: Option<Trial>,
    /// Forward passes by width. Empty if the decoder is not from tuning.
    pub latency: Latency,
    /// Digest of the model's files; empty if the decoder is not from tuning.
    #[serde(default)]
    pub model_files: String,
    /// The command line of the tuning.
    pub command: String,
    /// Versions, device, threads.
    pub environment: Map<String, Value>,
}

impl Tuned {
    /// Whether the decoder is from tuning; otherwise it is a default or the fastest one of an evaluation.
    pub fn is_from_tuning(&self) -> bool {
        !self.latency.widths.is_empty()
    }
}

/// A model with the decoder that tuning chose for it, in `results.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TunedModel {
    /// Name of the model.
    pub model: String,
    /// Before or after training.
    pub model_role: ModelRole,
    /// The content of its `jacobi.json`.
    pub tuned: Tuned,
}

#[cfg(test)]
mod tests;
