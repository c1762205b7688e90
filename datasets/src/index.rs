//! The rows of a finished directory of shards, in their order, read from disk when they are needed.
//!
//! Opening the index compares every digest and decodes and checks every row once; it keeps a summary of each row and its
//! place. So the memory is that of the summaries, whatever the rows hold.

use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::error::DatasetError;
use crate::rng::Rng;
use crate::schema::manifest::{MANIFEST_FILE, Manifest, ShardEntry};
use crate::schema::trajectory::{CheckedShard, FinishReason, Trajectory, TrajectoryMetadata};

/// The rows of a directory, sorted by sample id and digest, so that their order depends neither on generation nor on the division
/// into shards.
#[derive(Debug)]
pub struct ShardIndex {
    dir: PathBuf,
    metadata: TrajectoryMetadata,
    shards: Vec<CheckedShard>,
    rows: Vec<RowSummary>,
    /// The place of each row.
    places: Vec<Place>,
}

/// A row without its tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowSummary {
    /// Name of the sample.
    pub sample_id: Box<str>,
    /// Tokens of the prompt.
    pub prompt_len: u32,
    /// Tokens of the response.
    pub response_len: u32,
    /// Why the response ends.
    pub finish_reason: FinishReason,
    /// Whether states are recorded.
    pub has_states: bool,
    /// The greatest token id; 0 without tokens.
    pub greatest_id: u32,
    /// A hash of prompt, response and the converged prefixes of the states.
    pub digest: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    shard: u32,
    group: u32,
    /// Within the row group.
    row: u32,
}

impl RowSummary {
    /// The summary of `row`.
    pub fn of(row: &Trajectory) -> Self {
        let mut seeds = vec![row.response_tokens.len() as u64];
        seeds.extend(row.response_tokens.iter().chain(&row.prompt_tokens).map(|&token| u64::from(token)));
        seeds.extend(row.states.iter().map(|state| u64::from(state.converged)));
        Self {
            sample_id: row.sample_id.as_str().into(),
            prompt_len: row.prompt_tokens.len() as u32,
            response_len: row.response_tokens.len() as u32,
            finish_reason: row.finish_reason,
            has_states: !row.states.is_empty(),
            greatest_id: row.token_ids().max().unwrap_or(0),
            digest: Rng::new(&seeds).next_u64(),
        }
    }

    /// Tokens of prompt and response.
    pub fn text_len(&self) -> usize {
        self.prompt_len as usize + self.response_len as usize
    }
}

impl ShardIndex {
    /// Checks every shard of a finished directory and indexes its rows, on all cores.
    ///
    /// # Errors
    /// `Missing` without a manifest or for a shard, `Incomplete`, `NoTrajectories`, `Digest`, `BadRow`, `Unusable` for shards
    /// of different runs, and those of [`Manifest::load`].
    pub fn open(dir: &Path) -> Result<Self, DatasetError> {
        let manifest = Manifest::of_finished(dir)?;
        let indexed: Vec<_> = manifest.shards.par_iter().map(|entry| index_shard(dir, entry)).collect();
        let (mut shards, mut found): (Vec<CheckedShard>, Vec<(RowSummary, Place)>) = Default::default();
        for indexed in indexed {
            let (shard, groups) = indexed?;
            if shards.first().is_some_and(|first| !first.metadata.agrees_with(&shard.metadata)) {
                let reason = "its settings are not those of the first shard of its directory".to_owned();
                let path = dir.join(&manifest.shards[shards.len()].file);
                return Err(DatasetError::Unusable { path, reason });
            }
            for (group, rows) in groups.into_iter().enumerate() {
                let place = |row| Place { shard: shards.len() as u32, group: group as u32, row };
                found.extend(rows.into_iter().zip((0..).map(place)));
            }
            shards.push(shard);
        }
        if found.is_empty() {
            return Err(DatasetError::NoTrajectories { dir: dir.to_path_buf(), input: manifest.input });
        }
        found.par_sort_by(|(a, _), (b, _)| (&a.sample_id, a.digest).cmp(&(&b.sample_id, b.digest)));
        let (rows, places) = found.into_iter().unzip();
        let metadata = shards[0].metadata.clone();
        Ok(Self { dir: dir.to_path_buf(), metadata, shards, rows, places })
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The metadata of the first shard, which agrees with those of the others.
    pub fn metadata(&self) -> &TrajectoryMetadata {
        &self.metadata
    }

    /// The rows, in order.
    pub fn rows(&self) -> &[RowSummary] {
        &self.rows
    }

    /// The rows with the indices `wanted`, each index at most once, in this order. Without `with_states` the states are not
    /// read, and the rows have none.
    ///
    /// # Errors
    /// `Missing`, `ChangedShard` or `Io` for a shard that was changed since it was indexed.
    pub fn read(&self, wanted: &[usize], with_states: bool) -> Result<Vec<Trajectory>, DatasetError> {
        let mut places: Vec<(Place, usize)> =
            wanted.iter().enumerate().map(|(at, &row)| (self.places[row], at)).collect();
        places.sort_unstable();
        let groups: Vec<&[(Place, usize)]> =
            places.chunk_by(|(a, _), (b, _)| (a.shard, a.group) == (b.shard, b.group)).collect();
        let read_group = |group: &&[(Place, usize)]| {
            let (Place { shard, group: number, .. }, _) = group[0];
            let numbers: Vec<usize> = group.iter().map(|(place, _)| place.row as usize).collect();
            let mut rows = Vec::with_capacity(numbers.len());
            let keep = |row| rows.push(row);
            self.shards[shard as usize].read(number as usize, &numbers, with_states, keep).map(|()| rows)
        };
        let read: Vec<Result<Vec<Trajectory>, DatasetError>> = groups.par_iter().map(read_group).collect();
        let rows: Vec<Vec<Trajectory>> = read.into_iter().collect::<Result<_, _>>()?;
        let mut rows: Vec<(usize, Trajectory)> =
            places.iter().map(|&(_, at)| at).zip(rows.into_iter().flatten()).collect();
        rows.sort_unstable_by_key(|&(at, _)| at);
        Ok(rows.into_iter().map(|(_, row)| row).collect())
    }
}

/// A shard that agrees with its entry of the manifest, and its rows by row group.
fn index_shard(dir: &Path, entry: &ShardEntry) -> Result<(CheckedShard, Vec<Vec<RowSummary>>), DatasetError> {
    let shard = CheckedShard::listed(dir, entry)?;
    let (found, listed) = (shard.rows(), entry.rows);
    if found != listed {
        let reason = format!("it says {listed} rows in {}, there are {found}", entry.file);
        return Err(DatasetError::BadManifest { path: dir.join(MANIFEST_FILE), reason });
    }
    let summaries = |group| {
        let mut rows = Vec::new();
        shard.read_group(group, |row| rows.push(RowSummary::of(&row))).map(|()| rows)
    };
    let groups: Vec<_> = (0..shard.groups()).into_par_iter().map(summaries).collect();
    let groups = groups.into_iter().collect::<Result<_, _>>()?;
    Ok((shard, groups))
}

/// All rows of a finished directory in the order of [`ShardIndex`], in memory.
///
/// # Errors
/// Those of [`ShardIndex::open`].
pub fn read_all(dir: &Path) -> Result<(TrajectoryMetadata, Vec<Trajectory>), DatasetError> {
    let index = ShardIndex::open(dir)?;
    let all: Vec<usize> = (0..index.rows.len()).collect();
    let rows = index.read(&all, true)?;
    Ok((index.metadata, rows))
}

#[cfg(test)]
mod tests;
