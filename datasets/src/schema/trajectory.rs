//! Trajectory shards: one Parquet row per sample, every recorded state of every block.
//!
//! A state keeps only the tail after its converged prefix, since the prefix equals the clean block: half the size, and
//! every noise schedule stays possible later. The file metadata (keys under `jacobi.`) say which model, tokenizer and
//! settings made the rows.

use std::collections::BTreeMap;
use std::path::Path;

use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::arrow::{ArrowWriter, ProjectionMask};
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use serde::{Deserialize, Serialize};

use crate::atomic::write_atomic;
use crate::error::DatasetError;
use crate::pack::PackConfig;

mod check;
mod columns;
mod seal;

use check::check_rows;
use columns::{check_columns, from_batch, names_and_prompts, schema, to_batch};

/// Schema name in the file metadata.
pub const SCHEMA_NAME: &str = "jacobi-trajectory";
/// Schema version in the file metadata; any change of columns or of their meaning raises it.
pub const SCHEMA_VERSION: u32 = 1;

/// Why a response ends where it ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FinishReason {
    /// Its last token is an end-of-sequence token.
    #[default]
    Eos,
    /// The length limit cut it.
    Length,
}

impl FinishReason {
    /// The word on disk: `eos` or `length`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Eos => "eos",
            Self::Length => "length",
        }
    }

    /// The reverse of [`as_str`](Self::as_str); `None` for any other word.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Eos, Self::Length].into_iter().find(|reason| reason.as_str() == name)
    }
}

/// Passes that Jacobi decoding needs for a block of `block_len` tokens with these recorded states; none where they do
/// not lead to the fixed point. Counted from the last noisy state, because older shards count the verifying pass as an
/// iteration of the fixed point. `ends` says that the response ends with the block: then the token that ends it may come
/// from the last iteration, and nothing is left to verify.
pub fn jacobi_passes(states: &[State], block_len: usize, ends: bool) -> Option<usize> {
    let (last, before) = states.split_last().filter(|(last, _)| last.tail.is_empty())?;
    let noisy = before.last();
    let iterations = noisy.map_or(last.iteration, |state| state.iteration + 1) as usize;
    let right = noisy.map_or(0, |state| state.converged as usize);
    Some(iterations + usize::from(!ends || right + 1 < block_len))
}

/// One state of one block on its way to the fixed point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Block index within the response.
    pub block: u32,
    /// Jacobi iterations that led to it: 0 is the random start, or a fixed point that was known without any. The pass
    /// that verifies a fixed point is not among them.
    pub iteration: u32,
    /// Length of the leading run that equals the clean block.
    pub converged: u32,
    /// The tokens after it, to the end of the block.
    pub tail: Vec<u32>,
}

impl State {
    /// Noise ratio: share of a block of `block_len` tokens from the first divergence on; 0 at the fixed point.
    pub fn noise_ratio(&self, block_len: usize) -> f64 {
        noise_ratio(self.converged as usize, block_len)
    }
}

/// Noise ratio of a block of which the first `converged` tokens are right.
pub(crate) fn noise_ratio(converged: usize, block_len: usize) -> f64 {
    block_len.saturating_sub(converged) as f64 / block_len.max(1) as f64
}

/// One sample: prompt, greedy response, and the recorded states of its blocks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trajectory {
    /// Name of the sample, from its prompt.
    pub sample_id: String,
    /// Prompt ids, chat template included.
    pub prompt_tokens: Vec<u32>,
    /// Response ids up to and including EOS: the clean blocks, one after the other.
    pub response_tokens: Vec<u32>,
    /// Why the response ends.
    pub finish_reason: FinishReason,
    /// States in order of block, then iteration.
    pub states: Vec<State>,
}

impl Trajectory {
    /// Every token id in it: those of the prompt, the response and the states.
    pub fn token_ids(&self) -> impl Iterator<Item = u32> {
        let tails = self.states.iter().flat_map(|state| &state.tail);
        self.prompt_tokens.iter().chain(&self.response_tokens).chain(tails).copied()
    }
}

/// What made the rows of a shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrajectoryMetadata {
    /// Name or path of the model.
    pub base_model: String,
    /// Its revision, or empty.
    pub base_revision: String,
    /// Digest of its weights.
    pub weight_hash: String,
    /// Digest of tokenizer.json.
    pub tokenizer_hash: String,
    /// Tokens per block.
    pub block_size: usize,
    /// Decoding parameters by name.
    pub decoding: BTreeMap<String, String>,
    /// Seed of the random starts.
    pub seed: u64,
    /// Version of the program.
    pub tool_version: String,
}

