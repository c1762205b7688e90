//! Reads shards: whole ones, their metadata, or single rows on demand. The bytes of a file are compared with a digest
//! before the parquet crate sees any of them.

use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder, RowSelection,
};
use parquet::file::metadata::{KeyValue, PageIndexPolicy, ParquetStatisticsPolicy};

use super::check::check_rows;
use super::columns::{STATES, check_columns, from_batch, names_and_prompts};
use super::{SCHEMA_NAME, SCHEMA_VERSION, Trajectory, TrajectoryMetadata, seal};
use crate::error::DatasetError;
use crate::schema::manifest::ShardEntry;

/// Rows that are decoded at a time.
const BATCH_ROWS: usize = 64;

/// Opens a shard.
///
/// # Errors
/// `Missing`, `Io`.
pub(crate) fn open_shard(path: &Path) -> Result<fs_err::File, DatasetError> {
    if !path.exists() {
        let remedy = "`jacobi generate` makes its rows again; for a rank's shard give its --rank and --world-size (import again what was imported)";
        return Err(DatasetError::Missing { path: path.to_path_buf(), remedy });
    }
    fs_err::File::open(path).map_err(DatasetError::io("read", path))
}

/// Reads a shard and checks every row against the metadata.
///
/// # Errors
/// `Missing`, `Io`, `Digest` (truncated, damaged), `Parquet`, `Unusable`, `BadRow`; each names the file.
pub fn read_shard(path: &Path) -> Result<(TrajectoryMetadata, Vec<Trajectory>), DatasetError> {
    let shard = CheckedShard::sealed(path)?;
    let mut rows = Vec::new();
    for group in 0..shard.groups() {
        shard.read_group(group, |row| rows.push(row))?;
    }
    Ok((shard.metadata, rows))
}

/// A sample id and the tokens of its prompt.
pub type NamedPrompt = (String, Vec<u32>);

/// The metadata of a shard whose digest has been checked, and the sample id and prompt of every row; no other column is
/// decoded.
///
/// # Errors
/// As [`read_shard`].
pub fn read_prompts_of_shard(path: &Path) -> Result<(TrajectoryMetadata, Vec<NamedPrompt>), DatasetError> {
    let shard = CheckedShard::parse(path, FileState::at(path)?)?;
    let mask = ProjectionMask::roots(shard.footer.parquet_schema(), [0, 1]);
    let builder = shard.builder()?.with_projection(mask);
    let mut rows = Vec::new();
    for batch in builder.build().map_err(DatasetError::shard(path))? {
        names_and_prompts(path, &batch.map_err(DatasetError::shard(path))?, &mut rows)?;
    }
    Ok((shard.metadata, rows))
}

/// The state of a file, by which another file or content under its name is noticed: device, number, length and time of
/// modification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileState {
    identity: [u64; 2],
    bytes: u64,
    modified: Option<SystemTime>,
}

impl FileState {
    fn of(metadata: &Metadata) -> Self {
        Self { identity: identity(metadata), bytes: metadata.len(), modified: metadata.modified().ok() }
    }

    fn at(path: &Path) -> Result<Self, DatasetError> {
        let metadata = open_shard(path)?.metadata().map_err(DatasetError::io("read", path))?;
        Ok(Self::of(&metadata))
    }
}

#[cfg(unix)]
fn identity(metadata: &Metadata) -> [u64; 2] {
    use std::os::unix::fs::MetadataExt;
    [metadata.dev(), metadata.ino()]
}

#[cfg(not(unix))]
fn identity(_: &Metadata) -> [u64; 2] {
    [0; 2]
}

/// A shard whose bytes have been compared with a digest. It keeps the footer, not the rows.
#[derive(Debug)]
pub(crate) struct CheckedShard {
    path: PathBuf,
    /// Before the comparison.
    state: FileState,
    pub(crate) metadata: TrajectoryMetadata,
    footer: ArrowReaderMetadata,
    /// The first row of each row group, and the number of all rows.
    starts: Vec<usize>,
}

impl CheckedShard {
    /// Compares the file with the digest inside it.
    pub(crate) fn sealed(path: &Path) -> Result<Self, DatasetError> {
        let state = FileState::at(path)?;
        seal::check(path)?;
        Self::parse(path, state)
    }

    /// Compares the file in `dir` with its digest in the manifest.
    pub(crate) fn listed(dir: &Path, entry: &ShardEntry) -> Result<Self, DatasetError> {
        let path = dir.join(&entry.file);
        let state = FileState::at(&path)?;
        entry.verify(dir)?;
        Self::parse(&path, state)
    }

    /// Reads the footer of the file at `path`, which is in this state.
    fn parse(path: &Path, state: FileState) -> Result<Self, DatasetError> {
        let footer = parse_footer(path, state)?;
        let metadata = metadata_of(path, &footer)?;
        check_columns(path, footer.schema())?;
        let mut starts = vec![0];
        for group in footer.metadata().row_groups() {
            starts.push(starts[starts.len() - 1] + group.num_rows() as usize);
        }
        Ok(Self { path: path.to_path_buf(), state, metadata, footer, starts })
    }

    /// Number of row groups.
    pub(crate) fn groups(&self) -> usize {
        self.starts.len() - 1
    }

    /// Number of rows.
    pub(crate) fn rows(&self) -> usize {
        self.starts[self.groups()]
    }

    /// Passes every row of a row group to `keep`.
    pub(crate) fn read_group(&self, group: usize, keep: impl FnMut(Trajectory)) -> Result<(), DatasetError> {
        let rows: Vec<usize> = (0..self.starts[group + 1] - self.starts[group]).collect();
        self.read(group, &rows, true, keep)
    }

