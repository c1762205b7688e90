//! Numbers and strings as people read them: fixed places, a dash for what was not measured, escapes.

use jacobi_datasets::schema::eval_row::Interval;

/// Stands where nothing was measured.
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

/// `92.2 %` of a share. Only a whole share reads 100 %: 0.9999 is 99.9 %.
pub(crate) fn percent(share: Option<f64>) -> String {
    match share {
        None => NOT_MEASURED.to_owned(),
        Some(1.0) => "100 %".to_owned(),
        Some(s) => format!("{:.1} %", (s * 100.0).min(if s < 1.0 { 99.9 } else { f64::INFINITY })),
    }
}

/// `2.51 to 2.92`, the ends written by `format`.
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

/// Text made safe between HTML tags and in quoted attributes.
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

/// Text safe inside a Markdown table cell.
pub(crate) fn markdown_cell(text: &str) -> String {
    text.replace('\\', "\\\\").replace('|', "\\|").replace(['\n', '\r'], " ").replace('<', "&lt;")
}

/// Line breaks and control characters as signs, so that a text stays on its line and cannot steer the terminal.
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
mod tests {
    use super::*;

    #[test]
    fn text_stays_on_its_line() {
        assert_eq!(visible("a\nb\t\u{1b}[31m"), "a⏎b→·[31m");
    }

    #[test]
    fn values_as_read() {
        let rows = [
            (number(None), "–"),
            (number(Some(0.0)), "0.00"),
            (number(Some(2.714)), "2.71"),
            (number(Some(41.23)), "41.2"),
            (number(Some(1234.5)), "1234"),
            (times(Some(2.306)), "2.31x"),
            (times(None), "–"),
            (percent(Some(0.9219)), "92.2 %"),
            (percent(Some(0.9999)), "99.9 %"),
            (percent(Some(1.0)), "100 %"),
            (percent(Some(0.0)), "0.0 %"),
            (interval(Some(Interval { low: 2.5, high: 2.9 }), times), "2.50x to 2.90x"),
            (interval(None, times), "–"),
            (gaps(Some(0.03125), Some(0.125)), "0.031, at most 0.125"),
            (gaps(None, None), "–"),
        ];
        for (actual, expected) in rows {
            assert_eq!(actual, expected);
        }
    }

    #[test]
    fn hostile_text_stays_text() {
        assert_eq!(
            escape_html("<script>'a' & \"b\"</script>\0"),
            "&lt;script&gt;&#39;a&#39; &amp; &quot;b&quot;&lt;/script&gt;\u{fffd}"
        );
        assert_eq!(code_block("a\n```\nb"), "````text\na\n```\nb\n````\n");
        assert_eq!(code_block(""), "```text\n\n```\n");
        assert_eq!(markdown_cell("a|b\nc<d"), "a\\|b c&lt;d");
    }
}
