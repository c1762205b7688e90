//! Answers of competition mathematics, as MATH asks for them (arXiv 2103.03874): in `\boxed{..}`.
//!
//! The answer of a response is its last closed box that is not empty, else the text after its last "answer is".
//! Answers are equal when their normal forms are. In the normal form
//!
//! - numbers are reduced fractions; fractions, roots and powers have one spelling; words are in lower case;
//! - units, currency, percent and degree signs are removed, and so is `x =` or `x \in` in front;
//! - lists are sorted; tuples and intervals are normalised part by part.
//!
//! Different expressions of the same value are not recognised as equal.

use super::latex::{balanced, boxed, respelled, rewritten, stated_answers, unbraced};
use super::number::Number;

/// Bytes of the longest answer that is read. Right answers are much shorter; endless output costs neither time
/// nor stack.
const LONGEST: usize = 2000;

/// The right answer, normalised, from the text of the answer column.
pub(super) fn gold(answer: &str) -> Option<String> {
    normal(last_box(answer).unwrap_or(answer))
}

/// The answer of a response, not normalised.
pub(super) fn extract(response: &str) -> Option<String> {
    last_box(response).or_else(|| stated_answers(response).next()).map(str::to_owned)
}

/// The last box that is not empty: a response may mention `\boxed{}` after its answer.
fn last_box(text: &str) -> Option<&str> {
    boxed(text).find(|inner| normal(inner).is_some())
}

/// Sizes and signs that do not change the value.
const NOISE: [&str; 18] = [
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
    "^\\circ",
    "^{\\circ}",
    "\\degree",
    "\\%",
    "%",
    "\\$",
    "$",
    "**",
];

/// Spellings, and the one that they are replaced by.
const SPELLINGS: [(&str, &str); 23] = [
    ("\\;", " "),
    ("\\:", " "),
    ("\\ ", " "),
    ("~", " "),
    ("\\qquad", " "),
    ("\\quad", " "),
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
    ("\\in", "∈"),
];

/// The normal form of an answer; `None` if it is empty.
pub(super) fn normal(answer: &str) -> Option<String> {
    let answer = answer.trim();
    if answer.len() > LONGEST {
        return None;
    }
    // First, since the end of a matrix row contains an escaped space.
    let mut text = answer.trim_start_matches("\\[").trim_end_matches("\\]").trim().replace("\\\\", "⏎");
    let noise = NOISE.map(|noise| (noise, ""));
    for (spelling, plain) in noise.into_iter().chain(SPELLINGS) {
        text = respelled(&text, spelling, plain);
    }
    text = without_words(text.trim().trim_end_matches(['.', ',', ';', ':']));
    text = rewritten(&text, "\\sqrt", |[of]| format!("√({})", of.trim()));
    text = rewritten(&text, "\\frac", |[a, b]: [&str; 2]| format!("({})/({})", a.trim(), b.trim()));
    let text = parts(right_side(&unbraced(&unspaced(&text))));
    if text.is_empty() { None } else { Some(text) }
}

