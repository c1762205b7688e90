//! `manifest.json`: the shards of a directory with their digests, and the progress of its generation.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::atomic::write_atomic;
use crate::error::DatasetError;
use crate::schema::trajectory::open_shard;
use crate::settings::RecordedSettings;

/// Name of the manifest in a directory of shards.
pub const MANIFEST_FILE: &str = "manifest.json";
/// The `schema` of the manifests that this program reads and writes.
pub const MANIFEST_SCHEMA: &str = "jacobi-manifest/2";

/// One shard of a directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardEntry {
    /// File name within the directory.
    pub file: String,
    /// Rows in it.
    pub rows: usize,
    /// Size of the file.
    pub bytes: u64,
    /// BLAKE3 of the file, in hex.
    pub blake3: String,
}

impl ShardEntry {
    /// Compares the digest of the file in `dir` with the recorded one.
    ///
    /// # Errors
    /// `Missing` if there is no file, `Digest` if it has changed.
    pub fn verify(&self, dir: &Path) -> Result<(), DatasetError> {
        let path = dir.join(&self.file);
        let mut file = open_shard(&path)?;
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(&mut file).map_err(DatasetError::io("read", &path))?;
        let found = hasher.finalize().to_hex().to_string();
        if found == self.blake3 {
            return Ok(());
        }
        Err(DatasetError::Digest { path, expected: self.blake3.clone(), found })
    }
}

/// The part of a job that a directory holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RankEntry {
    /// From 0.
    pub rank: usize,
    /// Number of parts.
    pub world_size: usize,
    /// Prompts of all parts together.
    pub total_input: usize,
}

/// The manifest. When complete, `written + skipped + failed = input`, and the shards hold `written` rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`MANIFEST_SCHEMA`].
    pub schema: String,
    /// Everything besides the prompts that decides the rows: a directory is resumed only under the same settings.
    pub settings: RecordedSettings,
    /// Prompts asked for.
    pub input: usize,
    /// Prompts that became a row.
    pub written: usize,
    /// Prompts skipped by a rule.
    pub skipped: usize,
    /// Prompts that could not be read or answered; see `errors.jsonl`.
    pub failed: usize,
    /// Number of prompts skipped by each rule.
    #[serde(default)]
    pub skipped_by: BTreeMap<String, usize>,
    /// Counts over the responses, by name.
    #[serde(default)]
    pub counts: BTreeMap<String, usize>,
    /// Whether every prompt is written, skipped or failed.
    pub complete: bool,
    /// Set in the directory of one rank.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rank: Option<RankEntry>,
    /// Number of ranks whose shards were merged; unset if the directory is not the result of a merge.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub merged_ranks: Option<usize>,
    /// The shards, in order.
    pub shards: Vec<ShardEntry>,
}

impl Manifest {
    /// The manifest of an empty directory for a run over `input` prompts.
    pub fn new(settings: RecordedSettings, input: usize) -> Self {
        Self {
            schema: MANIFEST_SCHEMA.to_owned(),
            settings,
            input,
            written: 0,
            skipped: 0,
            failed: 0,
            skipped_by: BTreeMap::new(),
            counts: BTreeMap::new(),
            complete: false,
            rank: None,
            merged_ranks: None,
            shards: vec![],
        }
    }

    /// Bytes of all shards.
    pub fn bytes(&self) -> u64 {
        self.shards.iter().map(|shard| shard.bytes).fold(0, u64::saturating_add)
    }

