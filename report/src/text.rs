//! Numbers and text for people: fixed places, a dash for missing figures, escapes.

use jacobi_datasets::schema::eval_row::Interval;

/// The sign for a figure that was not measured.
pub(crate) const NOT_MEASURED: &str = "–";

/// `2.71`, `41.2`, `1234`: three significant figures, so that columns compare.
pub(crate) fn number(value: Option<f64>) -> String {
    match value {
        None => NOT_MEASURED.to_owned(),
        Some(v) if v.abs() < 10.0 => format!("{v:.2}"),
        Some(v) if v.abs() < 1000.0 => format!("{v:.1}"),
        Some(v) => format!("{v:.0}"),
    }
}

/// `2.31x`.
pub(crate) fn times(value: Option<f64>) -> String {
    value.map_or_else(|| NOT_MEASURED.to_owned(), |v| format!("{}x", number(Some(v))))
}

/// `92.2 %` of a share. Only 1.0 is 100 %: 0.9999 is 99.9 %.
pub(crate) fn percent(share: Option<f64>) -> String {
    match share {
        None => NOT_MEASURED.to_owned(),
        Some(1.0) => "100 %".to_owned(),
        Some(s) => format!("{:.1} %", (s * 100.0).min(if s < 1.0 { 99.9 } else { f64::INFINITY })),
    }
}

/// `2.51 to 2.92`, with `format` for both ends.
pub(crate) fn interval(interval: Option<Interval>, format: fn(Option<f64>) -> String) -> String {
    interval.map_or_else(
        || NOT_MEASURED.to_owned(),
        |i| format!("{} to {}", format(Some(i.low)), format(Some(i.high))),
    )
}

/// `0.031, at most 0.125` of logit gaps.
pub(crate) fn gaps(median: Option<f64>, max: Option<f64>) -> String {
    match (median, max) {
        (Some(median), Some(max)) => format!("{median:.3}, at most {max:.3}"),
        _ => NOT_MEASURED.to_owned(),
    }
}

/// Text for HTML, between tags and in quoted attributes.
pub(crate) fn escape_html(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\0' => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

/// A Markdown code block whose fence is longer than any run of backticks inside.
pub(crate) fn code_block(text: &str) -> String {
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest.max(2) + 1);
    format!("{fence}text\n{}\n{fence}\n", text.trim_end())
}

/// Text for a cell of a Markdown table.
pub(crate) fn markdown_cell(text: &str) -> String {
    text.replace('\\', "\\\\").replace('|', "\\|").replace(['\n', '\r'], " ").replace('<', "&lt;")
}

/// Replaces line breaks and control characters by visible signs, so that text stays on one line and cannot
/// control the terminal.
pub fn visible(text: &str) -> String {
    let sign = |c: char| match c {
        '\n' => '⏎',
        '\t' => '→',
        c if c.is_control() => '·',
        c => c,
    };
    text.chars().map(sign).collect()
}

#[cfg(test)]
mod tests;
