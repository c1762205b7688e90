//! The rank that the right token had in the pass before, where a draft was wrong: it tells how wide a token tree should be.
//! Ranking costs time, so it is done apart from timed runs.

use jacobi_decoder::{Decoding, RANKED, Settings};
use jacobi_model::LanguageModel;

/// Decodes `prompt` and adds to `ranks[r]` the passes whose first wrong draft token has a right one of rank r. The last
/// entry is for all ranks from [`RANKED`] on.
pub(crate) fn count_rejections(
    model: &dyn LanguageModel,
    prompt: &[u32],
    settings: &Settings,
    ranks: &mut Vec<usize>,
) {
    ranks.resize(RANKED + 1, 0);
    let passes = Decoding::new(model, prompt, settings).rank_rejections();
    for rank in passes.filter_map(|pass| pass.rejected_rank) {
        ranks[rank] += 1;
    }
}
