//! Where the states of noisy blocks come from: recorded trajectories, random tokens, or the drafter that is trained.
//!
//! Random and on-policy states need the response alone. Their blocks begin anywhere in it, differently in every epoch; the
//! response tokens before the first block count as prompt. Each such block is a window by itself.
//!
//! An on-policy block holds what the drafter would hold there while it decodes. An earlier window that began up to 4
//! tokens before the block and is filled with random tokens goes through the drafter once or twice; its predictions for
//! the positions of the block are the block's tokens, and the rest is random ([`EarlierWindow`]).

use std::fmt;
use std::ops::Range;

use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::layout::Layout;
use crate::rng::Rng;

/// The most tokens by which an earlier window begins before its block.
const MAX_SHIFT: usize = 4;

/// The most passes of the drafter over an earlier window.
pub const MAX_PASSES: usize = 2;

/// Where the noisy blocks of a sample come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StateSource {
    /// Recorded states, chosen by the noise schedule.
    #[default]
    Trajectory,
    /// Random tokens behind the first token of each block.
    Random,
    /// Predictions of the drafter that is trained.
    OnPolicy,
}

/// How many of the samples have states from each source, in any unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StateShares {
    /// Recorded states.
    pub trajectory: f64,
    /// Random tokens.
    pub random: f64,
    /// Predictions of the drafter.
    pub on_policy: f64,
}

/// One source, `"on_policy"`, or a mixture by share, `{ random = 1, on_policy = 3 }`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum States {
    /// The same source for all samples.
    One(StateSource),
    /// Each sample draws its source in every epoch.
    Mixture(StateShares),
}

impl Default for States {
    fn default() -> Self {
        Self::One(StateSource::default())
    }
}

impl States {
    /// The shares of all sources.
    pub fn shares(self) -> StateShares {
        match self {
            Self::Mixture(shares) => shares,
            Self::One(StateSource::Trajectory) => StateShares { trajectory: 1.0, ..StateShares::default() },
            Self::One(StateSource::Random) => StateShares { random: 1.0, ..StateShares::default() },
            Self::One(StateSource::OnPolicy) => StateShares { on_policy: 1.0, ..StateShares::default() },
        }
    }

    /// Whether some samples have states from `source`.
    pub fn includes(self, source: StateSource) -> bool {
        self.shares().of(source) > 0.0
    }

    /// The source of a sample's states.
    pub(crate) fn draw(self, seed: u64) -> StateSource {
        let shares = match self {
            Self::One(source) => return source,
            Self::Mixture(shares) => shares,
        };
        let StateShares { trajectory, random, on_policy } = shares;
        let at = rng(seed, Purpose::Source, 0).next_f64() * (trajectory + random + on_policy);
        if at < trajectory {
            StateSource::Trajectory
        } else if at < trajectory + random || on_policy == 0.0 {
            StateSource::Random
        } else {
            StateSource::OnPolicy
        }
    }
}

impl StateShares {
    /// The share of one source.
    pub fn of(self, source: StateSource) -> f64 {
        match source {
            StateSource::Trajectory => self.trajectory,
            StateSource::Random => self.random,
            StateSource::OnPolicy => self.on_policy,
        }
    }
}

/// Not derived: the error of an untagged enum would not name an unknown key.
impl<'de> Deserialize<'de> for States {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameOrTable;

        impl<'de> Visitor<'de> for NameOrTable {
            type Value = States;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("\"trajectory\", \"random\", \"on_policy\", or a table with shares of them")
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<States, E> {
                StateSource::deserialize(serde::de::value::StrDeserializer::<E>::new(name)).map(States::One)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<States, A::Error> {
                StateShares::deserialize(MapAccessDeserializer::new(map)).map(States::Mixture)
            }
        }

        deserializer.deserialize_any(NameOrTable)
    }
}

/// Where random tokens are drawn from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum NoiseTokens {
    /// The prompt and the response up to the first token of the block, like the filler of our decoders.
    #[default]
    Text,
    /// The whole vocabulary, uniformly, as servers with the UNO algorithm do (arXiv 2609.04010).
    Vocabulary,
}

/// The first token of a window that has a row in the noisy stream. The tokens before it are seen in their clean form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoisyRows {
    /// The first that differs from the clean stream: earlier ones have the clean stream's hidden states anyway.
    #[default]
    FromDivergence,
    /// The second: a drafter with weights of its own gets a right first token and computes all others.
    FromSecond,
}

