//! The text of an answer that can be sent: whole characters, cut before a stop string, with the source of each piece.

use jacobi_datasets::Tokenizer;
use jacobi_decoder::Source;
use serde_json::{Value, json};

use crate::decoding::text_stream::TextStream;

/// Text from one source; no source: the model's own next token.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// The text.
    pub text: String,
    /// The source of its draft.
    pub source: Option<Source>,
}

impl Span {
    /// The JSON form in streams.
    pub fn to_json(&self) -> Value {
        json!({"text": self.text, "from": self.source.map_or("model", Source::as_str)})
    }
}

/// A growing text.
pub struct Spans<'a> {
    stream: TextStream<'a>,
    stops: Vec<String>,
    /// Text held back: it may be the beginning of a stop string.
    held: Vec<Span>,
    stopped: bool,
}

impl<'a> Spans<'a> {
    /// An empty text. No stop string may be empty.
    pub fn new(tokenizer: &'a Tokenizer, stops: Vec<String>) -> Self {
        Self { stream: TextStream::new(tokenizer), stops, held: Vec::new(), stopped: false }
    }

    /// Appends a token, unless a stop string came before.
    pub fn push(&mut self, token: u32, source: Option<Source>) {
        if !self.stopped {
            let text = self.stream.push(token);
            self.hold(text, source);
        }
    }

    /// Whether a stop string was found.
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

    /// Takes the text that cannot become a stop string.
    pub fn take(&mut self) -> Vec<Span> {
        let held: String = self.held.iter().map(|span| span.text.as_str()).collect();
        let may_stop = |at: &usize| self.stops.iter().any(|stop| stop.starts_with(&held[*at..]));
        let starts = held.char_indices().map(|(at, _)| at);
        let end =
            if self.stopped { held.len() } else { starts.into_iter().find(may_stop).unwrap_or(held.len()) };
        split(&mut self.held, end)
    }

    /// Takes the rest when the answer is complete.
    pub fn finish(&mut self) -> Vec<Span> {
        if !self.stopped {
            let rest = self.stream.rest();
            self.hold(rest, None);
        }
        std::mem::take(&mut self.held)
    }
}

/// Splits the first `bytes` off `spans`.
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
mod tests;
