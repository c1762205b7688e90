//! Where a draft was wrong, how high the pass before had ranked the right token: what says how wide a token tree is
//! worth its rows. Asking costs time, so it is asked apart from what is timed.

use jacobi_decoder::{Decoding, RANKED, Settings};
use jacobi_model::LanguageModel;

/// Adds the passes that answer `prompt` to `ranks`, by the rank of the right token where their draft was wrong; those
/// beyond all ranks told apart come last.
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
