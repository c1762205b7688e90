//! From a trajectory to a packed sample: its tokens, and the rows of the forward pass that enter each loss.
//!
//! Source: arXiv 2512.14681, the dual objective: cross-entropy on the clean stream, soft cross-entropy of the
//! noisy stream against the clean one. Departures: no padding; a block without a recorded state enters as its
//! fixed point; consistency starts at the first token that differs from the clean block, and the row of EOS
//! has no target.
//!
//! Example: prompt `a`, response `b c d EOS`, blocks of n = 2, chosen states `b x` and `d y`:
//!
//! ```text
//! row      0  1  2  3  4     5  6  7  8
//! token    a  b  c  d  EOS   b  x  d  y
//! ```
//!
//! AR targets: rows 0..=3 predict `b c d EOS`. Consistency: row 6 (`x` for `c`) learns the distribution of
//! row 2. The second block differs only at `y`, the position of EOS, which has no target.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::DatasetError;
use crate::layout::{Layout, NoiseContext};
use crate::noise::{NoiseScheduleConfig, choose_state};
use crate::schema::trajectory::{FinishReason, SCHEDULE_KEY, Trajectory, TrajectoryMetadata};
use crate::states::{EarlierWindow, NoiseTokens, NoisyRows, RandomStates, StateSource, States};

/// How samples are packed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PackConfig {
    /// Blocks per window, w.
    pub window_size: usize,
    /// In which form noisy blocks see the earlier blocks of their window.
    pub noise_context: NoiseContext,
    /// Which state of each block becomes its noisy block.
    pub noise: NoiseScheduleConfig,
    /// Whether all prompt tokens except the first are also targets of the autoregressive loss, as in the
    /// reference code.
    pub ar_prompt_tokens: bool,
    /// Where the states of noisy blocks come from.
    pub states: States,
    /// Tokens of a block of random and on-policy states; by default those of a recorded one.
    pub block_size: Option<usize>,
    /// What random states are made of.
    pub noise_tokens: NoiseTokens,
    /// Tokens of the vocabulary, for [`NoiseTokens::Vocabulary`].
    pub vocabulary: u32,
    /// Which tokens of a window have rows in the noisy stream.
    pub noisy_rows: NoisyRows,
}

impl Default for PackConfig {
    fn default() -> Self {
        Self {
            window_size: 16,
            noise_context: NoiseContext::Window,
            noise: NoiseScheduleConfig::default(),
            ar_prompt_tokens: false,
            states: States::default(),
            block_size: None,
            noise_tokens: NoiseTokens::default(),
            vocabulary: 0,
            noisy_rows: NoisyRows::default(),
        }
    }
}

impl PackConfig {
    /// The settings that decide which states are chosen, as text.
    pub fn schedule_text(&self) -> String {
        let NoiseScheduleConfig { schedule, t_min, t_max } = self.noise;
        format!("{schedule:?} {t_min}..{t_max}, window {}", self.window_size).to_lowercase()
    }

    /// Checks that the shards in `path` hold the states that this configuration chooses.
    ///
    /// # Errors
    /// `WrongSchedule` if they hold the states of another schedule only.
    pub fn check_schedule(&self, path: &Path, metadata: &TrajectoryMetadata) -> Result<(), DatasetError> {
        let asked = self.schedule_text();
        match metadata.decoding.get(SCHEDULE_KEY) {
            Some(made) if *made != asked => {
                Err(DatasetError::WrongSchedule { path: path.to_path_buf(), made: made.clone(), asked })
            }
            _ => Ok(()),
        }
    }
}

/// A row whose logits predict `token`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArTarget {
    /// Row of the forward pass, in the prompt or the clean stream.
    pub row: usize,
    /// The next token.
    pub token: u32,
}

/// A noisy row that learns the distribution of a clean row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PcPair {
    /// Row in the noisy block.
    pub student: usize,
    /// Row at the same offset of the clean block.
    pub teacher: usize,
    /// The block.
    pub block: usize,
    /// Offset from the first divergence of the block.
    pub distance: usize,
}

