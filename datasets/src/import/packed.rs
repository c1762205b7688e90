//! Packed samples.

use serde::Deserialize;
use serde_json::Value;

use super::{Imported, end_at, state};
use crate::schema::trajectory::Trajectory;

#[derive(Deserialize)]
struct Record {
    data_id: String,
    prompt_ids: Vec<u32>,
    prompt_ids_len: usize,
    complete_training_sequence_ids: Vec<u32>,
    traj_position_indices: Vec<usize>,
}

pub(super) fn convert(object: Value, eos: &[u32]) -> Result<Imported, String> {
    let record: Record = serde_json::from_value(object).map_err(|error| error.to_string())?;
    let Record { data_id, prompt_ids, prompt_ids_len, complete_training_sequence_ids, .. } = record;
    let blocks = record.traj_position_indices.len();
    if prompt_ids.len() != prompt_ids_len || !complete_training_sequence_ids.starts_with(&prompt_ids) {
        return Err("complete_training_sequence_ids does not begin with the prompt".to_owned());
    }
    let pairs = &complete_training_sequence_ids[prompt_ids_len..];
    if blocks == 0 || pairs.is_empty() || !pairs.len().is_multiple_of(2 * blocks) {
        return Err(format!(
            "{} tokens behind the prompt cannot be divided into {blocks} pairs of blocks",
            pairs.len()
        ));
    }
    let block_size = pairs.len() / (2 * blocks);
    let (noisy, clean): (Vec<&[u32]>, Vec<&[u32]>) =
        pairs.chunks(2 * block_size).map(|pair| pair.split_at(block_size)).unzip();
    let (response_tokens, finish_reason) = end_at(eos, clean.concat());
    let blocks = response_tokens.chunks(block_size).zip(noisy).zip(record.traj_position_indices);
    let states = blocks
        .enumerate()
        .map(|(block, ((clean, noisy), iteration))| state(block, iteration, noisy, clean))
        .collect();
    let trajectory =
        Trajectory { sample_id: data_id, prompt_tokens: prompt_ids, response_tokens, finish_reason, states };
    Ok(Imported { trajectory, block_size })
}
