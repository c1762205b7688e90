//! Statistics of `results.json` that are more than one number: medians with intervals, the memory floor, paired tests.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::schema::eval_row::{ModelRole, decoder_label};

/// The median over prompts with its 95 % bootstrap interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Median {
    /// The median; of an even number of prompts the mean of the middle two.
    pub median: f64,
    /// Lower end of the interval; `None` for a single prompt.
    pub low: Option<f64>,
    /// Upper end of the interval.
    pub high: Option<f64>,
}

/// Times and speeds per prompt, as medians over prompts. A figure is `None` if no prompt has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PerPrompt {
    /// Seconds until the first token.
    pub prefill_seconds: Option<Median>,
    /// Seconds for the other tokens.
    pub decode_seconds: Option<Median>,
    /// Seconds for all tokens.
    pub end_to_end_seconds: Option<Median>,
    /// Tokens per decode forward.
    pub tpf: Option<Median>,
    /// Tokens per second of decoding.
    pub tps: Option<Median>,
    /// Tokens per second divided by those of the autoregressive decoder on the same prompt.
    pub speedup_over_ar: Option<Median>,
}

/// The upper bound of autoregressive speed by memory bandwidth: every weight is read once per token.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct MemoryFloor {
    /// Bytes of weights that one forward reads.
    pub weight_bytes: u64,
    /// Bytes read and written per second by a large copy in the same process.
    pub copy_bytes_per_second: f64,
    /// Tokens per second if a token took only the time to read the weights at that rate.
    pub tokens_per_second: f64,
}

/// A model with a decoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answerer {
    /// Name of the model.
    pub model: String,
    /// Before or after training.
    pub model_role: ModelRole,
    /// Name of the decoder.
    pub decoder: String,
    /// Settings of the decoder by name.
    pub decoder_settings: Map<String, Value>,
}

impl Answerer {
    /// The decoder with its main settings, for tables.
    pub fn decoder_label(&self) -> String {
        decoder_label(&self.decoder, &self.decoder_settings)
    }
}

/// Two answerers on the same prompts, and McNemar's exact test of whether one is right more often.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PairedTest {
    /// Name of the task.
    pub task: String,
    /// The first.
    pub a: Answerer,
    /// The second.
    pub b: Answerer,
    /// Prompts that both answer correctly.
    pub both: usize,
    /// Prompts that only `a` answers correctly.
    pub only_a: usize,
    /// Prompts that only `b` answers correctly.
    pub only_b: usize,
    /// Prompts that neither answers correctly.
    pub neither: usize,
    /// Probability of a split of `only_a` and `only_b` at least as uneven if both are equally good.
    pub p_value: f64,
}