/// Key of [`TrajectoryMetadata::decoding`] under which shards that hold states for one noise schedule alone name it.
pub const SCHEDULE_KEY: &str = "scheduled_states";

impl TrajectoryMetadata {
    /// Whether rows of both are rows of one run: where the model lay and which version of the program ran decide nothing, and
    /// may change between two sittings or differ between two machines.
    pub fn agrees_with(&self, other: &Self) -> bool {
        let Self { base_model, base_revision, tool_version, .. } = self.clone();
        self == &Self { base_model, base_revision, tool_version, ..other.clone() }
    }

    /// Whether the shards in `path` have the states that packing under `config` asks for.
    ///
    /// # Errors
    /// `WrongSchedule` if they were made for another schedule.
    pub fn check_schedule(&self, path: &Path, config: &PackConfig) -> Result<(), DatasetError> {
        let asked = config.schedule_text();
        match self.decoding.get(SCHEDULE_KEY) {
            Some(made) if *made != asked => {
                Err(DatasetError::WrongSchedule { path: path.to_path_buf(), made: made.clone(), asked })
            }
            _ => Ok(()),
        }
    }
}

/// What the manifest notes of a written shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardDigest {
    /// Rows written.
    pub rows: usize,
    /// BLAKE3 of the file, in hex.
    pub blake3: String,
    /// Size of the file.
    pub bytes: u64,
}

/// Writes a shard (Parquet, zstd) of one row group, whole or not at all.
///
/// # Errors
/// `BadShardRow` for a row that contradicts itself, `Io` when the file cannot be written.
pub fn write_shard(
    path: &Path,
    metadata: &TrajectoryMetadata,
    rows: &[Trajectory],
) -> Result<ShardDigest, DatasetError> {
    let mut encoder = Encoder::new(path, metadata)?;
    encoder.group(rows)?;
    encoder.write()
}

/// Writes the rows of `parts`, shards themselves, as one shard with a row group for each, whole or not at all. Only one
/// part is in memory at a time.
///
/// # Errors
/// As [`write_shard`] and [`read_shard`].
pub fn join_shards(
    path: &Path,
    metadata: &TrajectoryMetadata,
    parts: &[std::path::PathBuf],
) -> Result<ShardDigest, DatasetError> {
    let mut encoder = Encoder::new(path, metadata)?;
    for part in parts {
        encoder.group(&read_shard(part)?.1)?;
    }
    encoder.write()
}

/// Opens a shard.
///
/// # Errors
/// `Missing`, `Io`.
pub(crate) fn open_shard(path: &Path) -> Result<fs_err::File, DatasetError> {
    if !path.exists() {
        let way_out = "`jacobi generate` makes its rows anew; for a rank's shard give its --rank and --world-size (what was imported, import again)";
        return Err(DatasetError::Missing { path: path.to_path_buf(), way_out });
    }
    fs_err::File::open(path).map_err(DatasetError::io("read", path))
}

/// Reads a shard and checks every row against the metadata.
///
/// # Errors
/// `Missing`, `Io`, `Parquet` (truncated, damaged), `WrongSchema`, `WrongColumns`, `BadMetadata`, `BadShardRow`, `Digest`; each
/// names the file.
pub fn read_shard(path: &Path) -> Result<(TrajectoryMetadata, Vec<Trajectory>), DatasetError> {
    let file = open_shard(path)?.into_parts().0;
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(DatasetError::parquet(path))?;
    let entries = builder.metadata().file_metadata().key_value_metadata();
    let entries = Entries { path, entries: entries.map_or(&[][..], Vec::as_slice) };
    entries.check_schema()?;
    let metadata = entries.metadata()?;
    check_columns(path, builder.schema())?;
    seal::check(path, &fs_err::read(path).map_err(DatasetError::io("read", path))?)?;

    let mut rows = Vec::new();
    for batch in builder.build().map_err(DatasetError::parquet(path))? {
        from_batch(path, &batch.map_err(DatasetError::arrow(path))?, &mut rows)?;
    }
    check_rows(path, &metadata, &rows)?;
    Ok((metadata, rows))
}

