//! Trajectory shards: one Parquet row per sample, every recorded state of every block.
//!
//! A state stores only the tail after its converged prefix, because the prefix equals the clean block. That
//! halves the file and keeps every noise schedule possible. The file metadata (keys `jacobi.*`) name the
//! model, the tokenizer and the settings that made the rows.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use serde::{Deserialize, Serialize};

use crate::atomic::write_atomic;
use crate::error::DatasetError;

mod check;
mod columns;
mod read;
mod seal;

use check::check_rows;
use columns::{schema, to_batch};
pub(crate) use read::{CheckedShard, open_shard};
pub use read::{NamedPrompt, read_prompts_of_shard, read_shard};
pub use seal::seal;

/// Schema name in the file metadata.
pub const SCHEMA_NAME: &str = "jacobi-trajectory";
/// Schema version in the file metadata. A change of columns or of their meaning increases it.
pub const SCHEMA_VERSION: u32 = 1;

/// Why a response ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FinishReason {
    /// Its last token is an end-of-sequence token.
    #[default]
    Eos,
    /// It reached the length limit.
    Length,
}

impl FinishReason {
    /// The value on disk: `eos` or `length`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Eos => "eos",
            Self::Length => "length",
        }
    }

    /// The inverse of [`as_str`](Self::as_str); `None` for any other text.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Eos, Self::Length].into_iter().find(|reason| reason.as_str() == name)
    }
}

/// Number of forward passes that Jacobi decoding needs for a block of `block_len` tokens with these recorded states;
/// `None` if they do not reach the fixed point. Counted from the last noisy state, because older shards count
/// the verifying pass as an iteration of the fixed point. `ends`: whether the response ends with this block. Then
/// the last iteration may give the last token, and no pass has to verify it.
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
    /// Number of Jacobi iterations before this state: 0 for the random start, and for a fixed point that was known
    /// without iterating. The pass that verifies a fixed point does not count.
    pub iteration: u32,
    /// Number of leading tokens that equal the clean block.
    pub converged: u32,
    /// The tokens after it, to the end of the block.
    pub tail: Vec<u32>,
}

impl State {
    /// Noise ratio: the share of the block's `block_len` tokens from the first divergence on; 0 at the fixed point.
    pub fn noise_ratio(&self, block_len: usize) -> f64 {
        noise_ratio(self.converged as usize, block_len)
    }
}

/// Noise ratio of a block whose first `converged` tokens are right.
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
    /// Every token id of the prompt, the response and the states.
    pub fn token_ids(&self) -> impl Iterator<Item = u32> {
        let tails = self.states.iter().flat_map(|state| &state.tail);
        self.prompt_tokens.iter().chain(&self.response_tokens).chain(tails).copied()
    }
}

/// The model, tokenizer and settings that made the rows of a shard.
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

/// Key of [`TrajectoryMetadata::decoding`] that names the noise schedule of shards that hold the states of
/// one schedule only.
pub const SCHEDULE_KEY: &str = "scheduled_states";

impl TrajectoryMetadata {
    /// Whether both describe rows of one run. The model's path and the program's version do not change the
    /// rows and may differ between sittings and machines.
    pub fn agrees_with(&self, other: &Self) -> bool {
        let Self { base_model, base_revision, tool_version, .. } = self.clone();
        self == &Self { base_model, base_revision, tool_version, ..other.clone() }
    }
}

/// What the manifest records of a written shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardDigest {
    /// Rows written.
    pub rows: usize,
    /// BLAKE3 of the file, in hex.
    pub blake3: String,
    /// Size of the file.
    pub bytes: u64,
}

/// Writes a shard (Parquet, zstd) of one row group, atomically.
///
/// # Errors
/// `BadRow` for a row that contradicts itself, `Io` or `DiskFull` if the file cannot be written.
pub fn write_shard(
    path: &Path,
    metadata: &TrajectoryMetadata,
    rows: &[Trajectory],
) -> Result<ShardDigest, DatasetError> {
    let mut encoder = Encoder::new(path, metadata)?;
    encoder.append_row_group(rows)?;
    encoder.write()
}

/// Joins the shards `parts` to one shard with a row group for each, atomically. Reads one part at a time.
///
/// # Errors
/// As [`write_shard`] and [`read_shard`].
pub fn join_shards(
    path: &Path,
    metadata: &TrajectoryMetadata,
    parts: &[PathBuf],
) -> Result<ShardDigest, DatasetError> {
    let mut encoder = Encoder::new(path, metadata)?;
    for part in parts {
        encoder.append_row_group(&read_shard(part)?.1)?;
    }
    encoder.write()
}

/// A shard under construction, in memory.
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
            .map_err(not_encoded(path))?;
        Ok(Self { path, metadata, writer, rows: 0 })
    }

    fn append_row_group(&mut self, rows: &[Trajectory]) -> Result<(), DatasetError> {
        check_rows(self.path, self.metadata, (1..).zip(rows))?;
        let batch = to_batch(rows).map_err(not_encoded(self.path))?;
        self.writer.write(&batch).map_err(not_encoded(self.path))?;
        self.writer.flush().map_err(not_encoded(self.path))?;
        self.rows += rows.len();
        Ok(())
    }

    fn write(self) -> Result<ShardDigest, DatasetError> {
        let bytes = seal(self.writer.into_inner().map_err(not_encoded(self.path))?);
        write_atomic(self.path, |out| out.write_all(&bytes))?;
        let blake3 = blake3::hash(&bytes).to_hex().to_string();
        Ok(ShardDigest { rows: self.rows, blake3, bytes: bytes.len() as u64 })
    }
}

/// For `map_err` of the encoder: `Io` about the file to write.
fn not_encoded<E: Into<ParquetError>>(path: &Path) -> impl Fn(E) -> DatasetError + '_ {
    move |source| DatasetError::io("write", path)(io::Error::other(source.into()))
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

#[cfg(test)]
mod tests;
