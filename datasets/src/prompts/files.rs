//! Which files a configured path stands for.

use std::path::{Path, PathBuf};

use super::{PromptFormat, PromptsConfig};
use crate::error::DatasetError;
use crate::hub::{Hub, HubRepo, dataset_file};

/// A file of prompts, here or on the hub.
pub(super) enum Source {
    Local(PathBuf),
    Hub(HubRepo, String),
}

impl Source {
    pub(super) fn name(&self) -> String {
        match self {
            Self::Local(path) => path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            Self::Hub(_, file) => file.clone(),
        }
    }

    /// Where it lies on this machine, which may mean downloading it.
    pub(super) fn locate(self, hub: &Hub) -> Result<PathBuf, DatasetError> {
        match self {
            Self::Local(path) => Ok(path),
            Self::Hub(repo, file) => hub.fetch(&repo, &file),
        }
    }
}

/// The files of `config.path`, in the order they are read; at least one.
pub(super) fn find(config: &PromptsConfig, hub: &Hub) -> Result<Vec<Source>, DatasetError> {
    let path = &config.path;
    let way_out = "set prompts.path (relative paths start at the working directory)";
    let missing = || DatasetError::Missing { path: path.clone(), way_out };
    if let Some((repo, file)) = dataset_file(path)? {
        if !file.contains('*') {
            return Ok(vec![Source::Hub(repo, file)]);
        }
        let files = hub.list(&repo)?.into_iter().filter(|name| fits(&file, name));
        let sources: Vec<Source> = files.map(|name| Source::Hub(repo.clone(), name)).collect();
        return if sources.is_empty() { Err(missing()) } else { Ok(sources) };
    }
    if path.is_file() {
        return Ok(vec![Source::Local(path.clone())]);
    }
    if path.is_dir() {
        return Err(DatasetError::PromptPathIsDirectory { path: path.clone(), found: candidates(path) });
    }
    let files = matching(path)?;
    if files.is_empty() { Err(missing()) } else { Ok(files.into_iter().map(Source::Local).collect()) }
}

/// The format of one file; `Auto` is left only for `.json`, whose first character decides.
pub(super) fn format(configured: PromptFormat, path: &Path) -> Result<PromptFormat, DatasetError> {
    if configured != PromptFormat::Auto {
        return Ok(configured);
    }
    let extension = path.extension().map(|extension| extension.to_string_lossy().to_lowercase());
    match extension.as_deref() {
        Some("jsonl" | "ndjson") => Ok(PromptFormat::Jsonl),
        Some("json") => Ok(PromptFormat::Auto),
        Some("parquet") => Ok(PromptFormat::Parquet),
        _ => Err(DatasetError::PromptFormatUnknown { path: path.to_path_buf() }),
    }
}

/// Whether `name` is `pattern` with any text in the place of its one `*`.
pub(super) fn fits(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, end)) => {
            name.len() >= start.len() + end.len() && name.starts_with(start) && name.ends_with(end)
        }
    }
}

/// The files that a path with a `*` in its file name means, by name; none for a path without.
fn matching(path: &Path) -> Result<Vec<PathBuf>, DatasetError> {
    let pattern = path.file_name().unwrap_or_default().to_string_lossy();
    let parent = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !pattern.contains('*') || !parent.is_dir() {
        return Ok(Vec::new());
    }
    let mut files: Vec<PathBuf> =
        list(parent)?.into_iter().filter(|name| fits(&pattern, name)).map(|name| parent.join(name)).collect();
    files.retain(|file| file.is_file());
    Ok(files)
}

/// What a user who named a directory may have meant: the first few files in it that could hold prompts.
fn candidates(dir: &Path) -> Vec<String> {
    let mut names = list(dir).unwrap_or_default();
    names.retain(|name| [".jsonl", ".ndjson", ".json", ".parquet"].iter().any(|end| name.ends_with(end)));
    names.truncate(5);
    names
}

fn list(dir: &Path) -> Result<Vec<String>, DatasetError> {
    let entries = fs_err::read_dir(dir).map_err(DatasetError::io("read", dir))?;
    let mut names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    Ok(names)
}
