//! What tuning finds: `jacobi.json` beside a model (schema [`TUNED_SCHEMA`]), the decoder that was best for it on a
//! machine, and `tune.json` (schema [`TRIALS_SCHEMA`]), everything that was tried on the way.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::schema::eval_row::decoder_label;

/// The file beside a model.
pub const TUNED_FILE: &str = "jacobi.json";

/// The `schema` field of `jacobi.json`.
pub const TUNED_SCHEMA: &str = "jacobi-tune/1";

/// The `schema` field of `tune.json`.
pub const TRIALS_SCHEMA: &str = "jacobi-trials/1";

/// What tuning maximises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Objective {
    /// Tokens per second of decoding.
    #[default]
    Tps,
    /// Tokens per forward pass.
    Tpf,
}

/// A decoder on some prompts. A figure that was not measured is `None` and `null` in JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// Name and settings by their keys in `[[eval.decoders]]`: a `DecoderConfig` of the decoder crate, which this crate does
    /// not see.
    pub decoder: Map<String, Value>,
    /// Whether these are the decoder's own defaults, or the autoregressive baseline.
    pub is_default: bool,
    /// Prompts decoded, the first ones of the file.
    pub prompts: usize,
    /// Tokens that decode forwards made.
    pub tokens: usize,
    /// Decode forwards.
    pub forwards: usize,
    /// Rows fed to them.
    pub rows: usize,
    /// Seconds they took, with drafting and verifying.
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

    /// How good it is, in a figure that does not depend on which prompts it was tried on: TPF, or the speedup.
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
    /// Cached tokens behind which was measured.
    pub cached: usize,
    /// The largest width that costs little more than one row.
    pub knee: usize,
    /// Narrowest first, from one row on.
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
    /// What was maximised.
    pub objective: Objective,
    /// Dtype the weights were computed in.
    pub dtype: String,
    /// Every decoder tried, best first.
    pub trials: Vec<Trial>,
    /// Forward passes by width.
    pub latency: Latency,
    /// The command line that made it.
    pub command: String,
    /// Versions, device, threads.
    pub environment: Map<String, Value>,
}

impl Trials {
    /// The content of `jacobi.json`; none if nothing was tried.
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
    /// What was maximised.
    pub objective: Objective,
    /// Dtype the weights were computed in.
    pub dtype: String,
    /// Forward passes by width.
    pub latency: Latency,
    /// The command line that made it.
    pub command: String,
    /// Versions, device, threads.
    pub environment: Map<String, Value>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn trials() -> Trials {
        let trials = json!({
            "schema": TRIALS_SCHEMA, "objective": "tpf", "dtype": "float32",
            "trials": [{
                "decoder": {"name": "multi_block", "block_size": 8, "max_blocks": 2, "spawn_ratio": 0.5, "filler": "ngram",
                    "pool_size": 0, "tree_budget": 16},
                "is_default": false, "prompts": 3, "tokens": 60, "forwards": 20, "rows": 200, "decode_seconds": 0.5,
                "tpf": 3.0, "tps": 120.0, "speedup_over_ar": null
            }],
            "latency": {"cached": 40, "knee": 2, "widths": [{"rows": 1, "seconds": 0.5}, {"rows": 2, "seconds": 0.625}]},
            "command": "jacobi tune", "environment": {"cpu": "x"}
        });
        serde_json::from_value(trials).unwrap()
    }

    #[test]
    fn both_files_round_trip_and_the_best_stands_at_the_top() {
        let trials = trials();
        let text = serde_json::to_string(&trials).unwrap();
        assert_eq!(serde_json::from_str::<Trials>(&text).unwrap(), trials);
        let tuned = trials.best().unwrap();
        let text = serde_json::to_string(&tuned).unwrap();
        assert!(
            text.starts_with(r#"{"schema":"jacobi-tune/1","decoder":{"name":"multi_block","block_size":8,"#)
        );
        assert_eq!(serde_json::from_str::<Tuned>(&text).unwrap(), tuned);
        assert_eq!(Trials { trials: vec![], ..trials }.best(), None);
    }

    #[test]
    fn a_trial_says_what_it_is() {
        let trial = &trials().trials[0];
        assert_eq!(trial.label(), "multi_block n=8 K=2 tree=16 ngram r=0.5");
        assert_eq!(trial.rows_per_forward(), Some(10.0));
        assert_eq!((trial.score(Objective::Tpf), trial.score(Objective::Tps)), (Some(3.0), None));
    }
}
