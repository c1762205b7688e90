//! The text of an answer as it may be sent: whole characters, cut before a stop string, with where each piece came from.

use jacobi_datasets::Tokenizer;
use jacobi_decoder::Source;
use serde_json::{Value, json};

use crate::decoding::text_stream::TextStream;

/// Text from one source; none is the model's own next token.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// The text.
    pub text: String,
    /// Where it came from.
    pub source: Option<Source>,
}

impl Span {
    /// The form in which streams carry it.
    pub fn to_json(&self) -> Value {
        json!({"text": self.text, "from": self.source.map_or("model", Source::as_str)})
    }
}

/// A growing text.
pub struct Spans<'a> {
    stream: TextStream<'a>,
    stops: Vec<String>,
    /// Text that was not given out: it may be the beginning of a stop string.
    held: Vec<Span>,
    stopped: bool,
}

impl<'a> Spans<'a> {
    /// Before the first token. No stop string is empty.
    pub fn new(tokenizer: &'a Tokenizer, stops: Vec<String>) -> Self {
        Self { stream: TextStream::new(tokenizer), stops, held: Vec::new(), stopped: false }
    }

    /// Takes a token, unless a stop string came before.
    pub fn push(&mut self, token: u32, source: Option<Source>) {
        if !self.stopped {
            let text = self.stream.push(token);
            self.hold(text, source);
        }
    }

    /// Whether a stop string has come.
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    fn hold(&mut self, text: String, source: Option<Source>) {
        if text.is_empty() {
            return;
        }
        match self.held.last_mut() {
            Some(last) if last.source == source => last.text += &text,
            _ => self.held.push(Span { text, source }),
        }
        let held: String = self.held.iter().map(|span| span.text.as_str()).collect();
        if let Some(end) = self.stops.iter().filter_map(|stop| held.find(stop)).min() {
            self.stopped = true;
            self.held = split(&mut self.held, end);
        }
    }

    /// What may be sent: all but what may become a stop string.
    pub fn take(&mut self) -> Vec<Span> {
        let held: String = self.held.iter().map(|span| span.text.as_str()).collect();
        let may_stop = |at: &usize| self.stops.iter().any(|stop| stop.starts_with(&held[*at..]));
        let starts = held.char_indices().map(|(at, _)| at);
        let end =
            if self.stopped { held.len() } else { starts.into_iter().find(may_stop).unwrap_or(held.len()) };
        split(&mut self.held, end)
    }

    /// What is left when the answer is complete.
    pub fn finish(&mut self) -> Vec<Span> {
        if !self.stopped {
            let rest = self.stream.rest();
            self.hold(rest, None);
        }
        std::mem::take(&mut self.held)
    }
}

/// Takes the first `bytes` off `spans`.
fn split(spans: &mut Vec<Span>, bytes: usize) -> Vec<Span> {
    let (mut taken, mut left) = (Vec::new(), bytes);
    while left > 0 {
        let span = &mut spans[0];
        if span.text.len() <= left {
            left -= span.text.len();
            taken.push(spans.remove(0));
        } else {
            let rest = span.text.split_off(left);
            taken.push(Span { text: std::mem::replace(&mut span.text, rest), source: span.source });
            left = 0;
        }
    }
    taken
}

#[cfg(test)]
mod tests {
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
    fn a_stop_string_and_what_follows_are_never_sent() {
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
            // What was sent is never taken back.
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
}
