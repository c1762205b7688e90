//! Writes a directory of shards so that a crash loses no finished row group.
//!
//! A row group is written as a small shard, `part-00012.parquet`, and entered into the manifest; from then on
//! it is durable. When the parts are large enough they are joined to one shard, `shard-00003.parquet`. At the
//! end all shards get their final names, `trajectories-00003-of-00008.parquet`. Every step writes the new
//! files, replaces the manifest, then removes the files that the manifest no longer lists. Opening the
//! directory removes the files that a crash left.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::error::DatasetError;
use crate::schema::manifest::{MANIFEST_FILE, Manifest, ShardEntry, shard_file_name};
use crate::schema::trajectory::{ShardDigest, Trajectory, TrajectoryMetadata, join_shards, write_shard};

const PART: &str = "part-";
const JOINED: &str = "shard-";
const FINAL: &str = "trajectories-";

/// Counts of prompts without a row, and counts over the responses; saved with every change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Prompts skipped, by rule.
    pub skipped_by: BTreeMap<String, usize>,
    /// Prompts that could not be read or answered.
    pub failed: usize,
    /// Counts over the responses, by name.
    pub counts: BTreeMap<String, usize>,
}

/// Writes rows into a directory of shards.
#[derive(Debug)]
pub struct ShardWriter {
    dir: PathBuf,
    metadata: TrajectoryMetadata,
    manifest: Manifest,
    /// Parts are joined to a shard when they have at least this size together.
    shard_bytes: u64,
}

impl ShardWriter {
    /// Resumes the directory from its manifest, or starts a new one. A missing shard is removed from the manifest,
    /// so that its rows are made again.
    ///
    /// # Errors
    /// `Digest` for a changed shard, `StrayShards` for shards without a manifest, `Io`.
    ///
    /// # Panics
    /// When `dir` holds rows under other settings than those of `manifest`: the caller checks that first.
    pub fn open(
        dir: &Path,
        metadata: TrajectoryMetadata,
        manifest: Manifest,
        shard_bytes: u64,
    ) -> Result<Self, DatasetError> {
        fs_err::create_dir_all(dir).map_err(DatasetError::io("make", dir))?;
        let manifest = match Manifest::load(dir)? {
            None => match shard_files(dir)?.into_iter().find(|name| name.ends_with(".parquet")) {
                Some(file) => return Err(DatasetError::StrayShards { dir: dir.to_path_buf(), file }),
                None => manifest,
            },
            Some(found) => {
                assert!(manifest.settings.differences(&found.settings).is_empty() || found.shards.is_empty());
                Manifest { shards: found.shards, counts: found.counts, ..manifest }
            }
        };
        let mut writer = Self { dir: dir.to_path_buf(), metadata, manifest, shard_bytes };
        writer.manifest.shards.retain(|shard| dir.join(&shard.file).is_file());
        writer.manifest.verify(dir)?;
        writer.manifest.written = writer.manifest.shards.iter().map(|shard| shard.rows).sum();
        writer.save()?;
        writer.remove_strays()?;
        Ok(writer)
    }

    /// Replaces the shards of `dir` by those at `sources`, which are the shards of `manifest` in order.
    ///
    /// # Errors
    /// `Io`, `DiskFull`, or those of [`Manifest::load`].
    pub fn adopt(
        dir: &Path,
        metadata: TrajectoryMetadata,
        manifest: Manifest,
        sources: &[PathBuf],
    ) -> Result<Manifest, DatasetError> {
        let mut writer = Self { dir: dir.to_path_buf(), metadata, manifest, shard_bytes: u64::MAX };
        let former = Manifest::load(dir)?.map_or_else(Vec::new, |manifest| manifest.shards);
        let taken: Vec<&str> = former.iter().map(|shard| shard.file.as_str()).collect();
        let mut number = 0;
        for (shard, source) in writer.manifest.shards.iter_mut().zip(sources) {
            // A name that the current manifest of the directory does not use.
            while taken.contains(&numbered(JOINED, number).as_str()) {
                number += 1;
            }
            shard.file = numbered(JOINED, number);
            number += 1;
            let target = dir.join(&shard.file);
            link(source, &target).map_err(DatasetError::io("write", &target))?;
        }
        writer.save()?;
        writer.remove_strays()?;
        writer.name_shards()?;
        Ok(writer.manifest)
    }

