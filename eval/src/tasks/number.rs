//! Exact numbers in running text: `$1,234.50`, `-5`, `3/4`, `3 1/2`. Values are reduced fractions, so `18`,
//! `18.00` and `36/2` are equal without a tolerance.

use std::fmt;

/// A reduced fraction; the denominator is positive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Number {
    numerator: i128,
    denominator: i128,
}

/// A number and its position in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// The first byte, of the sign if there is one.
    pub start: usize,
    /// The byte after it.
    pub end: usize,
    /// The value.
    pub value: Number,
}

/// Written before a fraction, so that `3\frac12` is not read as `31/2`.
pub(super) const INVISIBLE_PLUS: char = '\u{2064}';

/// Every number of `text`, in order. Numbers too long for 128 bits are left out.
pub fn numbers(text: &str) -> Vec<Found> {
    let bytes = text.as_bytes();
    let mut found = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        if !starts_number(bytes, at) {
            at += 1;
            continue;
        }
        let (mut value, mut end) = decimal(bytes, at);
        if bytes.get(end) == Some(&b'/') && bytes.get(end + 1).is_some_and(u8::is_ascii_digit) {
            let (denominator, after) = decimal(bytes, end + 1);
            value = value.zip(denominator).and_then(|(n, d)| n.divided_by(d));
            end = after;
        } else if let Some((fraction, after)) = fraction_after(text, end)
            && !text[at..end].contains('.')
        {
            value = value.and_then(|whole| whole.plus(fraction));
            end = after;
        }
        let (negative, start) = sign_before(text, at);
        if let Some(value) = value {
            let value = if negative { value.negated() } else { value };
            found.push(Found { start, end, value });
        }
        at = end;
    }
    found
}

/// The proper fraction of a mixed number whose whole part ends at `at`, the `1/2` of `3 1/2`, and its end.
fn fraction_after(text: &str, at: usize) -> Option<(Number, usize)> {
    let rest = &text[at..];
    let behind = rest.strip_prefix(' ').unwrap_or(rest);
    let behind = behind.strip_prefix(INVISIBLE_PLUS).unwrap_or(behind);
    let (above, slash) = decimal(behind.as_bytes(), 0);
    let below = behind.get(slash..)?.strip_prefix('/')?;
    let (below, end) = decimal(below.as_bytes(), 0);
    let (above, below) = above.filter(|_| behind.len() < rest.len()).zip(below)?;
    let is_proper = above.denominator == 1 && below.denominator == 1 && above.numerator < below.numerator;
    let fraction = above.divided_by(below).filter(|_| is_proper)?;
    Some((fraction, text.len() - behind.len() + slash + 1 + end))
}

fn starts_number(bytes: &[u8], at: usize) -> bool {
    let digit = |i: usize| bytes.get(i).is_some_and(u8::is_ascii_digit);
    digit(at) || (bytes[at] == b'.' && digit(at + 1))
}

/// Reads digits, groups of three after commas, and a fraction part. Returns the value and its end.
fn decimal(bytes: &[u8], start: usize) -> (Option<Number>, usize) {
    let digit = |i: usize| bytes.get(i).is_some_and(u8::is_ascii_digit);
    let mut digits = Vec::new();
    let mut at = start;
    while digit(at) || (bytes.get(at) == Some(&b',') && at > start && is_group(bytes, at + 1)) {
        if digit(at) {
            digits.push(bytes[at]);
        }
        at += 1;
    }
    let mut places = 0;
    if bytes.get(at) == Some(&b'.') && digit(at + 1) {
        at += 1;
        while digit(at) {
            digits.push(bytes[at]);
            places += 1;
            at += 1;
        }
    }
    (Number::from_digits(&digits, places), at)
}

/// Whether there are exactly three digits at `at`: `1,234` is one number, `1, 2` and `1,2` are two.
fn is_group(bytes: &[u8], at: usize) -> bool {
    bytes[at..].iter().take_while(|b| b.is_ascii_digit()).count() == 3
}

/// Whether a minus before the number, and before its currency and markup, is a sign and not an operator; and
/// the start of the number with its sign.
fn sign_before(text: &str, start: usize) -> (bool, usize) {
    let markup = |c: char| matches!(c, '$' | '€' | '£' | '\\' | '*' | '{' | '(' | INVISIBLE_PLUS);
    let before = text[..start].trim_end_matches(markup);
    let Some(rest) = before.strip_suffix('-').or_else(|| before.strip_suffix('−')) else {
        return (false, start);
    };
    let previous = rest.chars().next_back();
    let operand = previous.is_some_and(|c| c.is_alphanumeric() || matches!(c, ')' | ']' | '}' | '%'));
    if operand { (false, start) } else { (true, rest.len()) }
}

impl Number {
    /// The value of `text`, if it is a decimal and nothing else.
    pub(super) fn read(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        if bytes.is_empty() || !starts_number(bytes, 0) {
            return None;
        }
        let (value, end) = decimal(bytes, 0);
        value.filter(|_| end == bytes.len())
    }

    pub(super) fn plus(self, other: Self) -> Option<Self> {
        let left = self.numerator.checked_mul(other.denominator)?;
        let right = other.numerator.checked_mul(self.denominator)?;
        Self::reduced(left.checked_add(right)?, self.denominator.checked_mul(other.denominator)?)
    }

    fn from_digits(digits: &[u8], places: u32) -> Option<Self> {
        let text = std::str::from_utf8(digits).ok()?;
        Self::reduced(text.parse().ok()?, 10_i128.checked_pow(places)?)
    }

    fn reduced(numerator: i128, denominator: i128) -> Option<Self> {
        if denominator == 0 {
            return None;
        }
        let (mut a, mut b) = (numerator, denominator);
        while b != 0 {
            (a, b) = (b, a % b);
        }
        let divisor = a.abs();
        Some(Self { numerator: numerator / divisor, denominator: denominator / divisor })
    }

    pub(super) fn divided_by(self, other: Self) -> Option<Self> {
        Self::reduced(
            self.numerator.checked_mul(other.denominator)?,
            self.denominator.checked_mul(other.numerator)?,
        )
    }

    pub(super) fn negated(self) -> Self {
        Self { numerator: -self.numerator, ..self }
    }
}

/// A decimal where it terminates, else a fraction: `18`, `-0.5`, `1/3`.
impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut scale, mut places) = (1_i128, 0_usize);
        while scale % self.denominator != 0 {
            match scale.checked_mul(10).filter(|s| s.checked_mul(self.numerator).is_some()) {
                Some(next) if places < 30 => (scale, places) = (next, places + 1),
                _ => return write!(f, "{}/{}", self.numerator, self.denominator),
            }
        }
        let digits = (self.numerator.abs() * (scale / self.denominator)).to_string();
        let digits = format!("{digits:0>width$}", width = places + 1);
        let (whole, fraction) = digits.split_at(digits.len() - places);
        let sign = if self.numerator < 0 { "-" } else { "" };
        let point = if places > 0 { "." } else { "" };
        write!(f, "{sign}{whole}{point}{fraction}")
    }
}

#[cfg(test)]
mod tests;
