//! One row of an evaluation: a model under a decoder on a task. The serde types of `results.json`
//! (schema [`RESULTS_SCHEMA`]) and `samples.jsonl`, written by the evaluator and read by the report.
//! They hold figures and text only; what a figure means is said at its field.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::schema::eval_statistics::{MemoryFloor, PairedTest, PerPrompt};
use crate::schema::trajectory::FinishReason;
use crate::settings::RecordedSettings;

/// The `schema` field of `results.json`.
pub const RESULTS_SCHEMA: &str = "jacobi-eval/1";

/// The `decoder` of the autoregressive baseline.
pub const AUTOREGRESSIVE: &str = "ar";

/// Whether a model is the one training started from or the one it made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ModelRole {
    /// The model before training.
    #[default]
    Base,
    /// The model after training.
    Trained,
}

impl ModelRole {
    /// The role as `results.json` spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Trained => "trained",
        }
    }
}

/// A 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// The forwards that fed the same number of rows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvalWidth {
    /// Rows fed: one per draft token, branches included.
    pub rows: usize,
    /// How many forwards.
    pub forwards: usize,
    /// Their seconds together, drafting and accepting included.
    pub seconds: f64,
}

/// All samples of one (model, task, decoder). A figure that was not measured is `None` and `null` in JSON.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EvalRow {
    /// Name of the model.
    pub model: String,
    /// Before or after training.
    pub model_role: ModelRole,
    /// Name of the task.
    pub task: String,
    /// Its version, which stands for data, wording, extraction and scoring. `None` where the prompts are a recipe's own.
    #[serde(default)]
    pub task_version: Option<u32>,
    /// Name of the decoder: `ar`, `jacobi`, `multi_block`.
    pub decoder: String,
    /// Settings of the decoder by name, for instance `{"block_size": 16}`.
    pub decoder_settings: Map<String, Value>,
    /// Number of samples, all of them: those that ran into the length limit too.
    pub samples: usize,
    /// Dtype the weights were computed in.
    pub dtype: String,
    /// Tokens per decode forward, micro: `tokens` / `forwards`.
    pub tpf: Option<f64>,
    /// Tokens per second of decoding, micro: `tokens` / `decode_seconds`.
    pub tps: Option<f64>,
    /// `tps` divided by the `tps` of the autoregressive row of the same model in the same run.
    pub speedup_over_ar: Option<f64>,
    /// Share of samples answered correctly, 0 to 1.
    pub accuracy: Option<f64>,
    /// Share of samples whose token ids all equal those of the autoregressive decoder, 0 to 1.
    pub exact_match_ar: Option<f64>,
    /// Samples that leave the autoregressive output, per 1000 response tokens up to and including the point where
    /// they leave (after it the two texts are different prompts, so nothing more can be compared).
    pub divergences_per_1k_tokens: Option<f64>,
    /// Median of the samples' [`EvalSample::divergence_gap`].
    pub divergence_gap_median: Option<f64>,
    /// Largest of them.
    pub divergence_gap_max: Option<f64>,
    /// Mean over samples of each sample's own tokens per forward.
    pub tpf_macro: Option<f64>,
    /// Mean over samples of each sample's own tokens per second.
    pub tps_macro: Option<f64>,
    /// Bootstrap interval of `tpf` over samples.
    pub tpf_interval: Option<Interval>,
    /// Bootstrap interval of `speedup_over_ar`, samples drawn in pairs with their autoregressive run.
    pub speedup_interval: Option<Interval>,
    /// Wilson interval of `accuracy`.
    pub accuracy_interval: Option<Interval>,
    /// Sum of the tokens that decode forwards made: a response's first token comes from the prefill and is not one.
    pub tokens: usize,
    /// Sum of decode forwards.
    pub forwards: usize,
    /// Sum of decode seconds.
    pub decode_seconds: f64,
    /// Sum of prefill seconds.
    pub prefill_seconds: f64,
    /// Number of samples stopped by the length limit.
    pub stopped_by_length: usize,
    /// `acceptance[a]` is the number of forwards that accepted `a` tokens.
    pub acceptance: Vec<usize>,
    /// Draft tokens that were right, by source: `own`, `pseudo`, `recycled`, `tree`; as in `acceptance`, those that a last
    /// forward proved right behind the end of its response count too. Every forward gives one token besides.
    #[serde(default)]
    pub accepted_from: BTreeMap<String, usize>,
    /// Forwards and their seconds by rows fed, ascending.
    #[serde(default)]
    pub widths: Vec<EvalWidth>,
    /// `rejection_ranks[r]`: forwards whose draft was wrong where the forward before had the right token at rank `r`
    /// (0 is what it drafted); the last entry is all from there on. Counted apart, over the first prompts, untimed;
    /// empty where not asked for.
    #[serde(default)]
    pub rejection_ranks: Vec<usize>,
    /// Bootstrap interval of `tps` over samples.
    #[serde(default)]
    pub tps_interval: Option<Interval>,
    /// Response tokens per second of prefill and decoding together, micro.
    #[serde(default)]
    pub tps_end_to_end: Option<f64>,
    /// Prompt tokens per second of prefill, micro.
    #[serde(default)]
    pub prefill_tps: Option<f64>,
    /// What one prompt takes and gives: medians over samples.
    #[serde(default)]
    pub per_prompt: PerPrompt,
    /// Median over the samples that diverge of where they do, as [`EvalSample::first_divergence`].
    #[serde(default)]
    pub first_divergence_median: Option<f64>,
    /// Share of samples that go in circles: a run of at most 64 tokens at least 4 times in a row, 32 tokens or more.
    #[serde(default)]
    pub degenerate: Option<f64>,
    /// How fast one token at a time could be; of the autoregressive row alone.
    #[serde(default)]
    pub memory_floor: Option<MemoryFloor>,
    /// Samples that have no response because something went wrong, [`EvalSample::error`]. They count as wrong answers,
    /// and no figure of speed or fidelity has them.
    #[serde(default)]
    pub failed: usize,
    /// In how many sittings the samples were made: one, and one more each time the evaluation was resumed.
    #[serde(default = "one")]
    pub sittings: usize,
}

