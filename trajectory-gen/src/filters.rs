//! The rules that exclude prompts and responses.

use jacobi_datasets::{FinishReason, repeats};

use crate::config::{Choice, GenerateConfig};

/// Why a prompt gave no row although nothing went wrong. The names are those of `skipped_by` in the manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// An earlier prompt is the same.
    DuplicatePrompt,
    /// Fewer tokens than `min_prompt_tokens`.
    PromptTooShort,
    /// More tokens than `max_prompt_tokens`, or than the model's context holds.
    PromptTooLong,
    /// Fewer tokens than `min_response_tokens`.
    ResponseTooShort,
    /// A given response longer than `max_new_tokens` or the context.
    ResponseTooLong,
    /// The response reached `max_new_tokens` before its end.
    ResponseCut,
    /// The same tokens over and over.
    RepeatedTokens,
    /// The same lines over and over.
    RepeatedLines,
    /// A given response that differs from the model's.
    Disagreement,
}

impl Rule {
    /// Its name on disk.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DuplicatePrompt => "duplicate_prompt",
            Self::PromptTooShort => "prompt_too_short",
            Self::PromptTooLong => "prompt_too_long",
            Self::ResponseTooShort => "response_too_short",
            Self::ResponseTooLong => "response_too_long",
            Self::ResponseCut => "response_cut",
            Self::RepeatedTokens => "repeated_tokens",
            Self::RepeatedLines => "repeated_lines",
            Self::Disagreement => "disagreement",
        }
    }
}

/// Longest repeated sequence of tokens that is detected.
const MAX_TOKEN_PERIOD: usize = 64;
/// Longest repeated sequence of lines that is detected.
const MAX_LINE_PERIOD: usize = 8;

/// The rule that excludes a response, and the reason; `None` if it is kept. `text` is called only if lines are checked.
pub(crate) fn refuse(
    config: &GenerateConfig,
    tokens: &[u32],
    finish_reason: FinishReason,
    text: impl FnOnce() -> String,
) -> Option<(Rule, String)> {
    if tokens.len() < config.min_response_tokens {
        let reason = format!("{} response tokens, at least {}", tokens.len(), config.min_response_tokens);
        return Some((Rule::ResponseTooShort, reason + " are wanted"));
    }
    if config.cut_responses == Choice::Drop && finish_reason == FinishReason::Length {
        return Some((Rule::ResponseCut, format!("cut after {} tokens", tokens.len())));
    }
    let repeated = |rule, unit, (times, period), limit| {
        let reason = || format!("{period} {unit} repeated {times} times in a row, at most {limit}");
        (times > limit).then(|| (rule, reason()))
    };
    if config.max_token_repeats > 0 {
        let most = most_repeats(tokens, MAX_TOKEN_PERIOD);
        let found = repeated(Rule::RepeatedTokens, "tokens", most, config.max_token_repeats);
        if found.is_some() {
            return found;
        }
    }
    if config.max_line_repeats == 0 {
        return None;
    }
    let text = text();
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    repeated(Rule::RepeatedLines, "lines", most_repeats(&lines, MAX_LINE_PERIOD), config.max_line_repeats)
}

/// The highest number of times that a sequence of `1..=max_period` items occurs in direct succession (1 without
/// repetition), and its length. Of several equally frequent sequences the shortest counts.
fn most_repeats<T: PartialEq>(items: &[T], max_period: usize) -> (usize, usize) {
    repeats(items, max_period).fold((1, 1), |most, found| if found.0 > most.0 { found } else { most })
}

#[cfg(test)]
mod tests;
