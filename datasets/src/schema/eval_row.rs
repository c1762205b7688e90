//! One row of an evaluation: a model under a decoder on a task. The serde types of `results.json`
//! (schema [`RESULTS_SCHEMA`]) and `samples.jsonl`, written by the evaluator and read by the report.
//! Figures and text only; each field says what it means.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::schema::eval_statistics::{MemoryFloor, PairedTest, PerPrompt};
use crate::schema::trajectory::FinishReason;
use crate::schema::tuned::TunedModel;
use crate::settings::RecordedSettings;

/// The `schema` field of `results.json`.
pub const RESULTS_SCHEMA: &str = "jacobi-eval/1";

/// The `decoder` of the autoregressive baseline.
pub const AUTOREGRESSIVE: &str = "ar";

/// Whether a model is the one training started from, one it made, or the former with a draft adapter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ModelRole {
    /// The model before training.
    #[default]
    Base,
    /// The model after training.
    Trained,
    /// The model before training, with an adapter that drafts.
    Adapter,
}

impl ModelRole {
    /// The role as `results.json` spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Trained => "trained",
            Self::Adapter => "adapter",
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
    /// Version of its data, wording, extraction and scoring. `None` if the prompts are those of a recipe.
    pub task_version: Option<u32>,
    /// Name of the decoder: `ar`, `jacobi`, `multi_block`.
    pub decoder: String,
    /// Settings of the decoder by name, for instance `{"block_size": 16}`.
    pub decoder_settings: Map<String, Value>,
    /// Number of samples, including those that reached the length limit.
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
    /// Samples that diverge from the autoregressive output, per 1000 response tokens up to and including the
    /// divergence. (After it the texts are different prompts, so nothing more can be compared.)
    pub divergences_per_1k_tokens: Option<f64>,
    /// Median of the samples' [`EvalSample::divergence_gap`].
    pub divergence_gap_median: Option<f64>,
    /// Largest [`EvalSample::divergence_gap`] of the samples.
    pub divergence_gap_max: Option<f64>,
    /// Mean over samples of tokens per forward.
    pub tpf_macro: Option<f64>,
    /// Mean over samples of tokens per second.
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
    /// Sum of cycles of drafting and verifying: one per forward, or two forwards with `passes = "two"`.
    #[serde(default)]
    pub cycles: usize,
    /// Sum of decode seconds.
    pub decode_seconds: f64,
    /// Sum of prefill seconds.
    pub prefill_seconds: f64,
    /// Number of samples stopped by the length limit.
    pub stopped_by_length: usize,
    /// Share of responses that end by themselves, not at the length limit, 0 to 1.
    pub ended: Option<f64>,
    /// Wilson interval of `ended`.
    pub ended_interval: Option<Interval>,
    /// Mean length of a response in tokens, EOS included.
    pub mean_response_tokens: Option<f64>,
    /// `acceptance[a]` is the number of forwards that accepted `a` tokens.
    pub acceptance: Vec<usize>,
    /// Number of right draft tokens by source: `own`, `pseudo`, `recycled`, `tree`. As in `acceptance`, tokens that the
    /// last forward accepted after the end of the response count too. In addition every forward gives one token.
    #[serde(default)]
    pub accepted_from: BTreeMap<String, usize>,
    /// Forwards by what ended their accepted tokens: `draft` (a drafted token was wrong), `filler` (nothing was drafted there),
    /// `window` (all drafts were right), `drafting` (it only drafted), `tie` (a near-tie was left to a pass over one row), `end`
    /// (of the response).
    #[serde(default)]
    pub limited_by: BTreeMap<String, usize>,
    /// Forwards and their seconds by rows fed, ascending.
    #[serde(default)]
    pub widths: Vec<EvalWidth>,
    /// `rejection_ranks[r]`: forwards with a wrong draft token, where the forward before had ranked the right
    /// token `r`-th (0 is the drafted token); the last entry counts all higher ranks. Counted in separate,
    /// untimed passes over the first prompts; empty if not requested.
    #[serde(default)]
    pub rejection_ranks: Vec<usize>,
    /// Bootstrap interval of `tps` over samples.
    pub tps_interval: Option<Interval>,
    /// Response tokens per second of prefill and decoding together, micro.
    pub tps_end_to_end: Option<f64>,
    /// Prompt tokens per second of prefill, micro.
    pub prefill_tps: Option<f64>,
    /// Times and speeds per prompt: medians over samples.
    #[serde(default)]
    pub per_prompt: PerPrompt,
    /// Median of [`EvalSample::first_divergence`] over the samples that diverge.
    pub first_divergence_median: Option<f64>,
    /// Share of samples that repeat themselves: a run of at most 64 tokens at least 4 times in a row, 32
    /// tokens or more.
    pub degenerate: Option<f64>,
    /// Upper bound of the autoregressive speed; only in the autoregressive row.
    pub memory_floor: Option<MemoryFloor>,
    /// Samples without a response because of an error ([`EvalSample::error`]). They count as wrong answers
    /// and are left out of every figure of speed and fidelity.
    #[serde(default)]
    pub failed: usize,
    /// Number of sittings: one, and one more each time the evaluation was resumed.
    #[serde(default = "one")]
    pub sittings: usize,
    /// Whether tuning chose this decoder for this model.
    #[serde(default)]
    pub tuned: bool,
}