/// A sample ready for the forward pass and the two losses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedSample {
    /// Name of the sample.
    pub sample_id: String,
    /// `layout.len()` ids: prompt, clean stream, noisy stream.
    pub tokens: Vec<u32>,
    /// Positions and mask.
    pub layout: Layout,
    /// Targets of the autoregressive loss, ascending by row: the response up to and including EOS, and the
    /// prompt with [`PackConfig::ar_prompt_tokens`].
    pub ar: Vec<ArTarget>,
    /// Pairs of the consistency loss: in each block from the first divergence on, up to the position before EOS. The tokens
    /// of on-policy blocks are not known yet; their pairs begin with the second token.
    pub pc: Vec<PcPair>,
    /// Which tokens of a window have rows in the noisy stream.
    pub noisy_rows: NoisyRows,
    /// Windows of the drafter whose predictions replace noisy tokens.
    pub earlier: Vec<EarlierWindow>,
}

/// Why a sample cannot be packed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PackError {
    /// Neither loss has a target.
    #[error("sample {sample_id} has an empty loss mask: no response token to learn from")]
    EmptyLoss {
        /// The sample.
        sample_id: String,
    },

    /// A block or window size of 0.
    #[error("{name} is 0: it must be at least 1")]
    ZeroSize {
        /// The setting.
        name: &'static str,
    },

    /// An invalid noise range.
    #[error("t_min = {t_min} and t_max = {t_max}: they must obey 0 <= t_min <= t_max <= 1")]
    NoiseRange {
        /// Lower end.
        t_min: f64,
        /// Upper end.
        t_max: f64,
    },

    /// A state that does not fit its block.
    #[error("sample {sample_id}: a state of block {block} has {found} tokens, the block has {expected}")]
    StateLength {
        /// The sample.
        sample_id: String,
        /// The block.
        block: usize,
        /// Converged prefix and tail of the state.
        found: usize,
        /// Tokens of the block.
        expected: usize,
    },
}

/// Packs one sample. `seed` (of the run and epoch) and the sample's id determine the random schedule.
///
/// # Errors
/// `EmptyLoss` if neither loss has a target; `ZeroSize` and `NoiseRange` for settings, `StateLength` for states.
pub fn pack(
    sample: &Trajectory,
    block_size: usize,
    config: &PackConfig,
    seed: u64,
) -> Result<PackedSample, PackError> {
    check(block_size, config)?;
    // Without the id in the seed, block j of every sample would draw the same random ratio.
    let seed = seed ^ digest(&sample.sample_id);
    let source = config.states.draw(seed);
    let mut tokens = [sample.prompt_tokens.as_slice(), &sample.response_tokens].concat();
    let (layout, stream, earlier) = match source {
        StateSource::Trajectory => {
            let layout = recorded_layout(sample, block_size, config);
            let stream =
                if layout.with_noise { recorded_states(sample, &layout, config, seed)? } else { vec![] };
            (layout, stream, vec![])
        }
        StateSource::Random | StateSource::OnPolicy => {
            let states = RandomStates {
                text: &tokens,
                noise: config.noise_tokens,
                vocabulary: config.vocabulary,
                seed,
            };
            let prompt_len = sample.prompt_tokens.len();
            let block_size = config.block_size.unwrap_or(block_size);
            let layout = states.layout(prompt_len, sample.response_tokens.len(), block_size);
            let stream = if layout.with_noise { states.noisy_stream(&layout) } else { vec![] };
            let on_policy = source == StateSource::OnPolicy && layout.with_noise;
            let earlier = if on_policy { states.earlier_windows(&layout, prompt_len) } else { vec![] };
            (layout, stream, earlier)
        }
    };
    tokens.extend(stream);
    let noisy_rows = match source {
        StateSource::OnPolicy => NoisyRows::FromSecond,
        _ => config.noisy_rows,
    };
    let mut ar = ar_targets(sample);
    let pc =
        if layout.with_noise { pc_pairs(sample, &layout, &tokens, (source, noisy_rows)) } else { vec![] };
    if ar.is_empty() && pc.is_empty() {
        return Err(PackError::EmptyLoss { sample_id: sample.sample_id.clone() });
    }
    if config.ar_prompt_tokens {
        let prompt = sample.prompt_tokens.iter().skip(1).enumerate();
        ar.splice(..0, prompt.map(|(row, &token)| ArTarget { row, token }));
    }
    Ok(PackedSample { sample_id: sample.sample_id.clone(), tokens, layout, ar, pc, noisy_rows, earlier })
}

