//! Answers of competition mathematics, as MATH asks for them (arXiv 2103.03874): in `\boxed{..}`.
//!
//! A response's answer is its last closed box, else what follows its last "answer is". Answers are equal when their
//! normal forms are: numbers as reduced fractions whatever their spelling, units, currency, percent and degree signs
//! gone, fractions, roots and powers in one spelling, what stands after `x =` or `x \in`, lists sorted, tuples and
//! intervals part by part. What this does not see: that two different expressions have one value.

use super::latex::{balanced, boxed, rewritten};
use super::number::Number;

/// The right answer, normalised, from the text that has it.
pub(super) fn gold(answer: &str) -> Option<String> {
    normal(boxed(answer).next().unwrap_or(answer))
}

/// The answer of a response, as it stands there.
pub(super) fn extract(response: &str) -> Option<String> {
    boxed(response).next().or_else(|| after_answer_is(response)).map(str::to_owned)
}

/// What the last "answer is" says, up to the end of its sentence.
fn after_answer_is(text: &str) -> Option<&str> {
    let lower = text.to_ascii_lowercase();
    let starts = ["answer is", "answer:", "answer**:", "answer:**"]
        .into_iter()
        .filter_map(|phrase| lower.rfind(phrase).map(|at| at + phrase.len()));
    let rest =
        text[starts.max()?..].trim_start_matches(|c: char| c.is_whitespace() || matches!(c, ':' | '*'));
    let end = [". ", ".\n", "\n"].into_iter().filter_map(|stop| rest.find(stop)).min();
    Some(&rest[..end.unwrap_or(rest.len())])
}

/// Spacing, sizes and signs that say nothing about the value.
const NOISE: [&str; 24] = [
    "\\left",
    "\\right",
    "\\bigl",
    "\\bigr",
    "\\Bigl",
    "\\Bigr",
    "\\big",
    "\\displaystyle",
    "\\!",
    "\\,",
    "\\;",
    "\\:",
    "\\ ",
    "~",
    "\\qquad",
    "\\quad",
    "^\\circ",
    "^{\\circ}",
    "\\degree",
    "\\%",
    "%",
    "\\$",
    "$",
    "**",
];

/// Other spellings of the same.
const SPELLINGS: [(&str, &str); 16] = [
    ("\\dfrac", "\\frac"),
    ("\\tfrac", "\\frac"),
    ("\\cfrac", "\\frac"),
    ("\\leq", "<="),
    ("\\geq", ">="),
    ("\\le", "<="),
    ("\\ge", ">="),
    ("\\lt", "<"),
    ("\\gt", ">"),
    ("\\cdot", "*"),
    ("\\times", "*"),
    ("{,}", ","),
    ("−", "-"),
    ("\\(", ""),
    ("\\)", ""),
    ("\\cup", "∪"),
];

/// The normal form of an answer; `None` if nothing is left of it.
pub(super) fn normal(answer: &str) -> Option<String> {
    let mut text = answer.trim().trim_start_matches("\\[").trim_end_matches("\\]").trim().to_owned();
    // The end of a matrix row is no escaped space, and `\le` would make `\left` unreadable.
    text = text.replace("\\\\", "⏎");
    for noise in NOISE {
        text = text.replace(noise, "");
    }
    for (spelling, plain) in SPELLINGS {
        text = text.replace(spelling, plain);
    }
    text = without_words(text.trim().trim_end_matches(['.', ',', ';', ':']));
    text = rewritten(&text, "\\sqrt", |[of]| format!("√({})", of.trim()));
    text = rewritten(&text, "\\frac", |[a, b]: [&str; 2]| format!("({})/({})", a.trim(), b.trim()));
    let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    let text = unbraced(&right_side(&text));
    if text.is_empty() { None } else { Some(parts(&text)) }
}

/// Text in a formula: a unit behind a number goes, with its power; "or" and "and" part a list; text alone is the answer.
fn without_words(answer: &str) -> String {
    let mut text = answer.to_owned();
    for command in ["\\textbf", "\\textit", "\\text", "\\mbox", "\\mathrm", "\\mathbf"] {
        text = rewritten(&text, command, |[words]| match words.trim() {
            "or" | "and" => ",".to_owned(),
            words => format!("⟨{words}⟩"),
        });
    }
    let mut plain = String::new();
    let mut words = String::new();
    let mut rest = text.as_str();
    while let Some((before, after)) = rest.split_once('⟨') {
        plain.push_str(before);
        let (inside, after) = after.split_once('⟩').unwrap_or((after, ""));
        words.push_str(inside);
        rest = after;
        if let Some(power) = after.strip_prefix('^') {
            let braced = power.strip_prefix('{').and_then(balanced).map(|inner| inner.len() + 2);
            rest = power.get(braced.unwrap_or(1)..).unwrap_or_default();
        }
    }
    plain.push_str(rest);
    if plain.trim().is_empty() { words.trim().trim_matches(['(', ')']).to_lowercase() } else { plain }
}

/// What stands after `x =`, `f(x) =` or `x \in`, where that is all there is on the left.
fn right_side(text: &str) -> String {
    let text = text.replace("\\in", "∈");
    let is_name = |left: &str| {
        let mut letters = left.chars();
        letters.next().is_some_and(|c| c.is_alphabetic() || c == '\\')
            && letters.all(|c| c.is_alphanumeric() || matches!(c, '(' | ')' | '_' | ','))
    };
    match text.split_once(['=', '∈']) {
        Some((left, right)) if is_name(left) && !right.contains('=') => right.to_owned(),
        _ => text.replace('∈', "\\in"),
    }
}

