//! The options for how tokens are taken from the model's distribution.

use jacobi_decoder::{RandomSampling, Sampling};

use super::numbers::{above_zero, at_least_zero, share, whole};
use crate::exit::UsageError;

/// Decoding is greedy unless one of the first four is given.
#[derive(Debug, clap::Args)]
pub struct SamplingArgs {
    /// Sample, with logits divided by this; 0 is greedy [default when sampling: 1]
    #[arg(long, value_name = "T", allow_negative_numbers = true, value_parser = at_least_zero)]
    temperature: Option<f32>,
    /// Sample from the K most probable tokens; 0 from all
    #[arg(long, value_name = "K", allow_negative_numbers = true, value_parser = whole::<usize>)]
    top_k: Option<usize>,
    /// Sample from the most probable tokens that together reach probability P
    #[arg(long, value_name = "P", allow_negative_numbers = true, value_parser = share)]
    top_p: Option<f32>,
    /// Sample, and make tokens of the prompt and the response so far less probable; 1 has no effect
    #[arg(long, value_name = "R", allow_negative_numbers = true, value_parser = above_zero)]
    repetition_penalty: Option<f32>,
    /// Greedy: compute a token again by a pass over one row if a wide pass gives its two best tokens
    /// log-probabilities closer than GAP; for bfloat16 [default GAP: 0.5]
    #[arg(long, value_name = "GAP", num_args = 0..=1, default_missing_value = "0.5",
        allow_negative_numbers = true, value_parser = above_zero)]
    strict: Option<f32>,
}

impl SamplingArgs {
    /// The sampling asked for, with noise from `seed`.
    ///
    /// # Errors
    /// Settings that exclude each other.
    pub fn sampling(&self, seed: u64) -> Result<Sampling, UsageError> {
        let refuse = |message: &str| Err(UsageError(message.to_owned()));
        let asked = self.temperature.is_some()
            || self.top_k.is_some()
            || self.top_p.is_some()
            || self.repetition_penalty.is_some();
        if !asked || self.temperature == Some(0.0) {
            return match self.repetition_penalty {
                Some(penalty) if penalty != 1.0 => refuse(
                    "--repetition-penalty is for sampling, and --temperature 0 is greedy; drop one of them",
                ),
                _ => Ok(Sampling::Greedy),
            };
        }
        if self.strict.is_some() {
            return refuse("--strict is for greedy decoding: drop it, or the sampling options");
        }
        let default = RandomSampling::default();
        Ok(Sampling::Random(RandomSampling {
            temperature: self.temperature.unwrap_or(default.temperature),
            top_k: self.top_k.unwrap_or(default.top_k),
            top_p: self.top_p.unwrap_or(default.top_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(default.repetition_penalty),
            seed,
        }))
    }

    /// The gap below which greedy decoding computes a token again by a pass over one row.
    pub fn strict_gap(&self) -> Option<f32> {
        self.strict
    }
}