/// A window of the drafter that began before a noisy block. Its predictions become tokens of the block. The indices are
/// those of a sample's tokens, of a packed row, or of the parts of a row ([`crate::PackedRow::parts`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EarlierWindow {
    /// Prompt and clean tokens that it sees, up to and including its own first token.
    pub text: Range<usize>,
    /// The tokens behind the first one.
    pub tokens: Vec<u32>,
    /// Passes of the drafter over it, 1 or 2.
    pub passes: usize,
    /// The noisy tokens that its predictions become.
    pub noisy: Range<usize>,
    /// Index in `tokens` of the token whose prediction becomes the first of them.
    pub from: usize,
}

impl EarlierWindow {
    /// Replaces all tokens but the first by the `predictions` for their positions.
    pub fn advance(&mut self, predictions: &[u32]) {
        let count = self.tokens.len();
        self.tokens[1..].copy_from_slice(&predictions[..count - 1]);
    }

    /// The tokens of the noisy block that follow from `predictions`.
    pub fn block_tokens<'a>(&self, predictions: &'a [u32]) -> &'a [u32] {
        &predictions[self.from..self.from + self.noisy.len()]
    }
}

/// Separates the random numbers of a sample by what they decide.
#[derive(Clone, Copy)]
enum Purpose {
    Source,
    Begin,
    Block,
    Shift,
    Passes,
    Earlier,
}

/// Three numbers, unlike the seeds of the noise schedule (`noise.rs`), which are of the same sample.
fn rng(seed: u64, purpose: Purpose, block: usize) -> Rng {
    Rng::new(&[seed, purpose as u64, block as u64])
}

/// Random and on-policy states of one sample.
pub(crate) struct RandomStates<'a> {
    /// Prompt and response.
    pub(crate) text: &'a [u32],
    pub(crate) noise: NoiseTokens,
    /// Tokens of the vocabulary.
    pub(crate) vocabulary: u32,
    pub(crate) seed: u64,
}

impl RandomStates<'_> {
    /// The layout of a sample of `prompt_len` and `response_len` tokens, whose blocks begin at a random place.
    pub(crate) fn layout(&self, prompt_len: usize, response_len: usize, block_size: usize) -> Layout {
        let begin = rng(self.seed, Purpose::Begin, 0).below(block_size.min(response_len).max(1));
        Layout {
            prompt_len: prompt_len + begin,
            response_len: response_len - begin,
            block_size,
            window_size: 1,
            noise_context: crate::NoiseContext::Clean,
            with_noise: response_len > begin,
        }
    }

    /// The noisy stream: of each block the clean first token, and random tokens behind it.
    pub(crate) fn noisy_stream(&self, layout: &Layout) -> Vec<u32> {
        let mut stream = Vec::with_capacity(layout.response_len);
        for block in 0..layout.num_blocks() {
            let first = layout.clean_start(block);
            stream.push(self.text[first]);
            stream.extend(self.filler(first, layout.block_len(block) - 1, Purpose::Block, block));
        }
        stream
    }

    /// For each block the window before it whose predictions it takes, if there are any.
    pub(crate) fn earlier_windows(&self, layout: &Layout, response_start: usize) -> Vec<EarlierWindow> {
        let passes = 1 + rng(self.seed, Purpose::Passes, 0).below(MAX_PASSES);
        let window = |block: usize| self.earlier_window(layout, response_start, (block, passes));
        (0..layout.num_blocks()).filter_map(window).collect()
    }

    fn earlier_window(
        &self,
        layout: &Layout,
        response_start: usize,
        (block, passes): (usize, usize),
    ) -> Option<EarlierWindow> {
        let start = layout.clean_start(block);
        let shift =
            1 + rng(self.seed, Purpose::Shift, block).below(MAX_SHIFT.min(layout.block_size - 1).max(1));
        // The first token of a window is one of the response.
        let first = start.saturating_sub(shift).max(response_start);
        let shift = start - first;
        let rows = layout.block_size.min(self.text.len() - first) - 1;
        // Token f behind the first predicts position first + f + 1, and the block needs positions from start + 1 on.
        let from = shift.max(1);
        let offset = from + 1 - shift;
        let count = layout.block_len(block).min((rows + 2).saturating_sub(shift)).saturating_sub(offset);
        let noisy = layout.noisy_start(block) + offset;
        (count > 0).then(|| EarlierWindow {
            text: 0..first + 1,
            tokens: self.filler(first, rows, Purpose::Earlier, block),
            passes,
            noisy: noisy..noisy + count,
            from: from - 1,
        })
    }

    /// `count` random tokens behind the token `first` of the text.
    fn filler(&self, first: usize, count: usize, purpose: Purpose, block: usize) -> Vec<u32> {
        let mut rng = rng(self.seed, purpose, block);
        let token = |_| match self.noise {
            NoiseTokens::Text => self.text[rng.below(first + 1)],
            NoiseTokens::Vocabulary => rng.below(self.vocabulary as usize) as u32,
        };
        (0..count).map(token).collect()
    }
}

#[cfg(test)]
mod tests;