/// Handles text in a formula: a unit after a number is removed with its power, "or" and "and" separate a list,
/// and an answer of only text is kept.
fn without_words(answer: &str) -> String {
    let mut text = answer.to_owned();
    for command in ["\\textbf", "\\textit", "\\text", "\\mbox", "\\mathrm", "\\mathbf"] {
        text = rewritten(&text, command, |[words]| match words.trim() {
            "or" | "and" => ";".to_owned(),
            // Numbers, not units.
            number @ ("i" | "e") => number.to_owned(),
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
    if plain.trim().is_empty() { word(words.trim().trim_matches(['(', ')'])) } else { plain }
}

/// A word in lower case. A single letter is a variable and keeps its case.
fn word(text: &str) -> String {
    if text.chars().count() > 1 { text.to_lowercase() } else { text.to_owned() }
}

/// Removes spaces. A comma before a space certainly separates a list, and becomes a semicolon.
fn unspaced(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        if !c.is_whitespace() {
            plain.push(c);
        } else if plain.ends_with(',') {
            plain.pop();
            plain.push(';');
        }
    }
    plain
}

/// The text after `x =`, `f(x) =`, `(x, y) =` or `x \in`, if nothing else is on the left.
fn right_side(text: &str) -> &str {
    match text.split_once(['=', '∈']) {
        Some((left, right)) if is_name(left) && !right.contains('=') => right,
        _ => text,
    }
}

fn is_name(left: &str) -> bool {
    left.trim_start_matches('(').starts_with(|c: char| c.is_alphabetic() || c == '\\')
        && left.chars().all(|c| c.is_alphanumeric() || matches!(c, '(' | ')' | '_' | ',' | ';' | '\\'))
        && commas(left).len() == 1
}

/// Normalises a tuple, interval or matrix row part by part; sorts a set or a bare list.
fn parts(text: &str) -> String {
    let set = text.strip_prefix("\\{").and_then(|inner| inner.strip_suffix("\\}"));
    let inside = set.unwrap_or(text);
    if let Some(inner) = enclosed(inside).map(commas).filter(|inner| inner.len() > 1) {
        let inner: Vec<String> = inner.into_iter().map(parts).collect();
        let (open, close) = (&inside[..1], &inside[inside.len() - 1..]);
        return format!("{open}{}{close}", inner.join(","));
    }
    let elements = set.map_or_else(|| listed(text), commas);
    let elements = values_of_one_name(&elements).unwrap_or(elements);
    let mut elements: Vec<String> = elements.into_iter().map(element).collect();
    elements.sort_unstable();
    elements.join(",")
}

/// The elements of a bare list. A comma without a space after it separates thousands if it can: `100,200` is
/// one number, as `1,234` is, and `100, 200` are two. So the rare list of such numbers without spaces is
/// misread.
fn listed(text: &str) -> Vec<&str> {
    let elements = split(text, &[';']).into_iter().flat_map(|part| match is_grouped(without_unit(part)) {
        true => vec![part],
        false => split(part, &[',']),
    });
    elements.filter(|element| !element.is_empty()).collect()
}

/// The right sides `1` and `-2` of `x=1` and `x=-2`; `None` if the names differ, since then the order matters.
fn values_of_one_name<'a>(elements: &[&'a str]) -> Option<Vec<&'a str>> {
    let sides: Vec<(&str, &str)> =
        elements.iter().map(|element| element.split_once('=')).collect::<Option<_>>()?;
    let (name, _) = *sides.first()?;
    let is_one = is_name(name) && sides.iter().all(|(left, right)| *left == name && !right.contains('='));
    is_one.then(|| sides.into_iter().map(|(_, right)| right).collect())
}

/// Whether commas separate thousands: `1,234,567`.
fn is_grouped(text: &str) -> bool {
    let digits = text.trim_start_matches('-');
    let whole = digits.split('.').next().unwrap_or_default();
    let mut groups = whole.split(',');
    let numeric = |group: &str| !group.is_empty() && group.bytes().all(|b| b.is_ascii_digit());
    groups.next().is_some_and(|first| numeric(first) && first.len() <= 3)
        && whole.contains(',')
        && groups.all(|group| numeric(group) && group.len() == 3)
}

/// The inside of one pair of brackets around the whole text.
fn enclosed(text: &str) -> Option<&str> {
    let inner = text.strip_prefix(['(', '['])?.strip_suffix([')', ']'])?;
    let mut depth = 0i32;
    let stays_inside = inner.chars().all(|c| {
        depth += step(c);
        depth >= 0
    });
    stays_inside.then_some(inner)
}

/// The change of bracket depth at a character.
fn step(c: char) -> i32 {
    match c {
        '(' | '[' | '{' => 1,
        ')' | ']' | '}' => -1,
        _ => 0,
    }
}

/// Parts between commas or semicolons outside of brackets.
fn commas(text: &str) -> Vec<&str> {
    split(text, &[',', ';'])
}

/// Parts between `separators` outside of brackets.
fn split<'a>(text: &'a str, separators: &[char]) -> Vec<&'a str> {
    let (mut depth, mut start, mut parts) = (0, 0, Vec::new());
    for (at, c) in text.char_indices() {
        depth += step(c);
        if depth == 0 && separators.contains(&c) {
            parts.push(&text[start..at]);
            start = at + c.len_utf8();
        }
    }
    parts.push(&text[start..]);
    parts
}

