//! The text that Python gives a value: an id, an answer or a date in a template is the text of the reference libraries.

use serde_json::Number;

/// `str` of an integer or a float.
pub(crate) fn number(number: &Number) -> String {
    match number.as_f64() {
        Some(value) if number.is_f64() => float(value),
        _ => number.to_string(),
    }
}

/// `str` of a truth value.
pub(super) fn boolean(value: bool) -> &'static str {
    if value { "True" } else { "False" }
}

/// `str` of a finite float: an exponent below 1e-4 and from 1e16 on.
fn float(value: f64) -> String {
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').expect("{:e} has an exponent");
    let exponent: i32 = exponent.parse().expect("an exponent is an integer");
    if value != 0.0 && !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    let plain = value.to_string();
    if plain.contains('.') { plain } else { plain + ".0" }
}

/// `str` of a `Decimal`: `unscaled` / 10^`scale`, with an exponent below 1e-6 and for a negative scale.
pub(super) fn decimal(unscaled: &str, scale: i8) -> String {
    let (sign, digits) = unscaled.strip_prefix('-').map_or(("", unscaled), |digits| ("-", digits));
    let (count, scale) = (digits.len() as i32, i32::from(scale));
    let exponent = count - 1 - scale;
    if scale == 0 {
        format!("{sign}{digits}")
    } else if scale < 0 || exponent < -6 {
        let (first, rest) = digits.split_at(1);
        let point = if rest.is_empty() { "" } else { "." };
        format!("{sign}{first}{point}{rest}E{exponent:+}")
    } else {
        let digits = format!("{digits:0>width$}", width = scale as usize + 1);
        let (whole, fraction) = digits.split_at(digits.len() - scale as usize);
        format!("{sign}{whole}.{fraction}")
    }
}

/// The fraction of a second: none, microseconds, or nanoseconds where there are any.
pub(super) fn fraction(nanoseconds: u32) -> String {
    match nanoseconds {
        0 => String::new(),
        whole if whole % 1000 == 0 => format!(".{:06}", whole / 1000),
        odd => format!(".{odd:09}"),
    }
}

/// `str` of a `timedelta`, or of the `Timedelta` of pandas that holds nanoseconds.
pub(super) fn duration(nanoseconds: i128, is_pandas: bool) -> String {
    const DAY: i128 = 86_400_000_000_000;
    let (days, rest) = (nanoseconds.div_euclid(DAY), nanoseconds.rem_euclid(DAY));
    let seconds = rest / 1_000_000_000;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let fraction = fraction((rest % 1_000_000_000) as u32);
    let time = format!("{minutes:02}:{seconds:02}{fraction}");
    if is_pandas {
        let sign = if days < 0 { "+" } else { "" };
        return format!("{days} days {sign}{hours:02}:{time}");
    }
    match days {
        0 => format!("{hours}:{time}"),
        1 | -1 => format!("{days} day, {hours}:{time}"),
        _ => format!("{days} days, {hours}:{time}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_text_of_python() {
        let floats = [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.5e300, "1.5e+300"),
            (1e-4, "0.0001"),
            (1.25e-5, "1.25e-05"),
            (f64::from(0.1_f32), "0.10000000149011612"),
        ];
        for (value, expected) in floats {
            assert_eq!(float(value), expected);
        }
        assert_eq!(number(&Number::from(u64::MAX)), "18446744073709551615");
        let decimals = [
            ("150", 2, "1.50"),
            ("-1", 2, "-0.01"),
            ("0", 2, "0.00"),
            ("7", 0, "7"),
            ("1", 10, "1E-10"),
            ("0", 10, "0E-10"),
            ("12", 8, "1.2E-7"),
            ("12", -2, "1.2E+3"),
            ("1", 6, "0.000001"),
        ];
        for (unscaled, scale, expected) in decimals {
            assert_eq!(decimal(unscaled, scale), expected);
        }
    }
}
