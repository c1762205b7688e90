//! Statistics of decoding: forward passes, accepted tokens, time.

use std::{collections::BTreeMap, iter::Sum};

use serde::Serialize;

use crate::{Limit, Pass, Source};

/// Statistics of one response. The prefill, which gives the first token, is counted in `prefill_seconds` alone,
/// so that autoregressive decoding has exactly one token per forward.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DecodeStats {
    /// Forward passes after the prefill.
    pub forwards: usize,
    /// Those that begin a cycle of drafting and verifying: all but the ones that verify the draft of a pass which only
    /// drafted with an adapter.
    pub cycles: usize,
    /// Tokens that the forward passes added.
    pub tokens: usize,
    /// Seconds for the prefill.
    pub prefill_seconds: f64,
    /// Seconds for the other passes.
    pub decode_seconds: f64,
    /// `acceptance[a]`: passes that accepted `a` tokens.
    pub acceptance: Vec<usize>,
    /// Accepted draft tokens, by source.
    pub accepted_from: BTreeMap<Source, usize>,
    /// Passes, by why they accepted no more.
    pub limited_by: BTreeMap<Limit, usize>,
    /// Passes and their seconds, by rows fed.
    pub widths: BTreeMap<usize, WidthStats>,
}

/// The passes of one width.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct WidthStats {
    /// Number of passes.
    pub forwards: usize,
    /// Their time in total, from the draft to the accepted tokens.
    pub seconds: f64,
}

/// The statistics of several responses together.
impl<'a> Sum<&'a DecodeStats> for DecodeStats {
    fn sum<I: Iterator<Item = &'a Self>>(responses: I) -> Self {
        responses.fold(Self::default(), |mut total, one| {
            total.forwards += one.forwards;
            total.cycles += one.cycles;
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
            for (&limit, passes) in &one.limited_by {
                *total.limited_by.entry(limit).or_default() += passes;
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
    pub(crate) fn count(&mut self, pass: &Pass, begins_cycle: bool, seconds: f64) {
        let accepted = pass.path.len();
        self.forwards += 1;
        self.cycles += usize::from(begins_cycle);
        self.decode_seconds += seconds;
        if self.acceptance.len() <= accepted {
            self.acceptance.resize(accepted + 1, 0);
        }
        self.acceptance[accepted] += 1;
        // Row 0 was not drafted.
        for &row in pass.path.iter().skip(1) {
            *self.accepted_from.entry(pass.draft.source(row)).or_default() += 1;
        }
        *self.limited_by.entry(pass.limit).or_default() += 1;
        let width = self.widths.entry(pass.draft.width()).or_default();
        width.forwards += 1;
        width.seconds += seconds;
    }

    /// Rows of all passes after the prefill.
    pub fn rows(&self) -> usize {
        self.widths.iter().map(|(rows, width)| rows * width.forwards).sum()
    }

    /// Tokens per forward; `None` without a pass after the prefill.
    pub fn tpf(&self) -> Option<f64> {
        (self.forwards > 0).then(|| self.tokens as f64 / self.forwards as f64)
    }

    /// Tokens per second of decoding; `None` without a pass after the prefill.
    pub fn tps(&self) -> Option<f64> {
        (self.forwards > 0).then(|| self.tokens as f64 / self.decode_seconds)
    }
}
