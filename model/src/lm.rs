//! The interface between decoders and models: rows of token ids in, predictions out. [`crate::Transformer`] and
//! [`crate::DecodingModel`] implement it; tests of decoders use scripted fakes.

use crate::Rows;

/// A causal language model that can open decoding sessions.
pub trait LanguageModel {
    /// Number of token ids.
    fn vocab_size(&self) -> usize;
    /// Longest sequence, prompt and response together.
    fn context_length(&self) -> usize;
    /// Whether rows can use an adapter ([`Place::Adapted`]).
    fn has_adapter(&self) -> bool {
        false
    }
    /// Bytes of KV cache per token of a sequence.
    fn cache_bytes_per_token(&self) -> usize;
    /// A session of `slots` sequences, each with room for `capacity` tokens: cached ones and those of a pass.
    fn session<'a>(&'a self, slots: usize, capacity: usize) -> Box<dyn Session + 'a>;
}

/// The caches of several sequences that are decoded together.
pub trait Session {
    /// Number of cached tokens of the sequence in `slot`.
    fn cached(&self, slot: usize) -> usize;
    /// Forgets every token of `slot` from `len` on.
    fn truncate(&mut self, slot: usize, len: usize);
    /// One forward pass over all of `work`, which has each slot at most once at its [`Place::End`]. Caches
    /// nothing before [`Session::keep`]. Read the predictions before the next pass.
    fn forward(&mut self, work: &[Work]) -> Box<dyn Predictions>;
    /// Caches `rows` of what `slot` had at its end in the last pass: a path, each the child of the one before.
    fn keep(&mut self, slot: usize, rows: &[usize]);
}

/// The rows of one sequence in a forward pass.
#[derive(Clone, Copy, Debug)]
pub struct Work<'a> {
    /// The sequence.
    pub slot: usize,
    /// What the rows follow, and whether they use an adapter.
    pub place: Place,
    /// The rows.
    pub rows: &'a Rows,
    /// The first row whose predictions are needed.
    pub first_output: usize,
}

/// What the rows of a piece of work follow, and whether they use an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// All cached tokens. The rows can be kept.
    End,
    /// The first this many cached tokens. The rows are another continuation of that prefix: they see nothing
    /// after it and cannot be kept. A pass can have any number of them.
    After(usize),
    /// As [`Place::After`], but the rows use the model's adapter, and the prefix may continue behind the cached tokens
    /// with tokens that the same pass has at [`Place::End`] in a chain. In a pass such work comes last.
    Adapted(usize),
}

/// What a model predicts after each row of a pass from [`Work::first_output`] on. The rows of all work are
/// numbered consecutively from 0.
pub trait Predictions {
    /// The most probable token after each row.
    fn greedy(&self) -> Vec<u32>;
    /// The `k` most probable tokens after each of `rows`, with their log-probabilities, best first.
    fn top(&self, rows: &[usize], k: usize) -> Vec<Vec<(u32, f32)>>;
    /// The logits after `row`, one per token id.
    fn logits(&self, row: usize) -> Vec<f32>;
}
