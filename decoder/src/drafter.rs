//! The seam between verifying and guessing. A drafter may propose anything: what it proposes changes how many passes a
//! response takes, never its text.

use crate::{Draft, Pass, outputs::Outputs};

/// Proposes what the next pass verifies.
pub(crate) trait Drafter {
    /// Rows to verify. `text` is prompt and response; its last token, known to be right and not cached yet, becomes row 0.
    /// No path is longer than `room` rows (at least 1).
    fn draft(&mut self, text: &[u32], room: usize) -> Draft;

    /// Hears what a pass over its draft accepted (at least row 0), and may ask what else the model thought possible.
    fn learn(&mut self, pass: &Pass, outputs: &Outputs);

    /// Remembers from now on what [`Drafter::rejected_rank`] needs.
    fn rank_rejections(&mut self) {}

    /// What [`Pass::rejected_rank`] is of a pass that this has yet to learn from.
    fn rejected_rank(&self, _pass: &Pass) -> Option<usize> {
        None
    }

    /// Hears that `token` was found to be the next one without its draft.
    fn skip(&mut self, token: u32);
}

/// Drafts nothing: one token per pass, the baseline of every speed figure and the oracle of every other decoder.
pub(crate) struct Autoregressive;

impl Drafter for Autoregressive {
    fn draft(&mut self, text: &[u32], _room: usize) -> Draft {
        Draft::run(text[text.len() - 1], &[], 1)
    }

    fn learn(&mut self, _pass: &Pass, _outputs: &Outputs) {}

    fn skip(&mut self, _token: u32) {}
}
