//! A response as it grows, and the rules that end it. Integers only.

use jacobi_datasets::FinishReason;

/// When decoding ends.
#[derive(Clone, Debug, PartialEq)]
pub struct StopRules {
    /// Longest response, EOS included.
    pub max_new_tokens: usize,
    /// Any of these ends the response and belongs to it.
    pub eos_token_ids: Vec<u32>,
}

/// Tokens known to be right so far.
pub(crate) struct Response<'a> {
    tokens: Vec<u32>,
    limit: usize,
    eos: &'a [u32],
    finished: Option<FinishReason>,
}

impl<'a> Response<'a> {
    pub(crate) fn new(limit: usize, eos: &'a [u32]) -> Self {
        Self { tokens: Vec::with_capacity(limit), limit, eos, finished: None }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.finished.is_none()
    }

    pub(crate) fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    pub(crate) fn last(&self) -> u32 {
        *self.tokens.last().expect("the prefill gave the first token")
    }

    /// Appends tokens up to the first that ends the response; the rest is dropped.
    pub(crate) fn extend(&mut self, known: &[u32]) {
        for &token in known {
            if self.finished.is_some() {
                return;
            }
            self.tokens.push(token);
            if self.eos.contains(&token) {
                self.finished = Some(FinishReason::Eos);
            } else if self.tokens.len() == self.limit {
                self.finished = Some(FinishReason::Length);
            }
        }
    }

    pub(crate) fn finish(self) -> (Vec<u32>, FinishReason) {
        (self.tokens, self.finished.expect("decoding runs until a rule ends it"))
    }
}
