//! Filler: the tokens of a new block after its known first token. It is a draft like any other: it changes how
//! many passes a block takes, never the text.

use jacobi_datasets::Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The longest n-gram that is looked up, tried first.
const LONGEST_KEY: usize = 3;

/// Where filler comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Filler {
    /// Tokens drawn from prompt and response. (arXiv 2512.14681 draws from the prompt alone; the next tokens
    /// resemble the response more.)
    #[default]
    Random,
    /// The tokens that followed an earlier occurrence of the last tokens, in prompt or response; drawn if there
    /// is none.
    Ngram,
    /// Tokens drawn from the whole vocabulary, as the draft adapters of UNO (arXiv 2609.04010) expect.
    Vocabulary,
}

impl Filler {
    /// `count` tokens below `vocabulary` to follow `text` (prompt and response) and then `draft`.
    pub(crate) fn fill(
        self,
        text: &[u32],
        draft: &[u32],
        count: usize,
        vocabulary: usize,
        rng: &mut Rng,
    ) -> Vec<u32> {
        match self {
            Self::Random => drawn_from(text, count, rng),
            Self::Ngram => {
                let mut filler = continuation(text, draft, count);
                filler.extend(drawn_from(text, count - filler.len(), rng));
                filler
            }
            Self::Vocabulary => (0..count).map(|_| rng.below(vocabulary) as u32).collect(),
        }
    }
}

/// `count` random tokens of `text`.
pub(crate) fn drawn_from(text: &[u32], count: usize, rng: &mut Rng) -> Vec<u32> {
    (0..count).map(|_| text[rng.below(text.len())]).collect()
}

/// Up to `count` tokens that follow the latest earlier occurrence in `text` of the last tokens of `text` and `draft`: of
/// the last [`LONGEST_KEY`], or of fewer if those do not occur.
fn continuation(text: &[u32], draft: &[u32], count: usize) -> Vec<u32> {
    let tail: Vec<u32> =
        text[text.len().saturating_sub(LONGEST_KEY)..].iter().chain(draft).copied().collect();
    for length in (1..=LONGEST_KEY.min(tail.len())).rev() {
        let key = &tail[tail.len() - length..];
        // Without a draft the key is the end of `text`, which nothing follows: that occurrence does not count.
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
        let fill =
            |text: &[u32], draft: &[u32]| Filler::Ngram.fill(text, draft, 3, 10, &mut Rng::new(&[1, 0]));
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
    fn fillers_are_drawn_from_the_text_or_the_vocabulary_and_fixed_by_seed_and_block() {
        for filler in [Filler::Random, Filler::Ngram, Filler::Vocabulary] {
            let fill = |seed, block| filler.fill(&[4, 5, 6], &[], 20, 9, &mut Rng::new(&[seed, block]));
            let from_text = fill(1, 0).iter().all(|token| (4..=6).contains(token));
            assert_eq!(from_text, filler != Filler::Vocabulary);
            assert!(fill(1, 0).iter().all(|token| *token < 9));
            assert_eq!(fill(1, 0), fill(1, 0));
            assert_ne!(fill(1, 0), fill(1, 1));
            assert_ne!(fill(1, 0), fill(2, 0));
        }
    }
}