    /// The manifest of `dir`, or `None` when there is none.
    ///
    /// # Errors
    /// `Io`, `Json`, `Unusable`, or `BadManifest` if its numbers do not add up.
    pub fn load(dir: &Path) -> Result<Option<Self>, DatasetError> {
        let path = dir.join(MANIFEST_FILE);
        let bytes = match fs_err::read(&path) {
            Ok(bytes) => bytes,
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(err) => return Err(DatasetError::io("read", path)(err)),
        };
        let json = |source| DatasetError::Json { path: path.clone(), expected: "a shard manifest", source };
        // The schema first: another version may lack or add fields.
        let value: serde_json::Value = serde_json::from_slice(&bytes).map_err(json)?;
        let found = value.get("schema").and_then(serde_json::Value::as_str).unwrap_or("none");
        if found != MANIFEST_SCHEMA {
            let reason = format!("it is of schema {found}, this program reads {MANIFEST_SCHEMA}");
            return Err(DatasetError::Unusable { path, reason });
        }
        let manifest: Self = serde_json::from_value(value).map_err(json)?;
        manifest.check(dir)?;
        Ok(Some(manifest))
    }

    /// Checks that its numbers add up; `dir` is named in the error.
    ///
    /// # Errors
    /// `BadManifest`.
    pub fn check(&self, dir: &Path) -> Result<(), DatasetError> {
        match self.contradiction() {
            Some(reason) => Err(DatasetError::BadManifest { path: dir.join(MANIFEST_FILE), reason }),
            None => Ok(()),
        }
    }

    /// Writes the manifest into `dir`, atomically.
    ///
    /// # Errors
    /// `Io`.
    pub fn save(&self, dir: &Path) -> Result<(), DatasetError> {
        let mut text = serde_json::to_string_pretty(self).expect("strings and numbers are JSON");
        text.push('\n');
        write_atomic(&dir.join(MANIFEST_FILE), |out| out.write_all(text.as_bytes()))
    }

    /// The manifest of a finished directory.
    ///
    /// # Errors
    /// `Missing` without a manifest, `Incomplete`, and those of [`Manifest::load`].
    pub fn of_finished(dir: &Path) -> Result<Self, DatasetError> {
        let manifest = Self::load(dir)?.ok_or_else(|| DatasetError::Missing {
            path: dir.join(MANIFEST_FILE),
            remedy: "run `jacobi generate` first, which makes the trajectories and this file",
        })?;
        let Self { input, written, skipped, failed, complete, .. } = manifest;
        if !complete {
            let done = written + skipped + failed;
            return Err(DatasetError::Incomplete { dir: dir.to_path_buf(), done, input });
        }
        Ok(manifest)
    }

    /// Compares the digest of every shard with the recorded one, several at a time.
    ///
    /// # Errors
    /// `Missing` for a missing shard, `Digest` for a changed one; the first of them.
    pub fn verify(&self, dir: &Path) -> Result<(), DatasetError> {
        let checked: Vec<_> = self.shards.par_iter().map(|shard| shard.verify(dir)).collect();
        checked.into_iter().collect()
    }

    fn contradiction(&self) -> Option<String> {
        if let Some(shard) = self.shards.iter().find(|shard| !is_file_name(&shard.file)) {
            return Some(format!(
                "it lists the shard {:?}, which is no file name in its directory",
                shard.file
            ));
        }
        // The numbers of a damaged file can be of any size.
        let sum = |counts: &mut dyn Iterator<Item = usize>| counts.map(|count| count as u128).sum::<u128>();
        let done = sum(&mut [self.written, self.skipped, self.failed].into_iter());
        let rows = sum(&mut self.shards.iter().map(|shard| shard.rows));
        let input = self.input as u128;
        if done > input || (self.complete && done != input) {
            let Self { written, skipped, failed, input, .. } = self;
            return Some(format!(
                "{written} written + {skipped} skipped + {failed} failed is not {input} input"
            ));
        }
        (self.complete && rows != self.written as u128)
            .then(|| format!("its shards hold {rows} rows, not the {} written", self.written))
    }
}

/// Whether `name` is a file within a directory: no other directory, and no path on any system.
fn is_file_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    let is_one = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
    is_one && !name.contains(['/', '\\', ':'])
}

/// Name of shard `index` (from 0) of `total`: `trajectories-00000-of-00008.parquet`.
pub fn shard_file_name(index: usize, total: usize) -> String {
    format!("trajectories-{index:05}-of-{total:05}.parquet")
}

#[cfg(test)]
mod tests;
