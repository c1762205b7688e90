//! Text as its tokens come: whole characters at once, those of several tokens held back until they are complete.

use jacobi_datasets::Tokenizer;

/// What stands for bytes that are no character, or not yet.
const INCOMPLETE: char = '\u{fffd}';

/// The text of a growing run of tokens.
#[derive(Clone, Debug)]
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    /// The last tokens that gave text, and those that wait. Decoded together, since what a token says can depend on
    /// the one before it.
    recent: Vec<u32>,
    /// How many of `recent` gave text.
    given: usize,
}

impl<'a> TextStream<'a> {
    /// Before the first token.
    pub fn new(tokenizer: &'a Tokenizer) -> Self {
        Self { tokenizer, recent: Vec::new(), given: 0 }
    }

    /// The text that `token` completes; empty while a character is incomplete.
    pub fn push(&mut self, token: u32) -> String {
        self.recent.push(token);
        let fresh = self.waiting();
        if fresh.is_empty() || fresh.ends_with(INCOMPLETE) {
            return String::new();
        }
        self.recent.drain(..self.given);
        self.given = self.recent.len();
        fresh
    }

    /// What is left at the end, complete or not.
    pub fn rest(&mut self) -> String {
        let fresh = self.waiting();
        self.given = self.recent.len();
        fresh
    }

    fn waiting(&self) -> String {
        let before = self.tokenizer.decode(&self.recent[..self.given]);
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
    fn what_never_completes_comes_at_the_end() {
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
