//! What a decoder did: forward passes, accepted tokens, time.

use std::{collections::BTreeMap, iter::Sum};

use crate::{Pass, Source};

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
    /// Draft tokens that were right, by source.
    pub accepted_from: BTreeMap<Source, usize>,
    /// Passes and their seconds, by rows fed.
    pub widths: BTreeMap<usize, WidthStats>,
}

/// The passes of one width.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct WidthStats {
    /// How many.
    pub forwards: usize,
    /// Together, from the draft to the accepted tokens.
    pub seconds: f64,
}

/// Of several responses together.
impl<'a> Sum<&'a DecodeStats> for DecodeStats {
    fn sum<I: Iterator<Item = &'a Self>>(responses: I) -> Self {
        responses.fold(Self::default(), |mut total, one| {
            total.forwards += one.forwards;
            total.tokens += one.tokens;
            total.prefill_seconds += one.prefill_seconds;
            total.decode_seconds += one.decode_seconds;
            total.acceptance.resize(total.acceptance.len().max(one.acceptance.len()), 0);
            for (total, one) in total.acceptance.iter_mut().zip(&one.acceptance) {
                *total += one;
            }
            for (&source, tokens) in &one.accepted_from {
                *total.accepted_from.entry(source).or_default() += tokens;
            }
            for (&rows, one) in &one.widths {
                let width = total.widths.entry(rows).or_default();
                width.forwards += one.forwards;
                width.seconds += one.seconds;
            }
            total
        })
    }
}

impl DecodeStats {
    /// Counts one forward pass that took `seconds`.
    pub(crate) fn count(&mut self, pass: &Pass, seconds: f64) {
        let accepted = pass.path.len();
        self.forwards += 1;
        self.decode_seconds += seconds;
        if self.acceptance.len() <= accepted {
            self.acceptance.resize(accepted + 1, 0);
        }
        self.acceptance[accepted] += 1;
        // Row 0 was known before.
        for &row in pass.path.iter().skip(1) {
            *self.accepted_from.entry(pass.draft.source(row)).or_default() += 1;
        }
        let width = self.widths.entry(pass.draft.rows().len()).or_default();
        width.forwards += 1;
        width.seconds += seconds;
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
