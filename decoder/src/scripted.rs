//! A scripted language model for tests: the next token is a hash of the position and the last few tokens.

use jacobi_model::{LanguageModel, Session};

/// `memory` = how many preceding tokens the next one depends on; 0 makes any draft converge at once.
pub(crate) struct Scripted {
    pub(crate) vocabulary: usize,
    pub(crate) context: usize,
    pub(crate) seed: u64,
    pub(crate) memory: usize,
}

struct ScriptedSession<'a> {
    model: &'a Scripted,
    tokens: Vec<u32>,
    capacity: usize,
}

impl LanguageModel for Scripted {
    fn vocab_size(&self) -> usize {
        self.vocabulary
    }

    fn context_length(&self) -> usize {
        self.context
    }

    fn session<'a>(&'a self, capacity: usize) -> Box<dyn Session + 'a> {
        Box::new(ScriptedSession { model: self, tokens: vec![], capacity })
    }
}

impl Session for ScriptedSession<'_> {
    fn len(&self) -> usize {
        self.tokens.len()
    }

    fn capacity(&self) -> usize {
        self.capacity
    }

    fn truncate(&mut self, len: usize) {
        assert!(len <= self.tokens.len());
        self.tokens.truncate(len);
    }

    fn forward_greedy(&mut self, tokens: &[u32], first_output: usize) -> Vec<u32> {
        let start = self.tokens.len();
        self.tokens.extend(tokens);
        assert!(self.tokens.len() <= self.capacity, "{} tokens in {}", self.tokens.len(), self.capacity);
        (start + first_output..self.tokens.len()).map(|at| self.next_after(at)).collect()
    }
}

impl ScriptedSession<'_> {
    fn next_after(&self, at: usize) -> u32 {
        let from = (at + 1).saturating_sub(self.model.memory);
        let mut hash = self.model.seed ^ (at as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        for &token in &self.tokens[from..=at] {
            hash = (hash ^ u64::from(token)).wrapping_mul(0xBF58_476D_1CE4_E5B9).rotate_left(31);
        }
        ((hash ^ (hash >> 29)) % self.model.vocabulary as u64) as u32
    }
}
