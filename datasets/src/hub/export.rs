//! The files of an exported model that a push uploads, and the check that none is missing.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::DatasetError;
use crate::schema::tuned::TUNED_FILE;

/// Files of every export besides the weights. A base model or a checkpoint lacks the card and [`TUNED_FILE`].
const PARTS: [&str; 4] = ["config.json", "README.md", "tokenizer.json", TUNED_FILE];
/// The same for an adapter, whose weights need their base.
const ADAPTER_PARTS: [&str; 4] = [ADAPTER, "README.md", ADAPTER_WEIGHTS, TUNED_FILE];
pub(super) const ADAPTER: &str = "adapter_config.json";
const ADAPTER_WEIGHTS: &str = "adapter_model.safetensors";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// The folder of an export with the code that decodes it in parallel in transformers.
pub const CUSTOM_GENERATE: &str = "custom_generate";

/// A file of an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportFile {
    /// Its name in the repository.
    pub name: String,
    /// Its local path.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
}

/// The files of the exported model in `dir`, by name: those at its top and in [`CUSTOM_GENERATE`] that are not hidden.
///
/// # Errors
/// `NotAnExport`, `Io`.
pub fn export_files(dir: &Path) -> Result<Vec<ExportFile>, DatasetError> {
    let mut files = files_of(dir, "")?;
    let folder = dir.join(CUSTOM_GENERATE);
    if folder.is_dir() {
        files.extend(files_of(&folder, &format!("{CUSTOM_GENERATE}/"))?);
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    let missing = missing_files(&files)?;
    match missing.is_empty() {
        true => Ok(files),
        false => Err(DatasetError::NotAnExport { path: dir.to_owned(), lacks: missing.join(", ") }),
    }
}

/// The files in `dir` that are not hidden, with `prefix` before their names.
fn files_of(dir: &Path, prefix: &str) -> Result<Vec<ExportFile>, DatasetError> {
    let mut files = Vec::new();
    for entry in fs_err::read_dir(dir).map_err(DatasetError::io("read", dir))? {
        let path = entry.map_err(DatasetError::io("read", dir))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let metadata = fs_err::metadata(&path).map_err(DatasetError::io("read", &path))?;
        if metadata.is_file() && !name.starts_with('.') {
            files.push(ExportFile { name: format!("{prefix}{name}"), bytes: metadata.len(), path });
        }
    }
    Ok(files)
}

/// The files of an export that are not among `files`.
fn missing_files(files: &[ExportFile]) -> Result<Vec<String>, DatasetError> {
    let has = |name: &str| files.iter().any(|file| file.name == name);
    if has(ADAPTER) {
        return Ok(ADAPTER_PARTS.into_iter().filter(|name| !has(name)).map(str::to_owned).collect());
    }
    let mut needed: BTreeSet<String> = PARTS.iter().map(|&name| name.to_owned()).collect();
    match files.iter().find(|file| file.name == INDEX) {
        Some(index) => needed.extend(weight_files(&index.path)?),
        None => drop(needed.insert(WEIGHTS.to_owned())),
    }
    Ok(needed.into_iter().filter(|name| !has(name)).collect())
}

/// Whether `dir` has configuration, tokenizer and all weight files.
pub(super) fn is_complete_model(dir: &Path) -> bool {
    let has = |name: &str| dir.join(name).is_file();
    let weights = match has(INDEX) {
        true => weight_files(&dir.join(INDEX)).unwrap_or_default(),
        false => vec![WEIGHTS.to_owned()],
    };
    has("config.json") && has("tokenizer.json") && !weights.is_empty() && weights.iter().all(|name| has(name))
}

/// Whether `dir` has configuration and weights of an adapter.
pub(super) fn is_complete_adapter(dir: &Path) -> bool {
    [ADAPTER, ADAPTER_WEIGHTS].iter().all(|name| dir.join(name).is_file())
}

/// Whether an adapter, at the top of a repository, is used with this file.
pub(super) fn belongs_to_adapter(file: &str) -> bool {
    [ADAPTER, ADAPTER_WEIGHTS, TUNED_FILE].contains(&file)
}

/// The files that an index of weights names.
fn weight_files(index: &Path) -> Result<Vec<String>, DatasetError> {
    let text = fs_err::read_to_string(index).map_err(DatasetError::io("read", index))?;
    let value: Value = serde_json::from_str(&text).unwrap_or_default();
    let names = value["weight_map"].as_object().map(|map| map.values().filter_map(Value::as_str));
    let names: Vec<String> = names.into_iter().flatten().map(str::to_owned).collect();
    Ok(if names.is_empty() { vec![format!("a weight_map in {INDEX}")] } else { names })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir_with(names: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for name in names {
            fs_err::write(dir.path().join(name), "{}").unwrap();
        }
        dir
    }

    #[test]
    fn an_export_goes_whole_with_custom_generate_without_what_is_hidden_or_in_other_folders() {
        let dir = dir_with(&[
            ".lock",
            "README.md",
            "config.json",
            "jacobi.json",
            "model.safetensors",
            "tokenizer.json",
        ]);
        for folder in ["notes", "custom_generate", "custom_generate/__pycache__", "trainer"] {
            fs_err::create_dir(dir.path().join(folder)).unwrap();
            fs_err::write(dir.path().join(folder).join("generate.py"), "").unwrap();
        }
        let names: Vec<String> =
            export_files(dir.path()).unwrap().into_iter().map(|file| file.name).collect();
        let generate = "custom_generate/generate.py";
        assert_eq!(
            names,
            ["README.md", "config.json", generate, "jacobi.json", "model.safetensors", "tokenizer.json"]
        );
    }

    #[test]
    fn what_is_no_export_is_refused_with_what_it_lacks() {
        let checkpoint = dir_with(&["config.json", "model.safetensors", "tokenizer.json"]);
        let message = export_files(checkpoint.path()).unwrap_err().to_string();
        assert!(message.contains("README.md, jacobi.json") && message.contains("jacobi export"), "{message}");
        let sharded = dir_with(&["README.md", "config.json", "jacobi.json", "tokenizer.json"]);
        let index = sharded.path().join(INDEX);
        fs_err::write(&index, r#"{"weight_map": {"a": "model-00001-of-00002.safetensors"}}"#).unwrap();
        let message = export_files(sharded.path()).unwrap_err().to_string();
        assert!(message.contains("lacks model-00001-of-00002.safetensors"), "{message}");
        let adapter = dir_with(&["README.md", "adapter_config.json", "jacobi.json"]);
        let message = export_files(adapter.path()).unwrap_err().to_string();
        assert!(message.contains("lacks adapter_model.safetensors"), "{message}");
        fs_err::write(adapter.path().join("adapter_model.safetensors"), "").unwrap();
        assert_eq!(export_files(adapter.path()).unwrap().len(), 4);
        fs_err::write(&index, "{").unwrap();
        assert!(export_files(sharded.path()).unwrap_err().to_string().contains("a weight_map in"));
        assert!(export_files(&sharded.path().join("nowhere")).is_err());
    }
}
