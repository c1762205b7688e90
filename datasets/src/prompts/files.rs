//! The files of a configured path, and how each is opened.

use std::path::{Path, PathBuf};

use super::bytes::{self, Content};
use super::row::{Names, Rows, Wanted};
use super::{PromptFormat, PromptsConfig, csv_rows, json_rows, parquet_rows};
use crate::error::DatasetError;
use crate::hub::{Hub, HubRepo, dataset_file};

/// Ends of names of compressed files.
const COMPRESSED: &[&str] = &[".gz", ".gzip", ".zst", ".zstd"];

/// A file of prompts, local or on the hub.
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

    /// The local path; downloads a file of the hub.
    pub(super) fn locate(self, hub: &Hub) -> Result<PathBuf, DatasetError> {
        match self {
            Self::Local(path) => Ok(path),
            Self::Hub(repo, file) => hub.fetch(&repo, &file),
        }
    }
}

/// The files of `config.path`, in reading order; at least one.
pub(super) fn find(config: &PromptsConfig, hub: &Hub) -> Result<Vec<Source>, DatasetError> {
    let path = &config.path;
    let sources: Vec<Source> = if let Some((repo, file)) = dataset_file(path)? {
        if !file.contains('*') {
            return Ok(vec![Source::Hub(repo, file)]);
        }
        let names = hub.list(&repo)?.into_iter().filter(|name| fits(&file, name));
        names.map(|name| Source::Hub(repo.clone(), name)).collect()
    } else if path.is_file() {
        return Ok(vec![Source::Local(path.clone())]);
    } else if path.is_dir() {
        return Err(is_directory(path));
    } else {
        matching(path)?.into_iter().map(Source::Local).collect()
    };
    if sources.is_empty() {
        let remedy = "set prompts.path (relative paths start at the working directory)";
        return Err(DatasetError::Missing { path: path.clone(), remedy });
    }
    Ok(sources)
}

/// The rows of one file, with the `wanted` columns alone, or with all for `None`.
pub(super) fn open(
    path: &Path,
    configured: PromptFormat,
    wanted: Option<&[Wanted]>,
) -> Result<Rows, DatasetError> {
    let text = match bytes::open(path)? {
        Content::Parquet(file) => return parquet_rows::open(path, file, wanted),
        Content::Text(text) => text,
    };
    let names = Names::of(wanted);
    match format(configured, path)? {
        PromptFormat::Parquet => parquet_rows::open_other(path, text),
        PromptFormat::Csv => csv_rows::open(path, text, b',', names),
        PromptFormat::Tsv => csv_rows::open(path, text, b'\t', names),
        PromptFormat::Json | PromptFormat::Jsonl | PromptFormat::Auto => {
            Ok(json_rows::open(path, text, names))
        }
    }
}

/// The format of a text file.
fn format(configured: PromptFormat, path: &Path) -> Result<PromptFormat, DatasetError> {
    if configured != PromptFormat::Auto {
        return Ok(configured);
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let inner = COMPRESSED.iter().find_map(|end| name.strip_suffix(end)).unwrap_or(&name);
    match inner.rsplit_once('.') {
        Some((_, "jsonl" | "ndjson")) => Ok(PromptFormat::Jsonl),
        Some((_, "json")) => Ok(PromptFormat::Json),
        Some((_, "csv")) => Ok(PromptFormat::Csv),
        Some((_, "tsv")) => Ok(PromptFormat::Tsv),
        Some((_, "parquet")) => Ok(PromptFormat::Parquet),
        _ => Err(DatasetError::Prompts(format!(
            "cannot tell the format of {} from its name: set prompts.format to jsonl, json, csv, tsv or parquet",
            path.display()
        ))),
    }
}

/// Whether `name` matches `pattern`, in which one `*` stands for any text.
pub(super) fn fits(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, end)) => {
            name.len() >= start.len() + end.len() && name.starts_with(start) && name.ends_with(end)
        }
    }
}

/// The files that match a path with a `*` in its file name, sorted by name; none for a path without.
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

/// Names up to five files of the directory that could hold prompts.
fn is_directory(dir: &Path) -> DatasetError {
    let mut names = list(dir).unwrap_or_default();
    names.retain(|name| format(PromptFormat::Auto, Path::new(name)).is_ok());
    names.truncate(5);
    let examples =
        if names.is_empty() { String::new() } else { format!(", for instance {}", names.join(" or ")) };
    DatasetError::Prompts(format!(
        "prompts.path {} is a directory: name a file in it{examples}",
        dir.display()
    ))
}

fn list(dir: &Path) -> Result<Vec<String>, DatasetError> {
    let entries = fs_err::read_dir(dir).map_err(DatasetError::io("read", dir))?;
    let mut names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    Ok(names)
}
