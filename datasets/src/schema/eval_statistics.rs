//! Statistics over the prompts of an evaluation that are more than one number: medians with their intervals, the memory
//! floor, paired tests. Parts of `results.json`.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::schema::eval_row::{ModelRole, decoder_label};

/// The median over prompts, and the 95 % bootstrap interval of it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Median {
    /// The median; of an even number of prompts the mean of the middle two.
    pub median: f64,
    /// Lower end of the interval; none with a single prompt.
    pub low: Option<f64>,
    /// Upper end of it.
    pub high: Option<f64>,
}

/// What one prompt takes and gives, as medians over prompts. A figure is `None` where no prompt has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PerPrompt {
    /// Seconds until the first token.
    pub prefill_seconds: Option<Median>,
    /// Seconds for the rest.
    pub decode_seconds: Option<Median>,
    /// Both.
    pub end_to_end_seconds: Option<Median>,
    /// Tokens per decode forward.
    pub tpf: Option<Median>,
    /// Tokens per second of decoding.
    pub tps: Option<Median>,
    /// That, divided by what the autoregressive decoder had on the same prompt.
    pub speedup_over_ar: Option<Median>,
}

/// The least time that one token at a time could take: every weight read once per token.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct MemoryFloor {
    /// Bytes of weights that one forward reads.
    pub weight_bytes: u64,
    /// Bytes read and written per second by a large copy in the same process.
    pub copy_bytes_per_second: f64,
    /// Tokens per second if reading the weights at that rate were all there is to do.
    pub tokens_per_second: f64,
}

/// A model under a decoder.
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
    /// One of them.
    pub a: Answerer,
    /// The other.
    pub b: Answerer,
    /// Prompts that both answer rightly.
    pub both: usize,
    /// Those that only `a` does.
    pub only_a: usize,
    /// Those that only `b` does.
    pub only_b: usize,
    /// Those that neither does.
    pub neither: usize,
    /// How probable a split of `only_a` and `only_b` at least as uneven is if both are equally good.
    pub p_value: f64,
}
