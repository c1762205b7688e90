//! What is in a path: finds out what it is and describes it as text.

use std::path::Path;

use anyhow::bail;
use jacobi_datasets::Manifest;

mod model;
mod run;
mod sample;
mod trajectories;

pub use model::write_logits;
pub use sample::SampleView;

/// Describes a shard, a trajectories directory, a model or checkpoint directory, or a run directory.
///
/// # Errors
/// A path that is none of these, or a damaged one.
pub fn describe(path: &Path, view: &SampleView) -> anyhow::Result<String> {
    if path.is_file() {
        return trajectories::describe_shard(path, view);
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
    if path.join("config.toml").is_file() || path.join("round-1").is_dir() {
        return run::describe(path);
    }
    bail!(
        "{} is no shard, no trajectories directory (manifest.json), no model (config.json) and no run (config.toml)",
        path.display()
    )
}
