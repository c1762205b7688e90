//! The token that follows a context: the most probable one, or one drawn by the Gumbel-max rule,
//!
//! ```text
//! argmax over tokens of (logit / temperature + Gumbel noise),
//! ```
//!
//! with noise that is a pure function of (seed, position, token). So every decoder draws the text that
//! autoregressive sampling draws, and a draft token is right exactly when it equals the draw: the output
//! distribution is the model's, whatever was drafted. Accepting a draft token with its probability and else
//! drawing from the rest (arXiv 2302.01318 for point masses) gives the same distribution; with shared noise,
//! the draws of a pass are also good drafts for the next.

use std::sync::LazyLock;

use jacobi_datasets::Streams;

/// Tokens that are compared with one bound.
const CHUNK: usize = 64;

/// Tokens that `top_p` sorts first.
const SORTED: usize = 1024;

/// Above the largest Gumbel noise of 53 bits, which is 36.7.
const MOST_NOISE: usize = 37;

/// For each whole number below [`MOST_NOISE`] bits such that no smaller ones give that much noise. Rounding and the
/// margin let a few pass that give less.
static LEAST_BITS: LazyLock<[u64; MOST_NOISE]> = LazyLock::new(|| {
    std::array::from_fn(|noise| {
        let uniform = (-(-(noise as f64) + 1e-6).exp()).exp();
        ((uniform * (1u64 << 53) as f64) as u64).saturating_sub(4) << 11
    })
});

/// The noise of all tokens at one position.
struct Noise {
    streams: Streams,
}

impl Noise {
    fn new(seed: u64, position: usize) -> Self {
        Self { streams: Streams::new(&[seed, position as u64]) }
    }

    #[inline(always)]
    fn bits(&self, token: u32) -> u64 {
        self.streams.first(u64::from(token))
    }
}

