//! Decoding: token ids in, token ids and statistics out. Every strategy here is greedy and lossless: in fp32 its
//! output equals [`Strategy::Autoregressive`] token for token. Knows no text.

mod accept;
mod autoregressive;
mod filler;
mod jacobi;
mod observer;
mod response;
#[cfg(test)]
mod scripted;
mod stats;

use std::time::Instant;

use jacobi_datasets::FinishReason;
use jacobi_model::LanguageModel;

pub use accept::accepted;
pub use jacobi::JacobiConfig;
pub use observer::{Iteration, Observer, Silent};
pub use response::StopRules;
pub use stats::DecodeStats;

use response::Response;

/// How to decode.
#[derive(Clone, Debug, PartialEq)]
pub enum Strategy {
    /// One token per forward pass; the oracle for the rest.
    Autoregressive,
    /// One block after the other to its fixed point (DESIGN: Jacobi iteration; arXiv 2305.10427).
    Jacobi(JacobiConfig),
}

/// A decoded response.
#[derive(Clone, Debug)]
pub struct Generation {
    /// The response, EOS included when it ended so.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// Forward passes, acceptance and time.
    pub stats: DecodeStats,
}

/// Decodes one response to `prompt`.
///
/// The response is cut at `stop.max_new_tokens`, and at the model's context length.
///
/// # Panics
/// If the prompt is empty or fills the model's context, or `max_new_tokens` or a block size is 0: callers
/// validate what users give.
pub fn generate(
    model: &dyn LanguageModel,
    prompt: &[u32],
    strategy: &Strategy,
    stop: &StopRules,
    observer: &mut dyn Observer,
) -> Generation {
    let context = model.context_length();
    assert!(!prompt.is_empty(), "a prompt has at least one token");
    assert!(prompt.len() < context, "a prompt of {} tokens fills the context of {context}", prompt.len());
    assert!(stop.max_new_tokens > 0, "max_new_tokens is at least 1");
    let limit = stop.max_new_tokens.min(context - prompt.len());

    let started = Instant::now();
    let mut session = model.session(prompt.len() + limit);
    let first = session.forward_greedy(prompt, prompt.len() - 1)[0];
    let prefill_seconds = started.elapsed().as_secs_f64();

    let started = Instant::now();
    let mut stats = DecodeStats { prefill_seconds, ..DecodeStats::default() };
    let mut response = Response::new(limit, &stop.eos_token_ids);
    response.extend(&[first]);
    match strategy {
        Strategy::Autoregressive => autoregressive::decode(&mut *session, &mut response, &mut stats),
        Strategy::Jacobi(config) => {
            jacobi::decode(&mut *session, prompt, config, &mut response, &mut stats, observer);
        }
    }
    let (tokens, finish_reason) = response.finish();
    stats.tokens = tokens.len() - 1;
    stats.decode_seconds = started.elapsed().as_secs_f64();
    Generation { tokens, finish_reason, stats }
}
