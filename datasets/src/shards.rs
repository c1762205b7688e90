//! A directory of shards as it grows, durable row group by row group.
//!
//! A row group is written as a small shard of its own, `part-00012.parquet`, and named in the manifest: from then on no
//! death of the process loses it. Once the parts hold enough bytes they are joined to a shard, and in the end shards are
//! given their names with the count. Every such step makes the new files first, then replaces the manifest, then
//! removes the files it no longer names; whoever opens the directory next removes what a death left over.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::error::DatasetError;
use crate::schema::manifest::{MANIFEST_FILE, Manifest, ShardEntry, shard_file_name};
use crate::schema::trajectory::{
    ShardDigest, Trajectory, TrajectoryMetadata, join_shards, read_prompts_of_shard, write_shard,
};

const PART: &str = "part-";
const UNNAMED: &str = "shard-";
const NAMED: &str = "trajectories-";

/// What became of the prompts that gave no row, and what was counted over the answers: saved with every change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Prompts left out, by rule.
    pub skipped_by: BTreeMap<String, usize>,
    /// Prompts that could not be read or answered.
    pub failed: usize,
    /// Over the answers, by name.
    pub counts: BTreeMap<String, usize>,
}

/// Writes rows into a directory.
#[derive(Debug)]
pub struct ShardWriter {
    dir: PathBuf,
    metadata: TrajectoryMetadata,
    manifest: Manifest,
    /// A shard is closed when it has at least this size.
    shard_bytes: u64,
}

