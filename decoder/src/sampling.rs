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

use jacobi_datasets::Rng;

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
    pub(crate) fn draw(&self, logits: Vec<f32>, context: &[u32]) -> u32 {
        let gumbel = |token: u32| {
            let bits = Rng::new(&[self.seed, context.len() as u64, u64::from(token)]).next_u64();
            // 53 bits, in the open interval (0, 1).
            let uniform = ((bits >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
            -(-uniform.ln()).ln()
        };
        let scored = self
            .candidates(logits, context)
            .into_iter()
            .map(|(token, logit)| (token, f64::from(logit) + gumbel(token)));
        scored.max_by(|a, b| a.1.total_cmp(&b.1)).expect("a vocabulary has a token").0
    }

    /// The tokens that can be drawn, with their logits divided by the temperature.
    fn candidates(&self, mut logits: Vec<f32>, context: &[u32]) -> Vec<(u32, f32)> {
        self.penalise(&mut logits, context);
        let mut kept: Vec<(u32, f32)> =
            logits.iter().zip(0u32..).map(|(&logit, token)| (token, logit / self.temperature)).collect();
        if self.top_k == 0 && self.top_p >= 1.0 {
            return kept;
        }
        // Ties by id, so that the result does not depend on the sorting algorithm.
        kept.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        if self.top_k > 0 {
            kept.truncate(self.top_k);
        }
        if self.top_p < 1.0 {
            let weight = |logit: f32| f64::from(logit - kept[0].1).exp();
            let total: f64 = kept.iter().map(|&(_, logit)| weight(logit)).sum();
            let mut reached = 0.0;
            let last = kept.iter().position(|&(_, logit)| {
                reached += weight(logit) / total;
                reached >= f64::from(self.top_p)
            });
            kept.truncate(last.map_or(kept.len(), |at| at + 1));
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
        let kept = self.candidates(logits.to_vec(), context);
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
