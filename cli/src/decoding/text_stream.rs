//! Decodes a stream of tokens to text. A character of several tokens is held back until it is complete.

use jacobi_datasets::Tokenizer;

/// The tokenizer's replacement for invalid or incomplete characters.
const INCOMPLETE: char = '\u{fffd}';

/// The text of a growing sequence of tokens.
#[derive(Clone, Debug)]
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    /// The last tokens whose text was returned, then those held back. They are decoded together, since a token's text
    /// can depend on the token before it.
    recent: Vec<u32>,
    /// Number of tokens of `recent` whose text was returned.
    returned: usize,
}

impl<'a> TextStream<'a> {
    /// A stream without tokens.
    pub fn new(tokenizer: &'a Tokenizer) -> Self {
        Self { tokenizer, recent: Vec::new(), returned: 0 }
    }

    /// The text that `token` completes; empty while a character is incomplete.
    pub fn push(&mut self, token: u32) -> String {
        self.recent.push(token);
        let fresh = self.held_back();
        if fresh.is_empty() || fresh.ends_with(INCOMPLETE) {
            return String::new();
        }
        self.recent.drain(..self.returned);
        self.returned = self.recent.len();
        fresh
    }

    /// The text held back, complete or not.
    pub fn rest(&mut self) -> String {
        let fresh = self.held_back();
        self.returned = self.recent.len();
        fresh
    }

    fn held_back(&self) -> String {
        let before = self.tokenizer.decode(&self.recent[..self.returned]);
        let now = self.tokenizer.decode(&self.recent);
        now.get(before.len()..).unwrap_or_default().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decoding::tests::default_model;

    #[test]
    fn pieces_are_whole_characters_and_make_the_text() {
        let tokenizer = Tokenizer::load(&default_model()).unwrap();
        for text in ["How many ducks?", "naïve 日本語 🎉!\n\n  1+1", "", "🎉"] {
            let ids = tokenizer.encode(text).unwrap();
            let mut stream = TextStream::new(&tokenizer);
            let pieces: Vec<String> = ids.iter().map(|&id| stream.push(id)).collect();
            assert_eq!(pieces.concat(), text);
            assert!(pieces.iter().all(|piece| !piece.contains(INCOMPLETE)), "{pieces:?}");
            assert_eq!(stream.rest(), "");
        }
    }

    #[test]
    fn incomplete_characters_come_at_the_end() {
        let tokenizer = Tokenizer::load(&default_model()).unwrap();
        let ids = tokenizer.encode("a🎉").unwrap();
        let cut = &ids[..ids.len() - 1];
        let mut stream = TextStream::new(&tokenizer);
        let text: String = cut.iter().map(|&id| stream.push(id)).collect();
        assert_eq!(text, "a");
        assert_eq!(text + &stream.rest(), tokenizer.decode(cut));
        // Special tokens say nothing and hold nothing up.
        let mut stream = TextStream::new(&tokenizer);
        let eos = tokenizer.eos_token_ids()[0];
        let text: String = [ids[0], eos, ids[0]].into_iter().map(|id| stream.push(id)).collect();
        assert_eq!(text, "aa");
    }
}
