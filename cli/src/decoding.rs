//! One prompt decoded: text to ids, ids through a decoder, ids to text.

use std::path::Path;

use anyhow::ensure;
use jacobi_datasets::schema::tuned::TUNED_FILE;
use jacobi_datasets::{Message, Tokenizer};
use jacobi_decoder::{Generation, Settings, StopRules, generate};
use jacobi_eval::DecoderConfig;
use jacobi_model::{Dtype, LanguageModel, load};
use serde_json::{Value, json};

use crate::commands::decode::DtypeName;
use crate::exit::UsageError;
use crate::output;

/// What to decode, and how.
#[derive(Debug)]
pub struct Request<'a> {
    /// Model directory.
    pub model: &'a Path,
    /// Text of the prompt.
    pub prompt: &'a str,
    /// Without chat template.
    pub raw: bool,
    /// The decoder and its settings.
    pub decoder: DecoderConfig,
    /// Longest response.
    pub max_new_tokens: usize,
    /// Compute dtype.
    pub dtype: DtypeName,
    /// Seed of fillers.
    pub seed: u64,
}

/// A decoded response.
#[derive(Debug)]
pub struct Decoded {
    /// Ids of the prompt, chat template included.
    pub prompt_tokens: Vec<u32>,
    /// Ids, reason to end, statistics.
    pub generation: Generation,
    /// Text of the response.
    pub text: String,
}

/// Loads the model and decodes.
///
/// # Errors
/// A model that does not load; a prompt that is empty or fills the context.
pub fn decode(request: &Request) -> anyhow::Result<Decoded> {
    let strategy = request.decoder.strategy(request.seed).map_err(|error| UsageError(error.to_string()))?;
    // Before the tokenizer's: its message for a missing directory is the better one.
    let model = load(request.model, request.dtype.into())?.transformer;
    let tokenizer = Tokenizer::load(request.model)?;
    let prompt_tokens = if request.raw {
        tokenizer.encode(request.prompt)?
    } else {
        tokenizer.encode_chat(&[Message::new("user", request.prompt)])?
    };
    if prompt_tokens.is_empty() {
        return Err(UsageError("the prompt is empty: --raw needs at least one token".into()).into());
    }
    let (found, context) = (prompt_tokens.len(), model.context_length());
    ensure!(
        found < context,
        "the prompt has {found} tokens, the model's context holds {context}: shorten it"
    );
    let stop = StopRules {
        max_new_tokens: request.max_new_tokens,
        eos_token_ids: tokenizer.eos_token_ids().to_vec(),
    };
    let settings = Settings::greedy(strategy, stop);
    let generation = generate(&model, &prompt_tokens, &settings, &mut |_| {});
    let text = tokenizer.decode(&generation.tokens);
    Ok(Decoded { prompt_tokens, generation, text })
}

/// What was tuned for the model, or `given` if nothing was or if `given` has settings of its own.
///
/// # Errors
/// A `jacobi.json` that cannot be used.
pub fn tuned_or(given: DecoderConfig, model: &Path) -> anyhow::Result<DecoderConfig> {
    let bare = DecoderConfig { name: given.name, ..DecoderConfig::default() };
    let tuned = if given == bare { jacobi_eval::tuned(model)? } else { None };
    let Some(tuned) = tuned else { return Ok(given) };
    let line = format!("decoder: {} of {}", tuned.name.as_str(), model.join(TUNED_FILE).display());
    output::status(&output::paint(output::Stream::Stderr, output::Color::Dim, &line));
    Ok(tuned)
}

impl Decoded {
    /// The published JSON form.
    pub fn to_json(&self) -> Value {
        let stats = &self.generation.stats;
        json!({
            "prompt_tokens": self.prompt_tokens,
            "response_tokens": self.generation.tokens,
            "text": self.text,
            "finish_reason": self.generation.finish_reason.as_str(),
            "stats": {
                "forwards": stats.forwards,
                "tokens": stats.tokens,
                "tpf": stats.tpf(),
                "tps": stats.tps(),
                "prefill_seconds": stats.prefill_seconds,
                "decode_seconds": stats.decode_seconds,
                "acceptance": stats.acceptance,
                "accepted_from": self.accepted_from(),
            },
        })
    }

    /// Draft tokens that were right, by source.
    fn accepted_from(&self) -> Value {
        let counts = &self.generation.stats.accepted_from;
        counts.iter().map(|(source, count)| (source.as_str().to_owned(), Value::from(*count))).collect()
    }

    /// The statistics in one line.
    pub fn summary(&self) -> String {
        let Generation { tokens, finish_reason, stats } = &self.generation;
        let mut text = format!("{} tokens, {} forwards", tokens.len(), stats.forwards);
        if let (Some(tpf), Some(tps)) = (stats.tpf(), stats.tps()) {
            text += &format!(", TPF {tpf:.2}, {tps:.1} tokens/s");
        }
        text + &format!(", prefill {:.2} s, ended by {}", stats.prefill_seconds, finish_reason.as_str())
    }
}

impl From<DtypeName> for Dtype {
    fn from(name: DtypeName) -> Self {
        match name {
            DtypeName::Auto => Self::Auto,
            DtypeName::Float32 => Self::Float32,
            DtypeName::Bfloat16 => Self::Bfloat16,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jacobi_datasets::FinishReason;
    use jacobi_decoder::{DecodeStats, Source};

    #[test]
    fn json_and_summary_carry_the_published_fields() {
        let stats = DecodeStats {
            forwards: 2,
            tokens: 5,
            prefill_seconds: 0.25,
            decode_seconds: 0.5,
            acceptance: vec![0, 0, 1, 1],
            accepted_from: [(Source::Own, 2), (Source::Tree, 1)].into(),
            ..DecodeStats::default()
        };
        let generation =
            Generation { tokens: vec![4, 5, 6, 7, 8, 2], finish_reason: FinishReason::Eos, stats };
        let decoded = Decoded { prompt_tokens: vec![1, 3], generation, text: "hi".into() };
        let expected = json!({
            "prompt_tokens": [1, 3], "response_tokens": [4, 5, 6, 7, 8, 2], "text": "hi", "finish_reason": "eos",
            "stats": {"forwards": 2, "tokens": 5, "tpf": 2.5, "tps": 10.0, "prefill_seconds": 0.25,
                "decode_seconds": 0.5, "acceptance": [0, 0, 1, 1], "accepted_from": {"own": 2, "tree": 1}},
        });
        assert_eq!(decoded.to_json(), expected);
        let summary = "6 tokens, 2 forwards, TPF 2.50, 10.0 tokens/s, prefill 0.25 s, ended by eos";
        assert_eq!(decoded.summary(), summary);
    }
}