fn recorded_layout(sample: &Trajectory, block_size: usize, config: &PackConfig) -> Layout {
    Layout {
        prompt_len: sample.prompt_tokens.len(),
        response_len: sample.response_tokens.len(),
        block_size,
        window_size: config.window_size,
        noise_context: config.noise_context,
        with_noise: !sample.states.is_empty(),
    }
}

fn check(block_size: usize, config: &PackConfig) -> Result<(), PackError> {
    let random = config.block_size.unwrap_or(block_size);
    let sizes = [("block_size", block_size.min(random)), ("window_size", config.window_size)];
    for (name, size) in sizes {
        if size == 0 {
            return Err(PackError::ZeroSize { name });
        }
    }
    let NoiseScheduleConfig { t_min, t_max, .. } = config.noise;
    if config.noise.is_valid() { Ok(()) } else { Err(PackError::NoiseRange { t_min, t_max }) }
}

/// The chosen states of all blocks, concatenated.
fn recorded_states(
    sample: &Trajectory,
    layout: &Layout,
    config: &PackConfig,
    seed: u64,
) -> Result<Vec<u32>, PackError> {
    let mut stream = Vec::with_capacity(layout.response_len);
    for block in 0..layout.num_blocks() {
        let len = layout.block_len(block);
        let start = layout.clean_start(block) - layout.prompt_len;
        let clean = &sample.response_tokens[start..start + len];
        let target = config.noise.target(block, config.window_size, seed);
        let states = sample.states.iter().filter(|state| state.block as usize == block);
        match choose_state(states, len, target) {
            None => stream.extend(clean),
            Some(state) => {
                let found = state.converged as usize + state.tail.len();
                if found != len {
                    let sample_id = sample.sample_id.clone();
                    return Err(PackError::StateLength { sample_id, block, found, expected: len });
                }
                stream.extend(&clean[..state.converged as usize]);
                stream.extend(&state.tail);
            }
        }
    }
    Ok(stream)
}

fn digest(text: &str) -> u64 {
    let hash = blake3::hash(text.as_bytes());
    u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("8 of 32 bytes"))
}

/// Row P-1+r predicts response token r. Without a prompt, no row predicts the first response token.
fn ar_targets(sample: &Trajectory) -> Vec<ArTarget> {
    let tokens = sample.response_tokens.iter().enumerate();
    tokens
        .filter_map(|(r, &token)| {
            (sample.prompt_tokens.len() + r).checked_sub(1).map(|row| ArTarget { row, token })
        })
        .collect()
}

fn pc_pairs(
    sample: &Trajectory,
    layout: &Layout,
    tokens: &[u32],
    (source, noisy_rows): (StateSource, NoisyRows),
) -> Vec<PcPair> {
    // The row of EOS would predict what follows the end of the response.
    let end =
        layout.prompt_len + layout.response_len - usize::from(sample.finish_reason == FinishReason::Eos);
    let mut pairs = Vec::new();
    for block in 0..layout.num_blocks() {
        let (clean, noisy) = (layout.clean_start(block), layout.noisy_start(block));
        let len = layout.block_len(block).min(end.saturating_sub(clean));
        let differs = |&offset: &usize| tokens[clean + offset] != tokens[noisy + offset];
        let has_first = noisy_rows == NoisyRows::FromDivergence || !layout.begins_run(block);
        let least = usize::from(!has_first);
        let divergence = match source {
            StateSource::OnPolicy => least,
            _ => (0..len).find(differs).unwrap_or(len).max(least),
        };
        for offset in divergence..len {
            let distance = offset - divergence;
            pairs.push(PcPair { student: noisy + offset, teacher: clean + offset, block, distance });
        }
    }
    pairs
}

#[cfg(test)]
mod tests;
