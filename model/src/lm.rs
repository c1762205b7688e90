//! The seam between decoders and models: rows of token ids in, predictions out. Decoders are tested against scripted
//! fakes of these traits, and run on [`crate::Transformer`].

use crate::Rows;

/// A causal language model that can open decoding sessions.
pub trait LanguageModel {
    /// Number of token ids.
    fn vocab_size(&self) -> usize;
    /// Longest sequence, prompt and response together.
    fn context_length(&self) -> usize;
    /// Bytes of cache that a token of a sequence takes.
    fn cache_bytes_per_token(&self) -> usize;
    /// A session of `slots` sequences, each with room for `capacity` tokens: those kept and those of one pass.
    fn session<'a>(&'a self, slots: usize, capacity: usize) -> Box<dyn Session + 'a>;
}

/// Some sequences being decoded side by side: their cached tokens.
pub trait Session {
    /// Tokens that the sequence in `slot` has cached.
    fn cached(&self, slot: usize) -> usize;
    /// Forgets every token of `slot` from `len` on.
    fn truncate(&mut self, slot: usize, len: usize);
    /// One forward pass over all of `work`, no slot twice at its [`Place::End`]. Nothing counts as cached before
    /// [`Session::keep`]. What is predicted is to be read before the next pass.
    fn forward(&mut self, work: &[Work]) -> Box<dyn Predictions>;
    /// Caches some of the rows that `slot` had at its end in the last pass, ascending, each below the one before.
    fn keep(&mut self, slot: usize, rows: &[usize]);
}

/// What one sequence has computed in a forward pass.
#[derive(Clone, Copy, Debug)]
pub struct Work<'a> {
    /// The sequence.
    pub slot: usize,
    /// Where in it.
    pub place: Place,
    /// The tokens that follow there.
    pub rows: &'a Rows,
    /// Predictions are wanted from this row on.
    pub first_output: usize,
}

/// What the rows of a piece of work follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// All cached tokens. These rows can be kept.
    End,
    /// The first so many of the cached tokens, beside those that follow there: other continuations of the same text,
    /// any number of them in a pass. They see what they follow and are forgotten.
    After(usize),
}

/// What a model expects after each wanted row of a pass: the rows of all work, one after the other, counted from 0.
pub trait Predictions {
    /// The most probable token after each row.
    fn greedy(&self) -> Vec<u32>;
    /// The `k` most probable tokens after each of `rows`, with their log-probabilities, best first.
    fn top(&self, rows: &[usize], k: usize) -> Vec<Vec<(u32, f32)>>;
    /// The logits after `row`, one per token id.
    fn logits(&self, row: usize) -> Vec<f32>;
}
