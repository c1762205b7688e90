//! `jacobi inspect`: finds out what kind of file or directory a path is, and describes it as text.

use std::path::{Path, PathBuf};

use anyhow::bail;
use jacobi_datasets::Manifest;
use jacobi_model::StoredAdapter;

mod model;
mod run;
mod sample;
mod statistics;
mod trajectories;

pub use model::write_logits;
pub use sample::SampleView;
pub use statistics::Schedule;

/// Describes a shard, a trajectories directory, a model, checkpoint or adapter directory, or a run directory.
///
/// # Errors
/// A path that is none of these, or a damaged one.
pub fn describe(path: &Path, view: &SampleView) -> anyhow::Result<String> {
    if path.is_file() {
        return describe_file(path, view);
    }
    if !path.is_dir() {
        bail!("{} does not exist", path.display());
    }
    if let Some(manifest) = Manifest::load(path)? {
        return trajectories::describe_directory(path, &manifest, view);
    }
    if path.join("config.json").is_file() {
        return model::describe(path);
    }
    if StoredAdapter::is_at(path) {
        return model::describe_adapter(path);
    }
    if path.join("config.toml").is_file() || path.join("round-1").is_dir() {
        return run::describe(path);
    }
    let inside: Vec<String> =
        inspectable_parts(path)?.iter().map(|inner| inner.display().to_string()).collect();
    let hint = match (inside.as_slice(), path.parent().filter(|parent| parent.join("config.toml").is_file()))
    {
        ([], Some(run)) => format!("; it belongs to the run {}", run.display()),
        ([], None) => String::new(),
        (inside, _) => format!("; look into {}", inside.join(" or ")),
    };
    bail!(
        "{} is neither trajectories (manifest.json) nor a model (config.json) nor an adapter (adapter_config.json) nor a run (config.toml){hint}",
        path.display()
    )
}

/// The subdirectories that can be inspected: trajectories, those of ranks, checkpoints.
fn inspectable_parts(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs_err::read_dir(dir)? {
        let inner = entry?.path();
        let latest = inner.join("latest");
        let is_model = |dir: &Path| dir.join("config.json").is_file() || StoredAdapter::is_at(dir);
        if inner.join("manifest.json").is_file() || is_model(&inner) {
            found.push(inner);
        } else if is_model(&latest) {
            found.push(latest);
        }
    }
    found.sort();
    Ok(found)
}

/// A shard; for other files of a run, the directory to inspect instead.
fn describe_file(path: &Path, view: &SampleView) -> anyhow::Result<String> {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    if !["json", "jsonl", "toml", "safetensors", "html", "md", "txt"].contains(&extension) {
        return trajectories::describe_shard(path, view);
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    bail!(
        "{} is a .{extension} file; `inspect` reads shards (.parquet) and directories, perhaps {}",
        path.display(),
        parent.display()
    )
}
