//! What a fresh block holds behind its known first token. A filler is a guess like any draft: it changes how many
//! passes a block takes, never the text.

use jacobi_datasets::Rng;

/// Longest run of preceding tokens that a prompt n-gram has to match, tried first.
const LONGEST_KEY: usize = 3;

/// Where fillers come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Filler {
    /// Tokens drawn from prompt and response (arXiv 2512.14681 draws from the prompt alone; tokens of the response
    /// are nearer to what comes).
    #[default]
    Random,
    /// What followed the last tokens where they stood before, in prompt or response; drawn where they did not.
    Ngram,
}

impl Filler {
    /// `count` tokens to follow `text` (prompt and response) and `draft` behind it, a pure function of the arguments;
    /// `fills` counts how often filler was drawn for this response.
    pub(crate) fn fill(self, text: &[u32], draft: &[u32], count: usize, seed: u64, fills: usize) -> Vec<u32> {
        let mut rng = Rng::new(&[seed, fills as u64]);
        let mut filler = match self {
            Self::Random => Vec::with_capacity(count),
            Self::Ngram => followed(text, draft, count),
        };
        filler.extend((filler.len()..count).map(|_| text[rng.below(text.len())]));
        filler
    }
}

/// What followed the last tokens of `text` and `draft` at the latest place in `text` where the longest run of them
/// stood before.
fn followed(text: &[u32], draft: &[u32], count: usize) -> Vec<u32> {
    let tail: Vec<u32> =
        text[text.len().saturating_sub(LONGEST_KEY)..].iter().chain(draft).copied().collect();
    for length in (1..=LONGEST_KEY.min(tail.len())).rev() {
        let key = &tail[tail.len() - length..];
        // The key itself stands at the end of `text` when nothing is drafted: only what something follows counts.
        let place = (length..text.len()).rev().find(|&end| text[..end].ends_with(key));
        if let Some(end) = place {
            return text[end..].iter().copied().take(count).collect();
        }
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ngram_filler_repeats_what_followed() {
        let fill = |text: &[u32], draft: &[u32]| Filler::Ngram.fill(text, draft, 3, 1, 0);
        assert_eq!(fill(&[1, 2, 3, 4, 5, 1, 2], &[]), [3, 4, 5]);
        // The longest key wins over the latest place, and the draft is part of the key.
        assert_eq!(fill(&[7, 1, 2, 8, 8, 8, 9, 2, 5, 5, 5, 7], &[1, 2]), [8, 8, 8]);
        assert_eq!(fill(&[7, 1, 2, 8, 8, 8, 9, 2, 5, 5, 5, 6], &[2]), [5, 5, 5]);
        // Too little followed: the rest is drawn.
        let short = fill(&[1, 2, 1], &[]);
        assert_eq!(short[..2], [2, 1]);
        assert_eq!(short.len(), 3);
    }

    #[test]
    fn fillers_are_drawn_from_the_text_and_fixed_by_seed_and_block() {
        for filler in [Filler::Random, Filler::Ngram] {
            let fill = |seed, block| filler.fill(&[4, 5, 6], &[], 20, seed, block);
            assert!(fill(1, 0).iter().all(|token| (4..=6).contains(token)));
            assert_eq!(fill(1, 0), fill(1, 0));
            assert_ne!(fill(1, 0), fill(1, 1));
            assert_ne!(fill(1, 0), fill(2, 0));
        }
    }
}