    /// Passes `rows` of a row group, ascending numbers within it, to `keep`. Without `with_states` the states are neither
    /// read nor decoded, and the rows have none.
    pub(crate) fn read(
        &self,
        group: usize,
        rows: &[usize],
        with_states: bool,
        mut keep: impl FnMut(Trajectory),
    ) -> Result<(), DatasetError> {
        let path = &self.path;
        let start = self.starts[group];
        let ranges = rows.iter().map(|&row| row..row + 1);
        let selection = RowSelection::from_consecutive_ranges(ranges, self.starts[group + 1] - start);
        let columns = if with_states { 0..STATES + 1 } else { 0..STATES };
        let mask = ProjectionMask::roots(self.footer.parquet_schema(), columns);
        let builder = self.builder()?.with_row_groups(vec![group]);
        let builder = builder.with_projection(mask).with_row_selection(selection).with_batch_size(BATCH_ROWS);
        let mut numbers = rows.iter().map(|row| start + row + 1);
        for batch in builder.build().map_err(DatasetError::shard(path))? {
            let batch = batch.map_err(DatasetError::shard(path))?;
            let numbers: Vec<usize> = numbers.by_ref().take(batch.num_rows()).collect();
            let rows = from_batch(path, &batch, &numbers)?;
            check_rows(path, &self.metadata, numbers.into_iter().zip(&rows))?;
            rows.into_iter().for_each(&mut keep);
        }
        Ok(())
    }

    /// Opens the file once more: two readers of one file handle would move each other's position.
    fn builder(&self) -> Result<ParquetRecordBatchReaderBuilder<std::fs::File>, DatasetError> {
        let file = open_unchanged(&self.path, self.state)?;
        Ok(ParquetRecordBatchReaderBuilder::new_with_metadata(file, self.footer.clone()))
    }
}

/// Opens a shard that was checked in this state.
fn open_unchanged(path: &Path, state: FileState) -> Result<std::fs::File, DatasetError> {
    let file = open_shard(path)?;
    let found = FileState::of(&file.metadata().map_err(DatasetError::io("read", path))?);
    if found != state {
        return Err(DatasetError::ChangedShard { path: path.to_path_buf() });
    }
    Ok(file.into_parts().0)
}

/// The footer with the places of pages, by which rows are found; without statistics.
fn parse_footer(path: &Path, state: FileState) -> Result<ArrowReaderMetadata, DatasetError> {
    let options = ArrowReaderOptions::new()
        .with_offset_index_policy(PageIndexPolicy::Optional)
        .with_column_stats_policy(ParquetStatisticsPolicy::SkipAll)
        .with_size_stats_policy(ParquetStatisticsPolicy::SkipAll);
    let file = open_unchanged(path, state)?;
    ArrowReaderMetadata::load(&file, options).map_err(DatasetError::shard(path))
}

fn metadata_of(path: &Path, footer: &ArrowReaderMetadata) -> Result<TrajectoryMetadata, DatasetError> {
    let entries = footer.metadata().file_metadata().key_value_metadata();
    let entries = Entries { path, entries: entries.map_or(&[][..], Vec::as_slice) };
    entries.check_schema()?;
    entries.metadata()
}

/// The `jacobi.*` entries of a file.
struct Entries<'a> {
    path: &'a Path,
    entries: &'a [KeyValue],
}

impl<'a> Entries<'a> {
    fn get(&self, key: &str) -> Option<&'a str> {
        let entry = self.entries.iter().find(|entry| entry.key.strip_prefix("jacobi.") == Some(key));
        entry.and_then(|entry| entry.value.as_deref())
    }

    fn text(&self, key: &str) -> Result<&'a str, DatasetError> {
        self.get(key).ok_or_else(|| self.bad(key, "missing"))
    }

    fn parse<T: std::str::FromStr>(&self, key: &str) -> Result<T, DatasetError> {
        let text = self.text(key)?;
        text.parse().map_err(|_| self.bad(key, &format!("`{text}`")))
    }

    fn bad(&self, key: &str, found: &str) -> DatasetError {
        let reason = format!("metadata `jacobi.{key}` is {found}");
        DatasetError::Unusable { path: self.path.to_path_buf(), reason }
    }

    fn check_schema(&self) -> Result<(), DatasetError> {
        let found = match (self.get("schema"), self.get("schema_version")) {
            (None, _) => "none".to_owned(),
            (Some(name), version) => format!("{name}/{}", version.unwrap_or("?")),
        };
        if found == format!("{SCHEMA_NAME}/{SCHEMA_VERSION}") {
            return Ok(());
        }
        Err(other_schema(self.path, &found))
    }

    fn metadata(&self) -> Result<TrajectoryMetadata, DatasetError> {
        let decoding = self.text("decoding")?;
        Ok(TrajectoryMetadata {
            base_model: self.parse("base_model")?,
            base_revision: self.parse("base_revision")?,
            weight_hash: self.parse("weight_hash")?,
            tokenizer_hash: self.parse("tokenizer_hash")?,
            block_size: self.parse("block_size")?,
            decoding: serde_json::from_str(decoding)
                .map_err(|_| self.bad("decoding", &format!("`{decoding}`")))?,
            seed: self.parse("seed")?,
            tool_version: self.parse("tool_version")?,
        })
    }
}

/// A file of the schema `found`.
pub(super) fn other_schema(path: &Path, found: &str) -> DatasetError {
    let reason = format!("it is of schema {found}, this program reads {SCHEMA_NAME}/{SCHEMA_VERSION}");
    DatasetError::Unusable { path: path.to_path_buf(), reason }
}
