//! The rows of a finished directory of shards, in their order, read from disk when they are needed.
//!
//! Opening the index compares every digest and decodes and checks every row once; it keeps a summary of each row and its
//! place. So the memory is that of the summaries, whatever the rows hold.

use std::ops::Range;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::error::DatasetError;
use crate::rng::Rng;
use crate::schema::manifest::{MANIFEST_FILE, Manifest, ShardEntry};
use crate::schema::trajectory::{CheckedShard, FinishReason, Trajectory, TrajectoryMetadata};

/// The rows of a directory, sorted by sample id, prompt tokens and digest, so that their order depends neither on generation
/// nor on the division into shards.
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

/// Tokens in memory at a time to sort rows of the same sample id.
const SORTED_TOKENS: usize = 1 << 22;
/// The fewest of one row.
const MIN_SORTED_TOKENS: usize = 16;

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
        found.par_sort_by(|(a, _), (b, _)| a.sample_id.cmp(&b.sample_id));
        let (rows, places) = found.into_iter().unzip();
        let metadata = shards[0].metadata.clone();
        let mut index = Self { dir: dir.to_path_buf(), metadata, shards, rows, places };
        index.sort_namesakes(SORTED_TOKENS)?;
        Ok(index)
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
        self.read_map(wanted, with_states, |row| row)
    }

    /// As [`Self::read`], with `map` of each row: no row is kept that is not part of the result.
    fn read_map<T: Send>(
        &self,
        wanted: &[usize],
        with_states: bool,
        map: impl Fn(Trajectory) -> T + Sync,
    ) -> Result<Vec<T>, DatasetError> {
        let mut places: Vec<(Place, usize)> =
            wanted.iter().enumerate().map(|(at, &row)| (self.places[row], at)).collect();
        places.sort_unstable();
        let groups: Vec<&[(Place, usize)]> =
            places.chunk_by(|(a, _), (b, _)| (a.shard, a.group) == (b.shard, b.group)).collect();
        let read_group = |group: &&[(Place, usize)]| {
            let (Place { shard, group: number, .. }, _) = group[0];
            let numbers: Vec<usize> = group.iter().map(|(place, _)| place.row as usize).collect();
            let mut rows = Vec::with_capacity(numbers.len());
            let keep = |row| rows.push(map(row));
            self.shards[shard as usize].read(number as usize, &numbers, with_states, keep).map(|()| rows)
        };
        let read: Vec<Result<Vec<T>, DatasetError>> = groups.par_iter().map(read_group).collect();
        let rows: Vec<Vec<T>> = read.into_iter().collect::<Result<_, _>>()?;
        let mut rows: Vec<(usize, T)> =
            places.iter().map(|&(_, at)| at).zip(rows.into_iter().flatten()).collect();
        rows.sort_unstable_by_key(|&(at, _)| at);
        Ok(rows.into_iter().map(|(_, row)| row).collect())
    }

    /// Sorts the rows of equal sample ids by prompt and digest. The prompts are read again, a part of each at a time: about
    /// `tokens` of all rows together, so that the memory does not grow with the lengths.
    fn sort_namesakes(&mut self, tokens: usize) -> Result<(), DatasetError> {
        // Rows with the same id whose prompts have equal tokens in front of the second number.
        let mut ties: Vec<(Range<usize>, usize)> =
            runs(&self.rows, |row| &row.sample_id).map(|run| (run, 0)).collect();
        while let Some((range, start)) = ties.pop() {
            let taken = (tokens / range.len()).max(MIN_SORTED_TOKENS);
            let wanted: Vec<usize> = range.clone().collect();
            let parts = self.read_map(&wanted, false, |row| {
                let rest = &row.prompt_tokens[start..];
                Box::<[u32]>::from(&rest[..taken.min(rest.len())])
            })?;
            let rows =
                self.rows[range.clone()].iter().cloned().zip(self.places[range.clone()].iter().copied());
            let mut sorted: Vec<_> = parts.into_iter().zip(rows).collect();
            sorted.par_sort_by(|(a, (one, _)), (b, (two, _))| (a, one.digest).cmp(&(b, two.digest)));
            let tied = runs(&sorted, |(part, _)| part).filter(|run| sorted[run.start].0.len() == taken);
            ties.extend(tied.map(|run| (range.start + run.start..range.start + run.end, start + taken)));
            for (at, (_, (row, place))) in range.zip(sorted) {
                (self.rows[at], self.places[at]) = (row, place);
            }
        }
        Ok(())
    }
}

/// The ranges of two or more neighbours with the same key.
fn runs<'a, T, K: PartialEq>(
    items: &'a [T],
    key: impl Fn(&T) -> &K + 'a,
) -> impl Iterator<Item = Range<usize>> + 'a {
    let mut start = 0;
    let chunks = items.chunk_by(move |a, b| key(a) == key(b)).map(move |chunk| {
        let range = start..start + chunk.len();
        start = range.end;
        range
    });
    chunks.filter(|range| range.len() > 1)
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