/// `x^{2}` as `x^2`, `a_{1}` as `a_1`, `{x}` as `x`: braces around single characters.
fn unbraced(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let single = rest.strip_prefix('{').and_then(balanced).filter(|inner| inner.chars().count() == 1);
        match single {
            Some(inner) => {
                plain.push_str(inner);
                rest = &rest[inner.len() + 2..];
            }
            None => {
                plain.push(c);
                rest = &rest[c.len_utf8()..];
            }
        }
    }
    plain
}

/// A tuple, interval or matrix row part by part in its order; a set or a bare list sorted.
fn parts(text: &str) -> String {
    let set = text.strip_prefix("\\{").and_then(|inner| inner.strip_suffix("\\}"));
    let inside = set.unwrap_or(text);
    if is_grouped(inside) {
        return element(&inside.replace(',', ""));
    }
    if let Some(inner) = enclosed(inside).filter(|inner| split(inner).len() > 1) {
        let inner: Vec<String> = split(inner).into_iter().map(parts).collect();
        let (open, close) = (&inside[..1], &inside[inside.len() - 1..]);
        return format!("{open}{}{close}", inner.join(","));
    }
    let mut elements: Vec<String> = split(inside).into_iter().map(element).collect();
    elements.sort_unstable();
    elements.join(",")
}

/// Whether commas part thousands: `1,234,567`.
fn is_grouped(text: &str) -> bool {
    let digits = text.trim_start_matches('-');
    let whole = digits.split('.').next().unwrap_or_default();
    let mut groups = whole.split(',');
    let numeric = |group: &str| !group.is_empty() && group.bytes().all(|b| b.is_ascii_digit());
    groups.next().is_some_and(|first| numeric(first) && first.len() <= 3)
        && whole.contains(',')
        && groups.all(|group| numeric(group) && group.len() == 3)
}

/// What one pair of brackets encloses, if it encloses all.
fn enclosed(text: &str) -> Option<&str> {
    let inner = text.strip_prefix(['(', '['])?.strip_suffix([')', ']'])?;
    let mut depth = 0i32;
    let stays_inside = inner.chars().all(|c| {
        depth += step(c);
        depth >= 0
    });
    stays_inside.then_some(inner)
}

/// What a character does to the depth of brackets.
fn step(c: char) -> i32 {
    match c {
        '(' | '[' | '{' => 1,
        ')' | ']' | '}' => -1,
        _ => 0,
    }
}

/// Parts between commas that no bracket holds.
fn split(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut parts) = (0, 0, Vec::new());
    for (at, c) in text.char_indices() {
        depth += step(c);
        if c == ',' && depth == 0 {
            parts.push(&text[start..at]);
            start = at + 1;
        }
    }
    parts.push(&text[start..]);
    parts
}

/// One expression: a number if it is one, else its text with signs and quotients in one spelling.
fn element(text: &str) -> String {
    let text = without_unit(text);
    if let Some(number) = number(text) {
        return number.to_string();
    }
    let (sign, text) = text.strip_prefix('-').map_or(("", text), |rest| ("-", rest));
    let Some((above, below)) = quotient(text) else { return format!("{sign}{text}") };
    let (sign, above) = match (sign, above.strip_prefix('-')) {
        ("-", Some(above)) => ("", above),
        (_, Some(above)) => ("-", above),
        (sign, None) => (sign, above),
    };
    format!("{sign}{above}/{below}")
}

/// Both sides of the one quotient that `text` is, without brackets around them.
fn quotient(text: &str) -> Option<(&str, &str)> {
    let mut depth = 0;
    let mut slashes = text.char_indices().filter(|&(_, c)| {
        depth += step(c);
        c == '/' && depth == 0
    });
    let (at, _) = slashes.next()?;
    if slashes.next().is_some() {
        return None;
    }
    let bare = |side| enclosed(side).unwrap_or(side);
    Some((bare(&text[..at]), bare(&text[at + 1..])))
}

/// `5cm` as `5`: letters behind a number, but not a variable of one letter.
fn without_unit(text: &str) -> &str {
    let letters = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let is_number = letters.chars().next_back().is_some_and(|c| c.is_ascii_digit() || c == ')');
    if is_number && text.len() - letters.len() >= 2 && number(letters).is_some() { letters } else { text }
}

/// A decimal, a fraction of two, or a whole number with a fraction behind it, signs in front.
fn number(text: &str) -> Option<Number> {
    if let Some(rest) = text.strip_prefix('-') {
        return number(rest).map(Number::negated);
    }
    if let Some(inner) = enclosed(text) {
        return number(inner);
    }
    if let Some((above, below)) = quotient(text) {
        if let Some((above, below)) = number(above).zip(number(below)) {
            return above.divided_by(below);
        }
        // `3(1)/(2)` is a mixed number.
        let (whole, above) = above.split_once('(')?;
        let fraction = number(above.strip_suffix(')').unwrap_or(above))?.divided_by(number(below)?)?;
        return number(whole)?.plus(fraction);
    }
    Number::read(text)
}

#[cfg(test)]
mod tests;
