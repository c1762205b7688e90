//! Merges the directories of all ranks into one, after checking that they are one complete job.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};

use jacobi_datasets::schema::trajectory::read_prompts_of_shard;
use jacobi_datasets::{Manifest, Rank, ShardWriter, TrajectoryMetadata, write_atomic};

use crate::GenerateError;
use crate::ledger::ERRORS_FILE;
use crate::prompts::key_of;

/// One rank's directory.
struct Part {
    dir: PathBuf,
    manifest: Manifest,
}

/// Merges the ranks' directories in `output` into `output` itself, with hard links to their shards, or copies
/// if the file system has no hard links. Can be called again after the ranks have made more rows.
///
/// # Errors
/// [`GenerateError::Merge`] if a rank is missing or incomplete, has other settings, or has a row of another
/// rank; [`GenerateError::NothingWritten`] if no rank has a row; `Digest` for a shard that has changed.
pub fn merge(output: &Path) -> Result<Manifest, GenerateError> {
    let fail = |reason: String| GenerateError::Merge { dir: output.to_path_buf(), reason };
    if let Some(there) = Manifest::load(output)?
        && there.merged_ranks.is_none()
        && !there.shards.is_empty()
    {
        let reason =
            "it holds shards that no rank made: if an earlier merge made them, remove its manifest.json";
        return Err(fail(reason.to_owned()));
    }
    let parts = parts(output, &fail)?;
    if parts.iter().all(|part| part.manifest.written == 0) {
        let input = parts.iter().map(|part| part.manifest.input).sum();
        let with_prompts = parts.iter().find(|part| part.manifest.input > 0).unwrap_or(&parts[0]);
        return Err(GenerateError::NothingWritten { input, errors: with_prompts.dir.join(ERRORS_FILE) });
    }
    let metadata = check_rows(&parts, &fail)?;
    let first = &parts[0].manifest;
    let mut joined = Manifest {
        merged_ranks: Some(parts.len()),
        complete: true,
        ..Manifest::new(first.settings.clone(), 0)
    };
    let mut sources = Vec::new();
    let mut errors = Vec::new();
    for Part { dir, manifest } in &parts {
        joined.input += manifest.input;
        joined.written += manifest.written;
        joined.skipped += manifest.skipped;
        joined.failed += manifest.failed;
        add(&mut joined.skipped_by, &manifest.skipped_by);
        add(&mut joined.counts, &manifest.counts);
        for shard in &manifest.shards {
            sources.push(dir.join(&shard.file));
            joined.shards.push(shard.clone());
        }
        errors.extend(fs_err::read(dir.join(ERRORS_FILE))?);
    }
    write_atomic(&output.join(ERRORS_FILE), |out| out.write_all(&errors))?;
    Ok(ShardWriter::adopt(output, metadata, joined, &sources)?)
}

/// How many ranks began to generate into `output`: the number of directories that [`merge`] expects, 1 if one process without
/// a rank wrote rows there, `None` if there are none.
///
/// # Errors
/// [`GenerateError::Merge`] for directories of several numbers of ranks; a manifest that cannot be read.
pub fn ranks_in(output: &Path) -> Result<Option<usize>, GenerateError> {
    let fail = |reason: String| GenerateError::Merge { dir: output.to_path_buf(), reason };
    match world_sizes(output).as_slice() {
        [] => {
            let rows = Manifest::load(output)?.filter(|manifest| !manifest.shards.is_empty());
            Ok(rows.map(|_| 1))
        }
        sizes => world_size(sizes).map(Some).map_err(fail),
    }
}

fn add(into: &mut BTreeMap<String, usize>, from: &BTreeMap<String, usize>) {
    for (name, count) in from {
        *into.entry(name.clone()).or_default() += count;
    }
}

/// The directories of all ranks, each complete and all of one job.
fn parts(output: &Path, fail: &dyn Fn(String) -> GenerateError) -> Result<Vec<Part>, GenerateError> {
    let world_size = world_size(&world_sizes(output)).map_err(fail)?;
    let mut parts = Vec::new();
    for rank in 0..world_size {
        let dir = Rank { rank, world_size }.directory(output);
        let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let manifest =
            Manifest::load(&dir)?.ok_or_else(|| fail(format!("{name} is missing: run that rank")))?;
        if !manifest.complete {
            return Err(fail(format!("{name} is not complete: run that rank again")));
        }
        parts.push(Part { dir, manifest });
    }
    let first: &Manifest = &parts[0].manifest;
    for Part { dir, manifest } in &parts {
        let name = dir.file_name().unwrap_or_default().to_string_lossy();
        let changes = manifest.settings.differences(&first.settings);
        if !changes.is_empty() {
            return Err(fail(format!("{name} has other settings than rank 0:{changes}")));
        }
    }
    let total = |part: &Part| part.manifest.rank.map_or(0, |rank| rank.total_input);
    let input: usize = parts.iter().map(|part| part.manifest.input).sum();
    match parts.iter().find(|part| total(part) != input) {
        Some(part) => Err(fail(format!(
            "the ranks read {input} prompts together, but {} saw {} in the file: they read different files",
            part.dir.display(),
            total(part)
        ))),
        None => Ok(parts),
    }
}

/// The directories of ranks in `output`.
pub fn rank_directories(output: &Path) -> Vec<PathBuf> {
    let entries = fs_err::read_dir(output).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    paths.filter(|path| world_size_in(path).is_some()).collect()
}

/// The number of ranks in the name of a rank's directory.
fn world_size_in(path: &Path) -> Option<usize> {
    path.file_name()?.to_str()?.strip_prefix("rank-")?.split_once("-of-")?.1.parse().ok()
}

/// The numbers of ranks in the names of the ranks' directories.
fn world_sizes(output: &Path) -> Vec<usize> {
    let directories = rank_directories(output);
    let sizes: BTreeSet<usize> = directories.iter().filter_map(|path| world_size_in(path)).collect();
    sizes.into_iter().collect()
}

fn world_size(sizes: &[usize]) -> Result<usize, String> {
    match sizes {
        [size] if *size > 0 => Ok(*size),
        [] => Err("there are no directories rank-00000-of-.. in it".to_owned()),
        _ => Err("it has ranks of several world sizes: remove those that do not belong".to_owned()),
    }
}

/// Checks that every digest is right, all shards come from one run, and no two ranks have the same row.
fn check_rows(
    parts: &[Part],
    fail: &dyn Fn(String) -> GenerateError,
) -> Result<TrajectoryMetadata, GenerateError> {
    let mut metadata: Option<TrajectoryMetadata> = None;
    let mut seen: HashSet<u128> = HashSet::new();
    for Part { dir, manifest } in parts {
        manifest.verify(dir)?;
        let mut own = HashSet::new();
        for shard in &manifest.shards {
            let path = dir.join(&shard.file);
            let (found, prompts) = read_prompts_of_shard(&path)?;
            let expected = metadata.get_or_insert_with(|| found.clone());
            if !expected.agrees_with(&found) {
                return Err(fail(format!(
                    "{} was made with another model or other settings",
                    path.display()
                )));
            }
            for (sample_id, prompt) in prompts {
                let key = key_of(&sample_id, &prompt);
                if seen.contains(&key) {
                    return Err(fail(format!("sample {sample_id} is in two ranks, in {}", path.display())));
                }
                own.insert(key);
            }
        }
        seen.extend(own);
    }
    metadata.ok_or_else(|| fail("no rank has a shard".to_owned()))
}
