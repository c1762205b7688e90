//! The rules that every row of a shard obeys, checked before it is written and after it is read.

use std::path::Path;

use super::{FinishReason, Trajectory, TrajectoryMetadata};
use crate::error::DatasetError;

/// The greatest id that the `i32` columns can hold.
pub(super) const MAX_ID: u32 = i32::MAX as u32;

/// Checks rows with their numbers in the shard, from 1.
pub(super) fn check_rows<'a>(
    path: &Path,
    metadata: &TrajectoryMetadata,
    rows: impl Iterator<Item = (usize, &'a Trajectory)>,
) -> Result<(), DatasetError> {
    for (number, row) in rows {
        if let Err(reason) = check_row(row, metadata.block_size) {
            let reason = format!("sample {}: {reason}", row.sample_id);
            return Err(bad_row(path, number)(reason));
        }
    }
    Ok(())
}

/// `BadRow` about the `row`-th row of a shard, from 1.
pub(super) fn bad_row(path: &Path, row: usize) -> impl Fn(String) -> DatasetError + '_ {
    move |reason| DatasetError::BadRow { path: path.to_path_buf(), place: format!("row {row}"), reason }
}

fn check_row(row: &Trajectory, block_size: usize) -> Result<(), String> {
    if block_size == 0 {
        return Err("the block size is 0".to_owned());
    }
    let len = row.response_tokens.len();
    if row.finish_reason == FinishReason::Eos && len == 0 {
        return Err("ends in EOS but has no response token".to_owned());
    }
    if let Some(id) = row.token_ids().find(|&id| id > MAX_ID) {
        return Err(format!("token id {id} is beyond {MAX_ID}"));
    }
    for state in &row.states {
        let start = state.block as usize * block_size;
        if start >= len {
            return Err(format!(
                "state of block {} but only {} blocks",
                state.block,
                len.div_ceil(block_size)
            ));
        }
        let block_len = block_size.min(len - start);
        if state.converged as usize + state.tail.len() != block_len {
            return Err(format!(
                "state {} of block {}: {} converged and {} more tokens in a block of {block_len}",
                state.iteration,
                state.block,
                state.converged,
                state.tail.len(),
            ));
        }
    }
    Ok(())
}