    /// Removes everything that an earlier run wrote into `dir`, and nothing else.
    ///
    /// # Errors
    /// `Io`.
    pub fn discard(dir: &Path) -> Result<(), DatasetError> {
        let manifest = dir.join(MANIFEST_FILE);
        // The manifest first: without it, remaining shards are not mistaken for a complete directory.
        for path in std::iter::once(manifest).chain(shard_files(dir)?.into_iter().map(|name| dir.join(name)))
        {
            match fs_err::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(DatasetError::io("remove", path)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The manifest as it is on disk.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Sets the number of prompts so far, if the total is known only at the end.
    pub fn set_input(&mut self, input: usize) {
        self.manifest.input = input;
    }

    /// Writes a row group; once this returns, it is durable.
    ///
    /// # Errors
    /// `Io` or `DiskFull`: then this row group is not written; earlier ones are kept.
    pub fn append(&mut self, rows: &[Trajectory], tally: &Tally) -> Result<(), DatasetError> {
        let file = numbered(PART, self.unused_number());
        let digest = write_shard(&self.dir.join(&file), &self.metadata, rows)?;
        self.manifest.shards.push(entry(file, digest));
        self.set_tally(tally);
        self.save()?;
        let bytes: u64 = self.parts().map(|part| part.bytes).sum();
        if bytes >= self.shard_bytes { self.join_parts() } else { Ok(()) }
    }

    /// Saves the counts without writing rows.
    ///
    /// # Errors
    /// `Io` or `DiskFull`.
    pub fn save_tally(&mut self, tally: &Tally) -> Result<(), DatasetError> {
        self.set_tally(tally);
        self.save()
    }

    /// Joins the last parts and gives all shards their final names. A complete directory without new rows
    /// does not change.
    ///
    /// # Errors
    /// `BadManifest` if the counts of prompts do not add up, `Io` or `DiskFull`.
    pub fn finish(&mut self, tally: &Tally) -> Result<(), DatasetError> {
        self.set_tally(tally);
        if self.parts().next().is_some() {
            self.join_parts()?;
        }
        self.manifest.complete = true;
        self.manifest.check(&self.dir).inspect_err(|_| self.manifest.complete = false)?;
        self.name_shards()
    }

    /// Gives all shards their final names, over temporary ones if a final name is in use.
    fn name_shards(&mut self) -> Result<(), DatasetError> {
        let total = self.manifest.shards.len();
        let names: Vec<String> = (0..total).map(|index| shard_file_name(index, total)).collect();
        let current: Vec<&String> = self.manifest.shards.iter().map(|shard| &shard.file).collect();
        let is_taken = |(index, name): (usize, &String)| {
            current.iter().position(|file| *file == name).is_some_and(|at| at != index)
        };
        if names.iter().enumerate().any(is_taken) {
            let first = self.unused_number();
            self.rename((0..total).map(|index| numbered(JOINED, first + index)).collect())?;
        }
        self.rename(names)
    }

    fn set_tally(&mut self, tally: &Tally) {
        let manifest = &mut self.manifest;
        manifest.written = manifest.shards.iter().map(|shard| shard.rows).sum();
        manifest.skipped = tally.skipped_by.values().sum();
        manifest.skipped_by.clone_from(&tally.skipped_by);
        manifest.failed = tally.failed;
        manifest.counts.clone_from(&tally.counts);
    }

    fn parts(&self) -> impl Iterator<Item = &ShardEntry> {
        self.manifest.shards.iter().filter(|shard| shard.file.starts_with(PART))
    }

    fn join_parts(&mut self) -> Result<(), DatasetError> {
        let file = numbered(JOINED, self.unused_number());
        let parts: Vec<PathBuf> = self.parts().map(|part| self.dir.join(&part.file)).collect();
        let digest = join_shards(&self.dir.join(&file), &self.metadata, &parts)?;
        self.manifest.shards.retain(|shard| !shard.file.starts_with(PART));
        self.manifest.shards.push(entry(file, digest));
        self.save()?;
        self.remove_strays()
    }

    /// Renames the shards to `names`, none of which is the present name of another shard.
    fn rename(&mut self, names: Vec<String>) -> Result<(), DatasetError> {
        for (shard, name) in self.manifest.shards.iter_mut().zip(names) {
            if shard.file != name {
                let (from, to) = (self.dir.join(&shard.file), self.dir.join(&name));
                link(&from, &to).map_err(DatasetError::io("write", &to))?;
                shard.file = name;
            }
        }
        self.save()?;
        self.remove_strays()
    }

    fn save(&self) -> Result<(), DatasetError> {
        self.manifest.save(&self.dir)
    }

    /// Removes shards that the manifest does not list.
    fn remove_strays(&self) -> Result<(), DatasetError> {
        let known: BTreeSet<&str> = self.manifest.shards.iter().map(|shard| shard.file.as_str()).collect();
        for name in shard_files(&self.dir)?.into_iter().filter(|name| !known.contains(name.as_str())) {
            let path = self.dir.join(&name);
            fs_err::remove_file(&path).map_err(DatasetError::io("remove", &path))?;
        }
        Ok(())
    }

    /// The smallest number above all numbers in use.
    fn unused_number(&self) -> usize {
        let number = |shard: &ShardEntry| {
            let name = shard.file.strip_suffix(".parquet")?;
            name.strip_prefix(PART).or(name.strip_prefix(JOINED))?.parse::<usize>().ok()
        };
        self.manifest.shards.iter().filter_map(number).max().map_or(0, |number| number + 1)
    }
}

fn numbered(kind: &str, number: usize) -> String {
    format!("{kind}{number:05}.parquet")
}

fn entry(file: String, digest: ShardDigest) -> ShardEntry {
    ShardEntry { file, rows: digest.rows, bytes: digest.bytes, blake3: digest.blake3 }
}

/// Whether this is a name that [`ShardWriter`] gives. Other programs write parts too
/// (`part-00000-UUID.snappy.parquet`).
fn is_shard(name: &str) -> bool {
    let Some(stem) = name.strip_suffix(".parquet") else { return false };
    let number = |text: &str| text.len() >= 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    match stem.strip_prefix(FINAL) {
        Some(numbers) => numbers.split_once("-of-").is_some_and(|(index, of)| number(index) && number(of)),
        None => [PART, JOINED].iter().any(|kind| stem.strip_prefix(kind).is_some_and(number)),
    }
}

/// Gives the file `from` the second name `to`; copies it if the file system has no hard links.
pub(crate) fn link(from: &Path, to: &Path) -> std::io::Result<()> {
    match fs_err::remove_file(to) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    if fs_err::hard_link(from, to).is_err() {
        fs_err::copy(from, to)?;
        fs_err::File::open(to)?.sync_all()?;
    }
    Ok(())
}

/// Files in `dir` with names that [`ShardWriter`] gives: shards, parts, and temporary files of a crashed process.
fn shard_files(dir: &Path) -> Result<Vec<String>, DatasetError> {
    let ours = |name: &String| match name.strip_prefix('.').and_then(|name| name.strip_suffix(".tmp")) {
        // `.NAME.RANDOM.tmp`
        Some(temporary) => {
            temporary.rsplit_once('.').is_some_and(|(name, _)| is_shard(name) || name == MANIFEST_FILE)
        }
        None => is_shard(name),
    };
    if !dir.is_dir() {
        return Ok(Vec::new());
    }
    let entries = fs_err::read_dir(dir).map_err(DatasetError::io("read", dir))?;
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    Ok(names.filter(ours).collect())
}

#[cfg(test)]
mod tests;
