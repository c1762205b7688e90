//! Numeric answers, as GSM8K asks for them (arXiv 2110.14168). The gold answer follows `####`.
//!
//! The answer of a response is its last `#### 18`, else its last `\boxed{18}`, else its last "answer is 18",
//! else its last number. Numbers are compared exactly, without commas, currency, units and trailing zeros.

use super::latex::{boxed, rewritten, stated_answers};
use super::number::{Found, INVISIBLE_PLUS, Number, numbers};

/// The right answer, from the text of the answer column.
pub(super) fn gold(answer: &str) -> Option<String> {
    let number = after_hashes(answer).or_else(|| last(answer));
    number.map(|n| n.to_string())
}

/// The answer of a response.
pub(super) fn extract(response: &str) -> Option<String> {
    let response = plain_fractions(response);
    let number = after_hashes(&response)
        .or_else(|| boxed(&response).find_map(first_after_equals))
        .or_else(|| stated_answers(&response).find_map(first_of_clauses))
        .or_else(|| last(&response));
    number.map(|n| n.to_string())
}

fn last(text: &str) -> Option<Number> {
    numbers(text).last().map(|found| found.value)
}

/// The last number directly after `####`. Markdown headings such as `#### Step 1` and `#### 1. Add` do not count.
fn after_hashes(text: &str) -> Option<Number> {
    text.rmatch_indices("####").find_map(|(at, marker)| {
        let rest = &text[at + marker.len()..];
        let line = rest.lines().next().unwrap_or("");
        let first = *numbers(line).first()?;
        let direct = line[..first.start].chars().all(|c| !c.is_alphanumeric());
        let after = line[first.end..].trim_start_matches('*');
        let is_list_number = after.starts_with(['.', ')', ':']) && after.contains(char::is_alphanumeric);
        (direct && !is_list_number).then_some(first.value)
    })
}

/// Separators of clauses: what follows an answer in its sentence is often the reason for it.
const BREAKS: [&str; 5] = [", ", "; ", " (", " because ", " since "];

/// The answer in the first clause of `sentence` that contains a number.
fn first_of_clauses(sentence: &str) -> Option<Number> {
    let mut clauses = vec![sentence];
    for separator in BREAKS {
        clauses = clauses.into_iter().flat_map(|clause| clause.split(separator)).collect();
    }
    clauses.into_iter().find_map(first_after_equals)
}

/// The first number after the last `=`, else the first number.
fn first_after_equals(text: &str) -> Option<Number> {
    let after = text.rsplit('=').next().unwrap_or(text);
    let first = |text: &str| numbers(text).first().map(|found: &Found| found.value);
    first(after).or_else(|| first(text))
}

/// Writes `\frac{3}{4}`, `\dfrac{3}{4}`, `\tfrac{3}{4}` as `3/4`, separated from a number before it.
fn plain_fractions(text: &str) -> String {
    let plain = text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac");
    rewritten(&plain, "\\frac", |[above, below]: [&str; 2]| format!("{INVISIBLE_PLUS}{above}/{below}"))
}

#[cfg(test)]
mod tests;
