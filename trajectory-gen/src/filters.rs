//! What keeps a response out, and how it is seen (numbers alone).

use jacobi_datasets::{FinishReason, repeats};

use crate::config::{Choice, GenerateConfig};

/// Why a prompt gave no row although nothing went wrong. The names are those of `skipped_by` in the manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// It came before.
    DuplicatePrompt,
    /// Fewer tokens than `min_prompt_tokens`.
    PromptTooShort,
    /// More tokens than `max_prompt_tokens`, or than the model's context holds.
    PromptTooLong,
    /// Fewer tokens than `min_response_tokens`.
    ResponseTooShort,
    /// Given, and longer than `max_new_tokens`.
    ResponseTooLong,
    /// It reached the limit before its end.
    ResponseCut,
    /// The same tokens over and over.
    RepeatedTokens,
    /// The same lines over and over.
    RepeatedLines,
    /// Given, and not what the model would give.
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

/// Longest cycle of tokens that is looked for.
const MAX_TOKEN_PERIOD: usize = 64;
/// Longest cycle of lines that is looked for.
const MAX_LINE_PERIOD: usize = 8;

/// The rule that keeps a response out, and the reason in words; `text` is asked for only when lines count.
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
    let limit = config.max_token_repeats;
    if limit > 0 {
        let (times, period) = most_repeats(tokens, MAX_TOKEN_PERIOD);
        if times > limit {
            let reason = format!("{period} tokens repeated {times} times in a row, at most {limit}");
            return Some((Rule::RepeatedTokens, reason));
        }
    }
    let limit = config.max_line_repeats;
    if limit > 0 {
        let text = text();
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let (times, period) = most_repeats(&lines, MAX_LINE_PERIOD);
        if times > limit {
            let reason = format!("{period} lines repeated {times} times in a row, at most {limit}");
            return Some((Rule::RepeatedLines, reason));
        }
    }
    None
}

/// How often, at most, a run of `1..=max_period` items directly follows itself, and how long that run is. Nothing
/// repeated counts as once; of several equally frequent runs the shortest is given.
fn most_repeats<T: PartialEq>(items: &[T], max_period: usize) -> (usize, usize) {
    repeats(items, max_period).fold((1, 1), |most, found| if found.0 > most.0 { found } else { most })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repetition_is_seen_whatever_its_period_and_place() {
        let rows: [(&str, (usize, usize)); 8] = [
            ("", (1, 1)),
            ("a", (1, 1)),
            ("abcdefgh", (1, 1)),
            ("xaaaay", (4, 1)),
            ("abababab", (4, 2)),
            ("0123abcabcabc9", (3, 3)),
            ("abcab", (1, 1)),
            ("aabaabaab", (3, 3)),
        ];
        for (text, expected) in rows {
            let items: Vec<char> = text.chars().collect();
            assert_eq!(most_repeats(&items, 64), expected, "{text}");
        }
        let long: Vec<usize> = (0..200).map(|at| at % 50).collect();
        assert_eq!((most_repeats(&long, 64), most_repeats(&long, 49)), ((4, 50), (1, 1)));
    }

    /// Every key of the filter has a row in which changing it changes the outcome.
    #[test]
    fn each_rule_keeps_out_what_it_should_and_nothing_else() {
        use FinishReason::{Eos, Length};
        let varied: Vec<u32> = (0..40).collect();
        let looped = [1, 2].repeat(20);
        let base = GenerateConfig::default();
        type Row<'a> = (&'a [u32], FinishReason, &'static str, fn(&mut GenerateConfig), Option<Rule>);
        let rows: [Row; 10] = [
            (&varied, Eos, "fine", |_| (), None),
            (&varied, Length, "fine", |_| (), None),
            (&varied, Length, "fine", |c| c.cut_responses = Choice::Drop, Some(Rule::ResponseCut)),
            (&varied, Eos, "fine", |c| c.cut_responses = Choice::Drop, None),
            (&varied, Eos, "fine", |c| c.min_response_tokens = 41, Some(Rule::ResponseTooShort)),
            (&looped, Eos, "fine", |_| (), Some(Rule::RepeatedTokens)),
            (&looped, Eos, "fine", |c| c.max_token_repeats = 20, None),
            (&looped, Eos, "fine", |c| c.max_token_repeats = 0, None),
            (&varied, Eos, "a\n b\n\na\nb\na\nb", |c| c.max_line_repeats = 2, Some(Rule::RepeatedLines)),
            (&varied, Eos, "a\n b\n\na\nb\na\nb", |c| c.max_line_repeats = 0, None),
        ];
        for (index, (tokens, finish, text, change, expected)) in rows.into_iter().enumerate() {
            let mut config = base.clone();
            change(&mut config);
            let found = refuse(&config, tokens, finish, || text.to_owned()).map(|(rule, _)| rule);
            assert_eq!(found, expected, "row {index}");
        }
    }
}