impl ShardWriter {
    /// Takes the directory up again as its manifest says, or starts it. A shard that is no longer there is forgotten, so
    /// that its rows are made again.
    ///
    /// # Errors
    /// `Digest` for a shard that has changed, `StrayShards` for shards without manifest, `Io`.
    ///
    /// # Panics
    /// When `dir` holds rows under other settings than those of `manifest`: the caller decides what that means.
    pub fn open(
        dir: &Path,
        metadata: TrajectoryMetadata,
        manifest: Manifest,
        shard_bytes: u64,
    ) -> Result<Self, DatasetError> {
        fs_err::create_dir_all(dir).map_err(DatasetError::io("make", dir))?;
        let manifest = match Manifest::load(dir)? {
            None => match our_files(dir)?.into_iter().find(|name| name.ends_with(".parquet")) {
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

    /// Makes the shards at `sources`, those of `manifest` in order, this directory's own, and its former ones forgotten.
    ///
    /// # Errors
    /// `BadManifest`, `Io` or `DiskFull`.
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
            // A name that the directory's manifest does not mean yet.
            while taken.contains(&format!("{UNNAMED}{number:05}.parquet").as_str()) {
                number += 1;
            }
            shard.file = format!("{UNNAMED}{number:05}.parquet");
            number += 1;
            let target = dir.join(&shard.file);
            link(source, &target).map_err(DatasetError::io("write", &target))?;
        }
        writer.save()?;
        writer.remove_strays()?;
        writer.name_shards()?;
        Ok(writer.manifest)
    }

    /// Removes whatever an earlier run wrote into `dir`, and nothing else.
    ///
    /// # Errors
    /// `Io`.
    pub fn discard(dir: &Path) -> Result<(), DatasetError> {
        let manifest = dir.join(MANIFEST_FILE);
        // First: without it, no one takes what is left for a whole.
        for path in std::iter::once(manifest).chain(our_files(dir)?.into_iter().map(|name| dir.join(name))) {
            match fs_err::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(DatasetError::io("remove", path)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The books as they are on disk.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// How many prompts there are so far, where their number is known only in the end.
    pub fn set_input(&mut self, input: usize) {
        self.manifest.input = input;
    }

    /// Sample id and prompt of every row written so far.
    ///
    /// # Errors
    /// `Parquet`, `BadShardRow`, `Io`.
    pub fn prompts(&self, mut each: impl FnMut(String, Vec<u32>)) -> Result<(), DatasetError> {
        for shard in &self.manifest.shards {
            for (sample_id, prompt) in read_prompts_of_shard(&self.dir.join(&shard.file))? {
                each(sample_id, prompt);
            }
        }
        Ok(())
    }

    /// Writes a row group; when this returns, no death of the process can lose it.
    ///
    /// # Errors
    /// `Io` or `DiskFull`: the row group is then not written, all earlier ones are.
    pub fn append(&mut self, rows: &[Trajectory], tally: &Tally) -> Result<(), DatasetError> {
        let file = self.fresh_name(PART);
        let digest = write_shard(&self.dir.join(&file), &self.metadata, rows)?;
        self.manifest.shards.push(entry(file, digest));
        self.set_tally(tally);
        self.save()?;
        let open: u64 = self.parts().map(|part| part.bytes).sum();
        if open >= self.shard_bytes { self.join_parts() } else { Ok(()) }
    }

    /// Notes how things stand without writing rows.
    ///
    /// # Errors
    /// `Io` or `DiskFull`.
    pub fn note(&mut self, tally: &Tally) -> Result<(), DatasetError> {
        self.set_tally(tally);
        self.save()
    }

    /// Closes the last shard and gives all of them their names. A directory that was complete and has got no new row
    /// stays as it is.
    ///
    /// # Errors
    /// `BadManifest` when the prompts do not add up, `Io` or `DiskFull`.
    pub fn finish(&mut self, tally: &Tally) -> Result<(), DatasetError> {
        self.set_tally(tally);
        if self.parts().next().is_some() {
            self.join_parts()?;
        }
        self.manifest.complete = true;
        self.manifest.check(&self.dir).inspect_err(|_| self.manifest.complete = false)?;
        self.name_shards()
    }

    /// Gives all shards their names with the count.
    fn name_shards(&mut self) -> Result<(), DatasetError> {
        let total = self.manifest.shards.len();
        let names: Vec<String> = (0..total).map(|index| shard_file_name(index, total)).collect();
        let current: Vec<&String> = self.manifest.shards.iter().map(|shard| &shard.file).collect();
        let taken =
            |(index, name): (usize, &String)| current.iter().position(|file| *file == name) != Some(index);
        let collides = names.iter().enumerate().any(|at| current.contains(&at.1) && taken(at));
        if collides {
            let first = self.fresh_number();
            self.rename((0..total).map(|index| format!("{UNNAMED}{:05}.parquet", first + index)).collect())?;
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
        let file = self.fresh_name(UNNAMED);
        let parts: Vec<PathBuf> = self.parts().map(|part| self.dir.join(&part.file)).collect();
        let digest = join_shards(&self.dir.join(&file), &self.metadata, &parts)?;
        self.manifest.shards.retain(|shard| !shard.file.starts_with(PART));
        self.manifest.shards.push(entry(file, digest));
        self.save()?;
        self.remove_strays()
    }

    /// Gives the shards `names`, of which none is another shard's name now.
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

    /// Removes shards that the manifest does not name.
    fn remove_strays(&self) -> Result<(), DatasetError> {
        let known: BTreeSet<&str> = self.manifest.shards.iter().map(|shard| shard.file.as_str()).collect();
        for name in our_files(&self.dir)?.into_iter().filter(|name| !known.contains(name.as_str())) {
            let path = self.dir.join(&name);
            fs_err::remove_file(&path).map_err(DatasetError::io("remove", &path))?;
        }
        Ok(())
    }

    fn fresh_name(&self, kind: &str) -> String {
        format!("{kind}{:05}.parquet", self.fresh_number())
    }

    /// Above every number in use.
    fn fresh_number(&self) -> usize {
        let number = |shard: &ShardEntry| {
            let name = shard.file.strip_suffix(".parquet")?;
            name.strip_prefix(PART).or(name.strip_prefix(UNNAMED))?.parse::<usize>().ok()
        };
        self.manifest.shards.iter().filter_map(number).max().map_or(0, |number| number + 1)
    }
}

fn entry(file: String, digest: ShardDigest) -> ShardEntry {
    ShardEntry { file, rows: digest.rows, bytes: digest.bytes, blake3: digest.blake3 }
}

/// Whether a writer of shards gives this name. Other programs name parts too (`part-00000-UUID.snappy.parquet`).
fn is_shard(name: &str) -> bool {
    let Some(stem) = name.strip_suffix(".parquet") else { return false };
    let number = |text: &str| text.len() >= 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    match stem.strip_prefix(NAMED) {
        Some(numbers) => numbers.split_once("-of-").is_some_and(|(index, of)| number(index) && number(of)),
        None => [PART, UNNAMED].iter().any(|kind| stem.strip_prefix(kind).is_some_and(number)),
    }
}

/// A second name for a file; a copy where the file system has no links.
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

/// Names in `dir` that only a writer of shards gives: shards, parts, and temporary files of one that died.
fn our_files(dir: &Path) -> Result<Vec<String>, DatasetError> {
    let ours = |name: &String| match name.strip_prefix('.').and_then(|name| name.strip_suffix(".tmp")) {
        // `.NAME.RANDOM.tmp`
        Some(torn) => torn.rsplit_once('.').is_some_and(|(name, _)| is_shard(name) || name == MANIFEST_FILE),
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
