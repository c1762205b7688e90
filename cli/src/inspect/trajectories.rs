//! Description of shards: origin, counts, sizes, noise, convergence, and one sample.

use std::path::Path;

use jacobi_datasets::schema::trajectory::{SCHEMA_NAME, SCHEMA_VERSION};
use jacobi_datasets::{Manifest, Trajectory, TrajectoryMetadata, read_shard};

use super::sample::{SampleView, show_sample};
use super::statistics::Statistics;
use crate::plan::bytes;

pub(super) fn describe_shard(path: &Path, view: &SampleView) -> anyhow::Result<String> {
    let (metadata, rows) = read_shard(path)?;
    let size = fs_err::metadata(path)?.len();
    let mut text = format!("shard {}\n  size         {}\n", path.display(), bytes(size));
    let mut statistics = Statistics::new(&metadata, view.schedule);
    statistics.add(&rows);
    text += &(describe_metadata(&metadata) + &statistics.to_text());
    text += &show(&metadata, rows.get(view.sample), rows.len(), view)?;
    Ok(text)
}

/// Reads the shards one at a time, also those of a running generation.
pub(super) fn describe_directory(
    dir: &Path,
    manifest: &Manifest,
    view: &SampleView,
) -> anyhow::Result<String> {
    let mut text = describe_manifest(dir, manifest);
    manifest.verify(dir)?;
    let mut read: Option<(TrajectoryMetadata, Statistics)> = None;
    let (mut wanted, mut seen) = (None, 0);
    for shard in &manifest.shards {
        let (metadata, rows) = read_shard(&dir.join(&shard.file))?;
        let fresh = || (metadata.clone(), Statistics::new(&metadata, view.schedule));
        read.get_or_insert_with(fresh).1.add(&rows);
        if wanted.is_none() && view.sample < seen + rows.len() {
            wanted = rows.get(view.sample - seen).cloned();
        }
        seen += rows.len();
    }
    match read {
        Some((metadata, statistics)) => {
            text += &(describe_metadata(&metadata) + &statistics.to_text());
            text += &show(&metadata, wanted.as_ref(), seen, view)?;
        }
        None => text += "  no rows yet\n",
    }
    Ok(text)
}

fn describe_manifest(dir: &Path, manifest: &Manifest) -> String {
    let Manifest { input, written, skipped, failed, complete, shards, .. } = manifest;
    let state = if *complete { "complete" } else { "incomplete" };
    let mut text = format!(
        "trajectories {} ({state})\n  prompts      {input} = {written} written + {skipped} skipped + {failed} failed",
        dir.display()
    );
    text += if *complete { "\n" } else { " + the rest to come\n" };
    for (rule, count) in &manifest.skipped_by {
        text += &format!("    skipped    {count} by {rule}\n");
    }
    for (name, count) in &manifest.counts {
        text += &format!("    counted    {count} {name}\n");
    }
    if let Some(rank) = &manifest.rank {
        text += &format!("  rank         {} of {}\n", rank.rank, rank.world_size);
    }
    if let Some(ranks) = manifest.merged_ranks {
        text += &format!("  merged       of {ranks} ranks\n");
    }
    let size = manifest.bytes();
    let each = size / (*written).max(1) as u64;
    text + &format!("  shards       {}, {}, {} per sample\n", shards.len(), bytes(size), bytes(each))
}

/// The selected sample, below the figures; an empty shard shows none.
fn show(
    metadata: &TrajectoryMetadata,
    row: Option<&Trajectory>,
    count: usize,
    view: &SampleView,
) -> anyhow::Result<String> {
    if count == 0 {
        return Ok(String::new());
    }
    Ok("\n".to_owned() + &show_sample(metadata, row, count, view)?)
}

fn describe_metadata(metadata: &TrajectoryMetadata) -> String {
    let short = |hash: &str| hash.chars().take(16).collect::<String>();
    let mut text = format!("  schema       {SCHEMA_NAME} version {SCHEMA_VERSION}\n");
    text += &format!("  model        {} ({})\n", metadata.base_model, metadata.base_revision);
    text += &format!("  weights      {}\n", short(&metadata.weight_hash));
    text += &format!("  tokenizer    {}\n", short(&metadata.tokenizer_hash));
    text += &format!("  block_size   {}\n  seed         {}\n", metadata.block_size, metadata.seed);
    for (name, value) in &metadata.decoding {
        text += &format!("  {name:<12} {value}\n");
    }
    text + &format!("  made by      jacobi {}\n", metadata.tool_version)
}
