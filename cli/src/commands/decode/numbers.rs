//! Parsers of numbers in options, whose errors say what a number must be.

use std::str::FromStr;

/// A number for which `holds` is true.
fn number<T: FromStr>(text: &str, holds: fn(&T) -> bool, must: &str) -> Result<T, String> {
    text.parse().ok().filter(holds).ok_or_else(|| format!("it must be {must}"))
}

/// 0, 1, 2 and so on.
pub(super) fn whole<T: FromStr>(text: &str) -> Result<T, String> {
    number(text, |_| true, "a whole number, 0 or above")
}

pub(super) fn at_least_zero(text: &str) -> Result<f32, String> {
    number(text, |number: &f32| number.is_finite() && *number >= 0.0, "a number, 0 or above")
}

pub(super) fn above_zero(text: &str) -> Result<f32, String> {
    number(text, |number: &f32| number.is_finite() && *number > 0.0, "a number above 0")
}

/// A share above 0.
pub(super) fn share(text: &str) -> Result<f32, String> {
    number(text, |number: &f32| *number > 0.0 && *number <= 1.0, "a number above 0 and at most 1")
}

/// A share that may be 0.
pub(super) fn ratio(text: &str) -> Result<f64, String> {
    number(text, |number: &f64| (0.0..=1.0).contains(number), "a number from 0 to 1")
}
