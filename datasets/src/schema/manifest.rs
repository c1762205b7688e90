//! `manifest.json`: what a directory of shards holds, how far its generation has come, and the digest of each shard.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::atomic::write_atomic;
use crate::error::DatasetError;
use crate::schema::trajectory::{Trajectory, TrajectoryMetadata, read_shard};

/// Name of the manifest in a directory of shards.
pub const MANIFEST_FILE: &str = "manifest.json";
/// The `schema` of the manifests that this program reads and writes.
pub const MANIFEST_SCHEMA: &str = "jacobi-manifest/1";

/// One shard of a directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardEntry {
    /// File name within the directory.
    pub file: String,
    /// Rows in it.
    pub rows: usize,
    /// BLAKE3 of the file, in hex.
    pub blake3: String,
}

/// The manifest. When complete, `written + skipped + failed = input`, and the shards hold `written` rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`MANIFEST_SCHEMA`].
    pub schema: String,
    /// Digest of everything that decides the rows: a directory is resumed only under the same one.
    pub fingerprint: String,
    /// Prompts asked for.
    pub input: usize,
    /// Prompts that became a row.
    pub written: usize,
    /// Prompts left out by a rule.
    pub skipped: usize,
    /// Prompts that could not be read or answered; see `errors.jsonl`.
    pub failed: usize,
    /// Whether every prompt has been dealt with.
    pub complete: bool,
    /// The shards, in order.
    pub shards: Vec<ShardEntry>,
}

impl Manifest {
    /// The manifest of a directory that holds nothing yet, of a run over `input` prompts.
    pub fn new(fingerprint: &str, input: usize) -> Self {
        Self {
            schema: MANIFEST_SCHEMA.to_owned(),
            fingerprint: fingerprint.to_owned(),
            input,
            written: 0,
            skipped: 0,
            failed: 0,
            complete: false,
            shards: vec![],
        }
    }

    /// The manifest of `dir`, or `None` when there is none.
    ///
    /// # Errors
    /// `Io`, `Json`, `WrongSchema`, or `BadManifest` when its numbers do not add up.
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
            let (found, expected) = (found.to_owned(), MANIFEST_SCHEMA.to_owned());
            return Err(DatasetError::WrongSchema { path, found, expected });
        }
        let manifest: Self = serde_json::from_value(value).map_err(json)?;
        match manifest.contradiction() {
            Some(reason) => Err(DatasetError::BadManifest { path, reason }),
            None => Ok(Some(manifest)),
        }
    }

    /// Writes the manifest into `dir`, whole or not at all.
    ///
    /// # Errors
    /// `Io`.
    pub fn save(&self, dir: &Path) -> Result<(), DatasetError> {
        let mut text = serde_json::to_string_pretty(self).expect("strings and numbers are JSON");
        text.push('\n');
        write_atomic(&dir.join(MANIFEST_FILE), |out| out.write_all(text.as_bytes()))
    }

    /// Compares the digest of every shard with the recorded one.
    ///
    /// # Errors
    /// `Io` for a shard that is missing, `Digest` for one that has changed.
    pub fn verify(&self, dir: &Path) -> Result<(), DatasetError> {
        for shard in &self.shards {
            let path = dir.join(&shard.file);
            let mut file = fs_err::File::open(&path).map_err(DatasetError::io("read", &path))?;
            let mut hasher = blake3::Hasher::new();
            hasher.update_reader(&mut file).map_err(DatasetError::io("read", &path))?;
            let found = hasher.finalize().to_hex().to_string();
            if found != shard.blake3 {
                return Err(DatasetError::Digest { path, expected: shard.blake3.clone(), found });
            }
        }
        Ok(())
    }

    fn contradiction(&self) -> Option<String> {
        let done = self.written + self.skipped + self.failed;
        let rows: usize = self.shards.iter().map(|shard| shard.rows).sum();
        if done > self.input || (self.complete && done != self.input) {
            let Self { written, skipped, failed, input, .. } = self;
            return Some(format!(
                "{written} written + {skipped} skipped + {failed} failed is not {input} input"
            ));
        }
        (self.complete && rows != self.written)
            .then(|| format!("its shards hold {rows} rows, not the {} written", self.written))
    }
}

/// Name of shard `index` (from 0) of `total`: `trajectories-00000-of-00008.parquet`.
pub fn shard_file_name(index: usize, total: usize) -> String {
    format!("trajectories-{index:05}-of-{total:05}.parquet")
}

/// Reads all trajectories of a finished directory, after checking every digest.
///
/// # Errors
/// `NoManifest`, `Incomplete`, `NoTrajectories`, `MixedShards`, and all that [`Manifest::load`],
/// [`Manifest::verify`] and [`read_shard`] return.
pub fn read_all(dir: &Path) -> Result<(TrajectoryMetadata, Vec<Trajectory>), DatasetError> {
    let manifest = Manifest::load(dir)?.ok_or_else(|| DatasetError::NoManifest { dir: dir.to_path_buf() })?;
    let Manifest { input, written, skipped, failed, complete, .. } = manifest;
    if !complete {
        let done = written + skipped + failed;
        return Err(DatasetError::Incomplete { dir: dir.to_path_buf(), done, input });
    }
    manifest.verify(dir)?;
    let mut all: Option<(TrajectoryMetadata, Vec<Trajectory>)> = None;
    for shard in &manifest.shards {
        let path = dir.join(&shard.file);
        let (metadata, rows) = read_shard(&path)?;
        if rows.len() != shard.rows {
            let reason = format!("it says {} rows in {}, there are {}", shard.rows, shard.file, rows.len());
            return Err(DatasetError::BadManifest { path: dir.join(MANIFEST_FILE), reason });
        }
        match &mut all {
            None => all = Some((metadata, rows)),
            Some((first, _)) if *first != metadata => return Err(DatasetError::MixedShards { path }),
            Some((_, all)) => all.extend(rows),
        }
    }
    all.filter(|(_, rows)| !rows.is_empty())
        .ok_or_else(|| DatasetError::NoTrajectories { dir: dir.to_path_buf(), input })
}

#[cfg(test)]
mod tests;
