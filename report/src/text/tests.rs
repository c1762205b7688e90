//! Numbers and escapes.

use super::*;

#[test]
fn text_stays_on_its_line() {
    assert_eq!(visible("a\nb\t\u{1b}[31m"), "a⏎b→·[31m");
}

#[test]
fn numbers_are_formatted() {
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