/// What made the rows of a shard, without reading them.
///
/// # Errors
/// `Io`, `Parquet`, `WrongSchema`, `BadMetadata`.
pub fn read_metadata(path: &Path) -> Result<TrajectoryMetadata, DatasetError> {
    let file = open_shard(path)?.into_parts().0;
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(DatasetError::parquet(path))?;
    let entries = builder.metadata().file_metadata().key_value_metadata();
    let entries = Entries { path, entries: entries.map_or(&[][..], Vec::as_slice) };
    entries.check_schema()?;
    entries.metadata()
}

/// The sample id and prompt of every row of a shard whose digest has been checked; nothing else of it is decoded.
///
/// # Errors
/// As [`read_shard`].
pub fn read_prompts_of_shard(path: &Path) -> Result<Vec<(String, Vec<u32>)>, DatasetError> {
    let file = open_shard(path)?.into_parts().0;
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(DatasetError::parquet(path))?;
    check_columns(path, builder.schema())?;
    let mask = ProjectionMask::roots(builder.parquet_schema(), [0, 1]);
    let mut rows = Vec::new();
    for batch in builder.with_projection(mask).build().map_err(DatasetError::parquet(path))? {
        names_and_prompts(path, &batch.map_err(DatasetError::arrow(path))?, &mut rows)?;
    }
    Ok(rows)
}

/// A shard being put together in memory.
struct Encoder<'a> {
    path: &'a Path,
    metadata: &'a TrajectoryMetadata,
    writer: ArrowWriter<Vec<u8>>,
    rows: usize,
}

impl<'a> Encoder<'a> {
    fn new(path: &'a Path, metadata: &'a TrajectoryMetadata) -> Result<Self, DatasetError> {
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_key_value_metadata(Some(key_values(metadata)))
            .build();
        let writer = ArrowWriter::try_new(Vec::new(), std::sync::Arc::new(schema()), Some(properties))
            .map_err(DatasetError::parquet(path))?;
        Ok(Self { path, metadata, writer, rows: 0 })
    }

    fn group(&mut self, rows: &[Trajectory]) -> Result<(), DatasetError> {
        check_rows(self.path, self.metadata, rows)?;
        let batch = to_batch(rows).map_err(DatasetError::arrow(self.path))?;
        self.writer.write(&batch).map_err(DatasetError::parquet(self.path))?;
        self.writer.flush().map_err(DatasetError::parquet(self.path))?;
        self.rows += rows.len();
        Ok(())
    }

    fn write(self) -> Result<ShardDigest, DatasetError> {
        let bytes = seal::seal(self.writer.into_inner().map_err(DatasetError::parquet(self.path))?);
        write_atomic(self.path, |out| out.write_all(&bytes))?;
        let blake3 = blake3::hash(&bytes).to_hex().to_string();
        Ok(ShardDigest { rows: self.rows, blake3, bytes: bytes.len() as u64 })
    }
}

fn key_values(metadata: &TrajectoryMetadata) -> Vec<KeyValue> {
    let decoding = serde_json::to_string(&metadata.decoding).expect("a map of strings is JSON");
    [
        ("schema", SCHEMA_NAME.to_owned()),
        ("schema_version", SCHEMA_VERSION.to_string()),
        ("base_model", metadata.base_model.clone()),
        ("base_revision", metadata.base_revision.clone()),
        ("weight_hash", metadata.weight_hash.clone()),
        ("tokenizer_hash", metadata.tokenizer_hash.clone()),
        ("block_size", metadata.block_size.to_string()),
        ("decoding", decoding),
        ("seed", metadata.seed.to_string()),
        ("tool_version", metadata.tool_version.clone()),
    ]
    .map(|(key, value)| KeyValue::new(format!("jacobi.{key}"), value))
    .to_vec()
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
        DatasetError::BadMetadata {
            path: self.path.to_path_buf(),
            key: format!("jacobi.{key}"),
            found: found.to_owned(),
        }
    }

    fn check_schema(&self) -> Result<(), DatasetError> {
        let found = match (self.get("schema"), self.get("schema_version")) {
            (None, _) => "none".to_owned(),
            (Some(name), version) => format!("{name}/{}", version.unwrap_or("?")),
        };
        let expected = format!("{SCHEMA_NAME}/{SCHEMA_VERSION}");
        if found == expected {
            return Ok(());
        }
        Err(DatasetError::WrongSchema { path: self.path.to_path_buf(), found, expected })
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

#[cfg(test)]
mod tests;
