//! What became of every prompt: the manifest and errors.jsonl, so that written + skipped + failed = input.

use std::path::{Path, PathBuf};

use jacobi_datasets::{Manifest, ShardEntry, write_atomic};
use serde::{Deserialize, Serialize};

use crate::GenerateError;

/// One prompt that gave no trajectory: a line of errors.jsonl.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rejected {
    /// The shard it would be in.
    pub shard: usize,
    /// Left out by a rule, or broken.
    pub kind: RejectedKind,
    /// Line or row in the prompt file, or the sample's id.
    pub prompt: String,
    /// Why.
    pub reason: String,
}

/// Left out by a rule, or broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RejectedKind {
    /// By a rule of the config.
    Skipped,
    /// It could not be read or rendered.
    Failed,
}

/// The books of one output directory.
pub(crate) struct Ledger {
    dir: PathBuf,
    pub(crate) manifest: Manifest,
    rejected: Vec<Rejected>,
}

impl Ledger {
    /// Opens what an earlier run left, or starts anew.
    pub(crate) fn open(dir: &Path, fingerprint: &str, input: usize) -> Result<Self, GenerateError> {
        fs_err::create_dir_all(dir)?;
        let manifest = match Manifest::load(dir)? {
            Some(manifest) if manifest.fingerprint == fingerprint => manifest,
            Some(_) => return Err(GenerateError::Mismatch { dir: dir.to_path_buf() }),
            None => Manifest::new(fingerprint, input),
        };
        let errors = dir.join("errors.jsonl");
        let mut rejected = Vec::new();
        if errors.is_file() {
            let text = fs_err::read_to_string(errors)?;
            rejected.extend(text.lines().filter_map(|line| serde_json::from_str::<Rejected>(line).ok()));
        }
        // A shard that is not in the manifest is made again, and so are its rejections.
        rejected.retain(|r| r.shard < manifest.shards.len());
        Ok(Self { dir: dir.to_path_buf(), manifest, rejected })
    }

    pub(crate) fn errors_path(&self) -> PathBuf {
        self.dir.join("errors.jsonl")
    }

    pub(crate) fn failed(&self) -> usize {
        self.rejected.iter().filter(|r| r.kind == RejectedKind::Failed).count()
    }

    /// Books a finished shard. The shard is on disk already; errors follow, then the manifest that names both.
    pub(crate) fn close_shard(
        &mut self,
        shard: ShardEntry,
        rejected: Vec<Rejected>,
        total_shards: usize,
    ) -> Result<(), GenerateError> {
        self.rejected.extend(rejected);
        let lines: String = self
            .rejected
            .iter()
            .map(|r| format!("{}\n", serde_json::to_string(r).expect("a row of names and numbers")))
            .collect();
        write_atomic(&self.errors_path(), |file| file.write_all(lines.as_bytes()))?;
        let manifest = &mut self.manifest;
        manifest.written += shard.rows;
        manifest.shards.push(shard);
        manifest.failed = self.rejected.iter().filter(|r| r.kind == RejectedKind::Failed).count();
        manifest.skipped = self.rejected.len() - manifest.failed;
        manifest.complete = manifest.shards.len() == total_shards;
        if manifest.complete {
            let (rows, input) = (manifest.written + manifest.skipped + manifest.failed, manifest.input);
            assert_eq!(rows, input, "written + skipped + failed must account for every prompt");
        }
        Ok(self.manifest.save(&self.dir)?)
    }
}
