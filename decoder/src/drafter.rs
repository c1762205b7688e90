//! The interface between proposing drafts and verifying them. A draft changes how many passes a response takes,
//! never its text: the model accepts or rejects each token of it.

use crate::{Draft, Pass, outputs::DraftOutputs};

/// Proposes the rows that the next pass verifies.
pub(crate) trait Drafter {
    /// Rows to verify. `text` is prompt and response; its last token, which is right and not cached yet,
    /// becomes row 0. No path is longer than `room` rows (at least 1).
    fn draft(&mut self, text: &[u32], room: usize) -> Draft;

    /// Learns from a pass over its draft, which accepted at least row 0. `outputs` has the model's other likely
    /// tokens.
    fn learn(&mut self, pass: &Pass, outputs: &DraftOutputs);

    /// Keeps from now on what [`Drafter::rejected_rank`] needs.
    fn rank_rejections(&mut self) {}

    /// [`Pass::rejected_rank`] of `pass`, before the drafter learns from it.
    fn rejected_rank(&self, _pass: &Pass) -> Option<usize> {
        None
    }

    /// Moves on by one token that was decided without its draft.
    fn skip(&mut self);
}

/// Drafts nothing: one token per pass. The baseline of every speed figure; every other decoder is tested against it.
pub(crate) struct Autoregressive;

impl Drafter for Autoregressive {
    fn draft(&mut self, text: &[u32], _room: usize) -> Draft {
        Draft::run(text[text.len() - 1], &[], 1)
    }

    fn learn(&mut self, _pass: &Pass, _outputs: &DraftOutputs) {}

    fn skip(&mut self) {}
}
