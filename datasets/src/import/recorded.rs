//! Recorded blocks, collected to samples.

use serde::Deserialize;
use serde_json::Value;

use super::{BadImport, Imported, end_at, state};
use crate::schema::trajectory::{State, Trajectory};

#[derive(Deserialize)]
struct Block {
    diffusion_itr_id: String,
    data_id: String,
    prompt_ids: Ids,
    answer_trajectory_ids: Vec<Vec<u32>>,
    teacher_output_ids: Vec<u32>,
}

/// A list, or a batch of one list.
#[derive(Deserialize)]
#[serde(untagged, expecting = "token ids are a list, or a batch of one list")]
enum Ids {
    Batch(Vec<Vec<u32>>),
    Flat(Vec<u32>),
}

impl Ids {
    fn into_list(self) -> Vec<u32> {
        match self {
            Self::Batch(lists) => lists.into_iter().next().unwrap_or_default(),
            Self::Flat(list) => list,
        }
    }
}

/// A parsed block.
struct RecordedBlock {
    index: usize,
    /// Prompt and earlier blocks.
    prefix: Vec<u32>,
    states: Vec<Vec<u32>>,
}

/// The blocks of one sample read so far.
#[derive(Default)]
pub(super) struct Group {
    data_id: String,
    blocks: Vec<RecordedBlock>,
    teacher: Vec<u32>,
}

impl Group {
    /// Adds a block. If it belongs to another sample, returns the previous sample, which is complete.
    pub(super) fn add(&mut self, object: Value) -> Result<Option<Self>, String> {
        let block: Block = serde_json::from_value(object).map_err(|error| error.to_string())?;
        let digits = block.diffusion_itr_id.trim_start_matches("itr_");
        let index = digits
            .parse()
            .map_err(|_| format!("diffusion_itr_id {} has no number", block.diffusion_itr_id))?;
        let complete = if self.data_id == block.data_id { None } else { self.take() };
        self.data_id = block.data_id;
        self.teacher = block.teacher_output_ids;
        let (prefix, states) = (block.prompt_ids.into_list(), block.answer_trajectory_ids);
        self.blocks.push(RecordedBlock { index, prefix, states });
        Ok(complete)
    }

    /// The blocks read so far, if there are any.
    pub(super) fn take(&mut self) -> Option<Self> {
        let group = std::mem::take(self);
        (!group.blocks.is_empty()).then_some(group)
    }

    pub(super) fn convert(mut self, eos: &[u32]) -> Result<Imported, BadImport> {
        let name = self.data_id.clone();
        self.blocks.sort_by_key(|block| block.index);
        self.join(eos).map_err(|reason| BadImport { name, reason })
    }

    fn join(self, eos: &[u32]) -> Result<Imported, String> {
        let first = &self.blocks[0];
        let block_size = first.states.last().map_or(0, Vec::len);
        let prompt_len = first.prefix.len().checked_sub(first.index * block_size);
        let prompt_len = prompt_len.filter(|_| block_size > 0).ok_or("its first block has no states")?;
        let prompt = first.prefix[..prompt_len].to_vec();
        let mut text = first.prefix.clone();
        for (at, block) in self.blocks.iter().enumerate() {
            let index = block.index;
            if index != first.index + at {
                return Err(format!("block {} is missing", first.index + at));
            }
            if block.states.is_empty() || block.states.iter().any(|state| state.len() != block_size) {
                return Err(format!("a state of block {index} is not of {block_size} tokens"));
            }
            if block.prefix != text {
                return Err(format!("block {index} does not continue the one before"));
            }
            text.extend(block.states.last().into_iter().flatten());
        }
        if !self.teacher.starts_with(&text) {
            return Err("teacher_output_ids are not its prompt and blocks".to_owned());
        }
        let (response_tokens, finish_reason) = end_at(eos, text[prompt_len..].to_vec());
        let mut states = Vec::new();
        for block in &self.blocks {
            // Blocks after the end of the response are dropped.
            if let Some(clean) = response_tokens.chunks(block_size).nth(block.index) {
                states.extend(states_of(block, clean));
            }
        }
        let trajectory = Trajectory {
            sample_id: self.data_id,
            prompt_tokens: prompt,
            response_tokens,
            finish_reason,
            states,
        };
        Ok(Imported { trajectory, block_size })
    }
}

/// The states of a block up to the first that equals `clean`. The reference updates its first state in place,
/// so it records the fixed point instead of the random start: that state is dropped.
fn states_of(block: &RecordedBlock, clean: &[u32]) -> Vec<State> {
    let last = block.states.len() - 1;
    let mut states: Vec<State> = Vec::new();
    for (iteration, tokens) in block.states.iter().enumerate() {
        let state = state(block.index, iteration, tokens, clean);
        let converged = state.tail.is_empty();
        if converged && iteration == 0 && last > 0 {
            continue;
        }
        if states.last().is_none_or(|before| before.tail != state.tail) {
            states.push(state);
        }
        if converged {
            break;
        }
    }
    states
}