fn one() -> usize {
    1
}

impl EvalRow {
    /// Whether this is the baseline that the others are compared with.
    pub fn is_autoregressive(&self) -> bool {
        self.decoder == AUTOREGRESSIVE
    }

    /// How many times as long as the memory floor a token took.
    pub fn over_floor(&self) -> Option<f64> {
        Some(self.memory_floor?.tokens_per_second / self.tps?)
    }

    /// Whether both are of one decoder under the same settings.
    pub fn is_decoded_as(&self, other: &Self) -> bool {
        (&self.decoder, &self.decoder_settings) == (&other.decoder, &other.decoder_settings)
    }

    /// Whether some sample left the autoregressive output, or numbers are rounded so that one could have.
    pub fn may_diverge(&self) -> bool {
        self.exact_match_ar.is_some_and(|share| share < 1.0 || self.dtype != "float32")
    }

    /// The decoder with its main settings, for tables: `ar`, `jacobi n=16`, `multi_block n=16 K=2 pool=4 ngram strict`.
    pub fn decoder_label(&self) -> String {
        decoder_label(&self.decoder, &self.decoder_settings)
    }
}

/// One sample under one decoder: a line of `samples.jsonl`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EvalSample {
    /// Name of the model.
    pub model: String,
    /// Before or after training.
    pub model_role: ModelRole,
    /// Name of the task.
    pub task: String,
    /// Name of the decoder.
    pub decoder: String,
    /// Settings of the decoder by name.
    pub decoder_settings: Map<String, Value>,
    /// Id of the prompt.
    pub sample_id: String,
    /// Text of the last message of the prompt.
    pub prompt: String,
    /// Length of the prompt in tokens, chat template included.
    pub prompt_tokens: usize,
    /// Length of the response in tokens, EOS included.
    pub response_tokens: usize,
    /// Token ids of the response, EOS included.
    pub response_ids: Vec<u32>,
    /// Text of the response, special tokens left out.
    pub text: String,
    /// The same text cut where each forward ended, for decoders that accept several tokens per forward; empty for `ar`.
    pub pieces: Vec<String>,
    /// Why the response ends.
    pub finish_reason: FinishReason,
    /// Whether the answer is right; `None` if the task does not score.
    pub correct: Option<bool>,
    /// Answer read from the response, normalised.
    pub answer: Option<String>,
    /// The right answer, normalised; `None` where a program decides.
    pub expected: Option<String>,
    /// Why a program that was to decide did not pass.
    #[serde(default)]
    pub failure: Option<String>,
    /// Decode forwards.
    pub forwards: usize,
    /// Seconds of decoding.
    pub decode_seconds: f64,
    /// Seconds of prefill.
    pub prefill_seconds: f64,
    /// Whether the token ids equal those of the autoregressive decoder; `None` for `ar` itself.
    pub matches_ar: Option<bool>,
    /// Index of the first response token that differs from the autoregressive decoder's.
    pub first_divergence: Option<usize>,
    /// There, the logit of the autoregressive decoder's token less that of this decoder's, as a pass over one row gives
    /// them. Next to 0 the two were as good as tied.
    pub divergence_gap: Option<f64>,
    /// `acceptance[a]` is the number of forwards that accepted `a` tokens.
    #[serde(default)]
    pub acceptance: Vec<usize>,
    /// Draft tokens that were right, by source, as [`EvalRow::accepted_from`].
    #[serde(default)]
    pub accepted_from: BTreeMap<String, usize>,
    /// Forwards and their seconds by rows fed, ascending.
    #[serde(default)]
    pub widths: Vec<EvalWidth>,
    /// As [`EvalRow::memory_floor`], measured in the sitting that made the sample.
    #[serde(default)]
    pub memory_floor: Option<MemoryFloor>,
    /// Which sitting made it, from 1.
    #[serde(default = "one")]
    pub sitting: usize,
    /// Why there is no response.
    #[serde(default)]
    pub error: Option<String>,
}

