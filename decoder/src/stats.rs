//! What a decoder did: forward passes, accepted tokens, time.

/// Statistics of one response. Prefill is apart: it gives the first token, so `tokens` excludes it and
/// autoregressive decoding has exactly one token per forward.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DecodeStats {
    /// Forward passes after the prefill.
    pub forwards: usize,
    /// Tokens those passes produced.
    pub tokens: usize,
    /// Seconds for the prompt and the first token.
    pub prefill_seconds: f64,
    /// Seconds for the rest.
    pub decode_seconds: f64,
    /// `acceptance[a]`: passes that accepted `a` tokens.
    pub acceptance: Vec<usize>,
}

impl DecodeStats {
    /// Counts one forward pass.
    pub(crate) fn count(&mut self, accepted: usize) {
        self.forwards += 1;
        if self.acceptance.len() <= accepted {
            self.acceptance.resize(accepted + 1, 0);
        }
        self.acceptance[accepted] += 1;
    }

    /// Tokens per forward; none when the prefill was all.
    pub fn tpf(&self) -> Option<f64> {
        (self.forwards > 0).then(|| self.tokens as f64 / self.forwards as f64)
    }

    /// Tokens per second of decoding; none when the prefill was all.
    pub fn tps(&self) -> Option<f64> {
        (self.forwards > 0).then(|| self.tokens as f64 / self.decode_seconds)
    }
}
