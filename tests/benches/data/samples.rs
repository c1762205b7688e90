//! Samples of a wanted length, made of the blocks of real rows.

use std::path::Path;

use anyhow::ensure;
use jacobi_datasets::{
    FinishReason, Manifest, RecordedSettings, ShardWriter, State, Tally, Trajectory, read_all,
};

/// Rows of a row group, as many as `jacobi generate` writes by default.
const GROUP: usize = 64;
/// Bytes of a shard, likewise.
const SHARD_BYTES: u64 = 128 << 20;

/// Fills `dir` with `count` samples of `tokens` response tokens, unless it is complete.
///
/// # Errors
/// Rows that cannot be read, or have no whole block; a directory that cannot be written.
pub fn make(real: &Path, dir: &Path, count: usize, tokens: usize) -> anyhow::Result<()> {
    if Manifest::load(dir)?.is_some_and(|manifest| manifest.complete) {
        return Ok(());
    }
    let (metadata, rows) = read_all(real)?;
    let size = metadata.block_size;
    let blocks: Vec<Block> = rows.iter().flat_map(|row| blocks_of(row, size)).collect();
    ensure!(!blocks.is_empty(), "{} has no whole block of {size} tokens", real.display());
    ShardWriter::discard(dir)?;
    let mut writer =
        ShardWriter::open(dir, metadata, Manifest::new(RecordedSettings::default(), count), SHARD_BYTES)?;
    let mut next = (0..blocks.len()).cycle();
    for first in (0..count).step_by(GROUP) {
        let group: Vec<Trajectory> = (first..count.min(first + GROUP))
            .map(|number| {
                let chosen = next.by_ref().take(tokens.div_ceil(size)).map(|at| &blocks[at]);
                sample(number, &rows[number % rows.len()].prompt_tokens, chosen)
            })
            .collect();
        writer.append(&group, &Tally::default())?;
    }
    Ok(writer.finish(&Tally::default())?)
}

/// A block with its states.
struct Block {
    tokens: Vec<u32>,
    states: Vec<State>,
}

fn blocks_of(row: &Trajectory, size: usize) -> impl Iterator<Item = Block> {
    row.response_tokens.chunks_exact(size).enumerate().map(|(block, tokens)| Block {
        tokens: tokens.to_vec(),
        states: row.states.iter().filter(|state| state.block as usize == block).cloned().collect(),
    })
}

fn sample<'a>(number: usize, prompt: &[u32], blocks: impl Iterator<Item = &'a Block>) -> Trajectory {
    let (mut response_tokens, mut states) = (Vec::new(), Vec::new());
    for (at, block) in blocks.enumerate() {
        response_tokens.extend(&block.tokens);
        states.extend(block.states.iter().map(|state| State { block: at as u32, ..state.clone() }));
    }
    Trajectory {
        sample_id: format!("sample-{number:07}"),
        prompt_tokens: prompt.to_vec(),
        response_tokens,
        finish_reason: FinishReason::Eos,
        states,
    }
}