/// Gumbel noise, which grows with the number that `bits` are.
fn gumbel(bits: u64) -> f64 {
    // 53 bits, in the open interval (0, 1).
    let uniform = ((bits >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    -(-uniform.min(1.0 - f64::EPSILON / 2.0).ln()).ln()
}

/// The best token so far: of equal ones the last.
struct Best {
    score: f64,
    token: u32,
}

impl Default for Best {
    fn default() -> Self {
        Self { score: f64::NEG_INFINITY, token: 0 }
    }
}

impl Best {
    /// No smaller bits make a token of this logit the best; `None` if none do.
    fn least_bits(&self, logit: f32) -> Option<u64> {
        let missing = self.score - f64::from(logit);
        // Noise can be negative. A NaN lets all pass too.
        if missing >= 0.0 { LEAST_BITS.get(missing as usize).copied() } else { Some(0) }
    }

    fn offer(&mut self, token: u32, logit: f32, bits: u64) {
        let score = f64::from(logit) + gumbel(bits);
        if score.total_cmp(&self.score).then(token.cmp(&self.token)).is_ge() {
            *self = Self { score, token };
        }
    }
}

/// How a token is taken from a distribution.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Sampling {
    /// The most probable token.
    #[default]
    Greedy,
    /// A token drawn from the distribution.
    Random(RandomSampling),
}

/// The distribution to draw from, in the order the fields are applied (as transformers does).
#[derive(Clone, Debug, PartialEq)]
pub struct RandomSampling {
    /// Divides positive and multiplies negative logits of tokens in the context; 1 is off (arXiv 1909.05858).
    pub repetition_penalty: f32,
    /// Divides logits; above 0.
    pub temperature: f32,
    /// Draw from this many of the most probable tokens; 0 is off.
    pub top_k: usize,
    /// Draw from the most probable tokens that together reach this probability; 1 is off (arXiv 1904.09751).
    pub top_p: f32,
    /// Seed of the noise.
    pub seed: u64,
}

impl Default for RandomSampling {
    fn default() -> Self {
        Self { repetition_penalty: 1.0, temperature: 1.0, top_k: 0, top_p: 1.0, seed: 0 }
    }
}

impl RandomSampling {
    /// The token after `context` (prompt and response so far), drawn from its `logits`.
    pub(crate) fn draw(&self, mut logits: Vec<f32>, context: &[u32]) -> u32 {
        self.penalise(&mut logits, context);
        let noise = Noise::new(self.seed, context.len());
        if self.top_k == 0 && self.top_p >= 1.0 {
            return self.draw_from_all(&logits, &noise);
        }
        let candidates = self.candidates(&logits);
        let mut best = Best::default();
        for &(token, logit) in &candidates {
            let Some(least) = best.least_bits(logit) else { break };
            let bits = noise.bits(token);
            if bits >= least {
                best.offer(token, logit, bits);
            }
        }
        best.token
    }

    /// Over the whole vocabulary: the noise of most tokens is hashed and compared as bits, and not even hashed where the
    /// largest noise is too small.
    fn draw_from_all(&self, logits: &[f32], noise: &Noise) -> u32 {
        let largest = |chunk: &[f32]| chunk.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let chunks: Vec<f32> = logits.chunks(CHUNK).map(largest).collect();
        let mut best = Best::default();
        let mut scan = |index: usize| {
            let Some(least) = best.least_bits(chunks[index] / self.temperature) else { return };
            let start = index * CHUNK;
            let chunk = &logits[start..logits.len().min(start + CHUNK)];
            for (token, &logit) in (start as u32..).zip(chunk) {
                let bits = noise.bits(token);
                if bits >= least {
                    best.offer(token, logit / self.temperature, bits);
                }
            }
        };
        // The most probable token first, so that few others pass.
        let first = (0..chunks.len()).max_by(|&a, &b| chunks[a].total_cmp(&chunks[b]));
        let first = first.expect("a vocabulary has a token");
        scan(first);
        (0..chunks.len()).filter(|&index| index != first).for_each(scan);
        best.token
    }

    /// The tokens that can be drawn under `top_k` and `top_p`, best first, with their logits divided by the temperature.
    fn candidates(&self, logits: &[f32]) -> Vec<(u32, f32)> {
        let mut kept: Vec<(u32, f32)> =
            logits.iter().zip(0u32..).map(|(&logit, token)| (token, logit / self.temperature)).collect();
        // Ties by id, so that the result does not depend on the sorting algorithm.
        let order = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        if self.top_k > 0 && self.top_k < kept.len() {
            kept.select_nth_unstable_by(self.top_k - 1, order);
            kept.truncate(self.top_k);
        }
        if self.top_p >= 1.0 {
            kept.sort_unstable_by(order);
            return kept;
        }
        let top = kept.iter().map(|&(_, logit)| logit).fold(f32::NEG_INFINITY, f32::max);
        let weight = |logit: f32| f64::from(logit - top).exp();
        let total: f64 = kept.iter().map(|&(_, logit)| weight(logit)).sum();
        let (mut sorted, mut reached) = (0, 0.0);
        // The best ones are sorted in growing pieces: mostly the first is enough.
        while sorted < kept.len() {
            let piece = sorted.max(SORTED).min(kept.len() - sorted);
            let rest = &mut kept[sorted..];
            if piece < rest.len() {
                rest.select_nth_unstable_by(piece - 1, order);
            }
            rest[..piece].sort_unstable_by(order);
            for at in sorted..sorted + piece {
                reached += weight(kept[at].1) / total;
                if reached >= f64::from(self.top_p) {
                    kept.truncate(at + 1);
                    return kept;
                }
            }
            sorted += piece;
        }
        kept
    }

    fn penalise(&self, logits: &mut [f32], context: &[u32]) {
        if self.repetition_penalty == 1.0 {
            return;
        }
        let mut seen = context.to_vec();
        seen.sort_unstable();
        seen.dedup();
        for token in seen {
            if let Some(logit) = logits.get_mut(token as usize) {
                let divide = *logit > 0.0;
                *logit =
                    if divide { *logit / self.repetition_penalty } else { *logit * self.repetition_penalty };
            }
        }
    }

    /// Every token's probability, which draws must reproduce.
    #[cfg(test)]
    pub(crate) fn probabilities(&self, logits: &[f32], context: &[u32]) -> Vec<f64> {
        let mut logits = logits.to_vec();
        self.penalise(&mut logits, context);
        let kept = self.candidates(&logits);
        let total: f64 = kept.iter().map(|&(_, logit)| f64::from(logit).exp()).sum();
        let mut probabilities = vec![0.0; logits.len()];
        for (token, logit) in kept {
            probabilities[token as usize] = f64::from(logit).exp() / total;
        }
        probabilities
    }
}

#[cfg(test)]
mod tests;