/// Normalises one expression: a number, a word, or a text with one spelling of signs and quotients.
fn element(text: &str) -> String {
    let text = without_unit(text);
    if let Some(number) = number(text) {
        return number.to_string();
    }
    let bare = enclosed(text).unwrap_or(text);
    if bare.chars().all(char::is_alphabetic) {
        return word(bare);
    }
    let text = text.replace(';', ",");
    let (sign, text) = text.strip_prefix('-').map_or(("", text.as_str()), |rest| ("-", rest));
    let Some((above, below)) = quotient(text) else { return format!("{sign}{text}") };
    let (sign, above) = match (sign, above.strip_prefix('-')) {
        ("-", Some(above)) => ("", above),
        (_, Some(above)) => ("-", above),
        (sign, None) => (sign, above),
    };
    format!("{sign}{above}/{below}")
}

/// Both sides of a quotient, without redundant brackets: those of `(x+1)/2` and `1/(2x)` stay. `None` if `text`
/// has not exactly one `/` outside of brackets.
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
    let (above, below) = (&text[..at], &text[at + 1..]);
    let bare = |side, may: fn(&str) -> bool| enclosed(side).filter(|inner| may(inner)).unwrap_or(side);
    Some((bare(above, is_product), bare(below, is_factor)))
}

/// Whether `text` has no sum outside of brackets; a sign in front is allowed.
fn is_product(text: &str) -> bool {
    let mut depth = 0;
    let adds = text.char_indices().any(|(at, c)| {
        depth += step(c);
        depth == 0 && at > 0 && matches!(c, '+' | '-' | '±')
    });
    !adds && !text.contains("\\pm") && !text.contains("\\mp")
}

/// Whether `text` is a number, a letter, a command, a root, an expression in brackets, or a power of one of these.
fn is_factor(text: &str) -> bool {
    let is_base = |text: &str| {
        let command = text.strip_prefix('\\').unwrap_or_default();
        Number::read(text).is_some()
            || text.chars().count() == 1
            || (!command.is_empty() && command.bytes().all(|b| b.is_ascii_alphabetic()))
            || enclosed(text.strip_prefix('√').unwrap_or(text)).is_some()
    };
    let is_exponent = |text: &str| is_base(text) || (text.starts_with('{') && text.ends_with('}'));
    let power = text.rsplit_once('^');
    is_base(text) || power.is_some_and(|(base, exponent)| is_base(base) && is_exponent(exponent))
}

/// Units of two and three letters; other two letters could be a product of two variables.
const UNITS: [&str; 20] = [
    "cm", "mm", "km", "ft", "in", "yd", "mi", "kg", "mg", "lb", "oz", "ml", "hr", "min", "sec", "day", "mph",
    "kph", "lbs", "deg",
];

/// Removes a unit after a number, of [`UNITS`] or any word of at least four letters: `5cm^2` becomes `5`.
fn without_unit(text: &str) -> &str {
    let unit = text.trim_end_matches(['²', '³']);
    let unit = unit.strip_suffix("^2").or_else(|| unit.strip_suffix("^3")).unwrap_or(unit);
    let value = unit.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = &unit[value.len()..];
    let is_unit = unit.len() > 3 || UNITS.contains(&unit);
    if is_unit && number(value).is_some() { value } else { text }
}

/// The value of a decimal, a fraction or a mixed number. Signs and brackets around it are removed in a loop: a
/// response can have any number of them, too many for recursion.
fn number(text: &str) -> Option<Number> {
    let (mut text, mut is_negative) = (text, false);
    loop {
        if let Some(rest) = text.strip_prefix('-') {
            (text, is_negative) = (rest, !is_negative);
        } else if let Some(inner) = enclosed(text) {
            text = inner;
        } else {
            break;
        }
    }
    let value = match quotient(text) {
        Some((above, below)) => fraction(above, below)?,
        None => Number::read(text)?,
    };
    Some(if is_negative { value.negated() } else { value })
}

/// The value of `above` over `below`; `3(1)` over `2` is the mixed number 3 1/2.
fn fraction(above: &str, below: &str) -> Option<Number> {
    let below = number(below)?;
    if let Some(above) = number(above) {
        return above.divided_by(below);
    }
    let (whole, above) = above.split_once('(')?;
    let above = number(above.strip_suffix(')').unwrap_or(above))?;
    number(whole)?.plus(above.divided_by(below)?)
}

#[cfg(test)]
mod tests;
