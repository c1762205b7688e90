//! Tests of `spans.rs`.

use super::*;
use std::path::Path;

fn text(spans: &[Span]) -> String {
    spans.iter().map(|span| span.text.as_str()).collect()
}

/// What is sent token by token, and whether a stop string came.
fn sent(text_in: &str, stops: &[&str]) -> (Vec<String>, bool) {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("datasets/default/model");
    let tokenizer = Tokenizer::load(&model).unwrap();
    let mut spans = Spans::new(&tokenizer, stops.iter().map(|stop| (*stop).to_owned()).collect());
    let mut pieces: Vec<String> = Vec::new();
    for token in tokenizer.encode(text_in).unwrap() {
        spans.push(token, None);
        pieces.push(text(&spans.take()));
    }
    pieces.push(text(&spans.finish()));
    (pieces, spans.is_stopped())
}

#[test]
fn a_stop_string_and_the_text_after_it_are_never_sent() {
    let rows = [
        ("How many ducks? Two.", &["ducks"][..], "How many ", true),
        ("How many ducks? Two.", &["Two", "many d"], "How ", true),
        ("naïve 日本語!", &["本"], "naïve 日", true),
        ("How many", &["many ducks"], "How many", false),
        ("aaab", &["aab"], "a", true),
        ("How", &[], "How", false),
        ("How", &["H"], "", true),
    ];
    for (all, stops, expected, stopped) in rows {
        let (pieces, found) = sent(all, stops);
        assert_eq!((pieces.concat().as_str(), found), (expected, stopped), "{all} {stops:?}");
        // Text that was sent is never withdrawn.
        let mut so_far = String::new();
        for piece in pieces {
            so_far += &piece;
            assert!(expected.starts_with(&so_far), "{so_far:?} of {expected:?}");
        }
    }
}

#[test]
fn spans_keep_their_sources_when_they_are_cut() {
    let span = |text: &str, source| Span { text: text.to_owned(), source };
    let mut spans = vec![span("ab", None), span("cde", Some(Source::Own)), span("f", None)];
    assert_eq!(split(&mut spans, 4), [span("ab", None), span("cd", Some(Source::Own))]);
    assert_eq!(spans, [span("e", Some(Source::Own)), span("f", None)]);
    assert_eq!(split(&mut spans, 0), []);
    assert_eq!(span("a", Some(Source::Tree)).to_json(), json!({"text": "a", "from": "tree"}));
}