impl EvalSample {
    /// Tokens per decode forward, the prefill's token apart; `None` if that was the whole response.
    pub fn tpf(&self) -> Option<f64> {
        (self.forwards > 0).then(|| self.response_tokens.saturating_sub(1) as f64 / self.forwards as f64)
    }

    /// The decoder with its main settings, as [`EvalRow::decoder_label`].
    pub fn decoder_label(&self) -> String {
        decoder_label(&self.decoder, &self.decoder_settings)
    }
}

/// The content of `results.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// [`RESULTS_SCHEMA`].
    pub schema: String,
    /// The command line that made the results.
    pub command: String,
    /// Versions, device, threads.
    pub environment: Map<String, Value>,
    /// One row per model and decoder.
    pub rows: Vec<EvalRow>,
    /// Decoders and models against each other, prompt by prompt.
    #[serde(default)]
    pub paired_tests: Vec<PairedTest>,
    /// Everything that decided the samples, `section.key` to JSON text: recipe, questions, models, machine.
    #[serde(default)]
    pub settings: RecordedSettings,
}

impl Results {
    /// Results under the current schema.
    pub fn new(command: String, environment: Map<String, Value>, rows: Vec<EvalRow>) -> Self {
        let schema = RESULTS_SCHEMA.to_owned();
        Self {
            schema,
            command,
            environment,
            rows,
            paired_tests: Vec::new(),
            settings: RecordedSettings::default(),
        }
    }
}