fn one() -> usize {
    1
}

impl EvalRow {
    /// Whether this is the baseline that the others are compared with.
    pub fn is_autoregressive(&self) -> bool {
        self.decoder == AUTOREGRESSIVE
    }

    /// Time per token, as a multiple of the memory floor.
    pub fn over_floor(&self) -> Option<f64> {
        Some(self.memory_floor?.tokens_per_second / self.tps?)
    }

    /// Whether both rows have the same decoder with the same settings.
    pub fn is_decoded_as(&self, other: &Self) -> bool {
        (&self.decoder, &self.decoder_settings) == (&other.decoder, &other.decoder_settings)
    }

    /// Whether a sample diverged from the autoregressive output, or could have because of rounding.
    pub fn may_diverge(&self) -> bool {
        self.exact_match_ar.is_some_and(|share| share < 1.0 || self.dtype != "float32")
    }

    /// The decoder with its main settings, for tables: `ar`, `jacobi n=16`,
    /// `multi_block n=16 K=2 pool=4 ngram strict`.
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
    /// Text of the response without special tokens.
    pub text: String,
    /// The same text divided by forwards, for decoders that accept several tokens per forward; empty for `ar`.
    pub pieces: Vec<String>,
    /// Why the response ends.
    pub finish_reason: FinishReason,
    /// Whether the answer is right; `None` if the task has no scoring.
    pub correct: Option<bool>,
    /// Answer extracted from the response, normalised.
    pub answer: Option<String>,
    /// The right answer, normalised; `None` if a program checks the response.
    pub expected: Option<String>,
    /// Why the checking program failed.
    pub failure: Option<String>,
    /// Decode forwards.
    pub forwards: usize,
    /// As [`EvalRow::cycles`].
    #[serde(default)]
    pub cycles: usize,
    /// Seconds of decoding.
    pub decode_seconds: f64,
    /// Seconds of prefill.
    pub prefill_seconds: f64,
    /// Whether the token ids equal those of the autoregressive decoder; `None` for `ar` itself.
    pub matches_ar: Option<bool>,
    /// Index of the first response token that differs from the autoregressive decoder's.
    pub first_divergence: Option<usize>,
    /// At the divergence, the logit of the autoregressive decoder's token minus that of this decoder's, both
    /// from a pass over one row. Near 0 the two tokens were tied.
    pub divergence_gap: Option<f64>,
    /// `acceptance[a]` is the number of forwards that accepted `a` tokens.
    #[serde(default)]
    pub acceptance: Vec<usize>,
    /// Draft tokens that were right, by source, as [`EvalRow::accepted_from`].
    #[serde(default)]
    pub accepted_from: BTreeMap<String, usize>,
    /// As [`EvalRow::limited_by`].
    #[serde(default)]
    pub limited_by: BTreeMap<String, usize>,
    /// Forwards and their seconds by rows fed, ascending.
    #[serde(default)]
    pub widths: Vec<EvalWidth>,
    /// As [`EvalRow::memory_floor`], measured in the sitting of this sample.
    pub memory_floor: Option<MemoryFloor>,
    /// The sitting of this sample, from 1.
    #[serde(default = "one")]
    pub sitting: usize,
    /// Why there is no response.
    pub error: Option<String>,
}

impl EvalSample {
    /// Tokens per decode forward without the token of the prefill; `None` without decode forwards.
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
    /// The command line of the evaluation.
    pub command: String,
    /// Versions, device, threads.
    pub environment: Map<String, Value>,
    /// One row per model and decoder.
    pub rows: Vec<EvalRow>,
    /// Tests of decoders and models against each other, prompt by prompt.
    #[serde(default)]
    pub paired_tests: Vec<PairedTest>,
    /// What tuning found for the models, of those that were tuned.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tuned_models: Vec<TunedModel>,
    /// Everything that determines the samples, `section.key` to JSON text: recipe, questions, models, machine.
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
            tuned_models: Vec::new(),
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
    let two = settings.get("passes").is_some_and(|passes| passes == "two").then(|| " two passes".to_owned());
    let strict = settings.contains_key("strict_gap").then(|| " strict".to_owned());
    std::iter::once(name.to_owned()).chain(shown).chain(words).chain(two).chain(strict).collect()
}

#[cfg(test)]
mod tests;