/// A decoder with its main settings: `multi_block n=16 K=2`.
pub fn decoder_label(name: &str, settings: &Map<String, Value>) -> String {
    const SHORT: [(&str, &str); 4] =
        [("block_size", "n"), ("max_blocks", "K"), ("pool_size", "pool"), ("tree_budget", "tree")];
    let shown = SHORT.iter().filter_map(|(setting, short)| {
        let value = settings.get(*setting).and_then(Value::as_u64).filter(|value| *value > 0)?;
        Some(format!(" {short}={value}"))
    });
    let words = ["window", "filler"].iter().filter_map(|setting| settings.get(*setting)?.as_str());
    let words = words.map(|word| format!(" {word}"));
    let strict = settings.contains_key("strict_gap").then(|| " strict".to_owned());
    std::iter::once(name.to_owned()).chain(shown).chain(words).chain(strict).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn row_json() -> Value {
        json!({
            "model": "m", "model_role": "trained", "task": "gsm8k", "task_version": 1, "decoder": "jacobi",
            "decoder_settings": {"block_size": 16}, "samples": 2, "dtype": "float32", "tpf": 2.5, "tps": 90.0,
            "speedup_over_ar": 2.0, "accuracy": null, "exact_match_ar": 0.5, "divergences_per_1k_tokens": 20.0,
            "divergence_gap_median": 0.125, "divergence_gap_max": null,
            "tpf_macro": 2.4, "tps_macro": 88.0, "tpf_interval": {"low": 2.25, "high": 2.75},
            "speedup_interval": null, "accuracy_interval": null, "tokens": 50, "forwards": 20,
            "decode_seconds": 0.5, "prefill_seconds": 0.25, "stopped_by_length": 0, "acceptance": [0, 10, 5, 0, 5],
            "accepted_from": {"own": 25, "tree": 5}, "widths": [{"rows": 16, "forwards": 20, "seconds": 0.5}],
            "rejection_ranks": [0, 3, 1], "tps_interval": {"low": 80.0, "high": 95.5}, "tps_end_to_end": 68.5,
            "prefill_tps": 120.0,
            "per_prompt": {
                "prefill_seconds": {"median": 0.125, "low": 0.125, "high": 0.25}, "decode_seconds": null,
                "end_to_end_seconds": null, "tpf": {"median": 2.5, "low": null, "high": null}, "tps": null,
                "speedup_over_ar": null
            },
            "first_divergence_median": 7.0, "degenerate": 0.0,
            "memory_floor": {"weight_bytes": 4000, "copy_bytes_per_second": 400000.0, "tokens_per_second": 100.0},
            "failed": 0, "sittings": 2
        })
    }

    #[test]
    fn results_round_trip_with_the_published_field_names_in_order() {
        let text = serde_json::to_string(&json!({
            "schema": "jacobi-eval/1", "command": "jacobi eval", "environment": {"cpu": "x"}, "rows": [row_json()],
            "paired_tests": [{
                "task": "gsm8k",
                "a": {"model": "m", "model_role": "base", "decoder": "ar", "decoder_settings": {}},
                "b": {"model": "m", "model_role": "trained", "decoder": "ar", "decoder_settings": {}},
                "both": 1, "only_a": 0, "only_b": 1, "neither": 0, "p_value": 1.0
            }],
            "settings": {"seed": "0"}
        }))
        .unwrap();
        let results: Results = serde_json::from_str(&text).unwrap();
        assert_eq!(results.schema, RESULTS_SCHEMA);
        assert_eq!(serde_json::to_string(&results).unwrap(), text);
    }

    #[test]
    fn files_from_before_a_field_still_load() {
        let mut json = row_json();
        let full: EvalRow = serde_json::from_value(json.clone()).unwrap();
        let since = [
            "task_version",
            "divergence_gap_median",
            "divergence_gap_max",
            "accepted_from",
            "widths",
            "rejection_ranks",
            "tps_interval",
            "tps_end_to_end",
            "prefill_tps",
            "per_prompt",
            "first_divergence_median",
            "degenerate",
            "memory_floor",
            "failed",
            "sittings",
        ];
        for field in since {
            json.as_object_mut().unwrap().remove(field).unwrap();
        }
        let row: EvalRow = serde_json::from_value(json).unwrap();
        let expected = EvalRow {
            task_version: None,
            divergence_gap_median: None,
            accepted_from: BTreeMap::new(),
            widths: vec![],
            rejection_ranks: vec![],
            tps_interval: None,
            tps_end_to_end: None,
            prefill_tps: None,
            per_prompt: PerPrompt::default(),
            first_divergence_median: None,
            degenerate: None,
            memory_floor: None,
            failed: 0,
            sittings: 1,
            ..full
        };
        assert_eq!(row, expected);
    }

    #[test]
    fn labels_carry_the_main_settings() {
        let mut row: EvalRow = serde_json::from_value(row_json()).unwrap();
        assert_eq!(row.decoder_label(), "jacobi n=16");
        row.decoder_settings.insert("strict_gap".to_owned(), json!(0.1));
        assert_eq!(row.decoder_label(), "jacobi n=16 strict");
        assert!(!row.is_autoregressive());
        row.decoder_settings.insert("window".to_owned(), "sliding".into());
        assert_eq!(row.decoder_label(), "jacobi n=16 sliding strict");
        row.decoder = AUTOREGRESSIVE.to_owned();
        row.decoder_settings.clear();
        assert_eq!(row.decoder_label(), "ar");
        assert!(row.is_autoregressive());
    }
}
