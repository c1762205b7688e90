//! Files of the Hugging Face hub, through the crate hf-hub. The cache is shared with Hugging Face's Python
//! tools: `HF_HOME` (or `HF_HUB_CACHE`) is its directory, `HF_TOKEN` the access token, `HF_ENDPOINT` the hub's
//! URL. With `HF_HUB_OFFLINE` only the cache is read.
//!
//! A cached file is not checked for updates: if a branch has moved, name its commit or clear the cache.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use hf_hub::progress::{DownloadEvent, ProgressEvent, ProgressHandler, UploadEvent};
use hf_hub::repository::RepoTreeEntry;
use hf_hub::{HFClient, HFClientSync, HFError, HFRepositorySync, RepoType, RepoTypeAny};

use crate::error::DatasetError;

mod export;
mod push;

pub use export::{CUSTOM_GENERATE, ExportFile, export_files};
pub use push::PushOptions;

const SCHEME: &str = "hf://";
const CONFIG: &str = "config.json";
const DATASET_FORM: &str = "hf://datasets/ORG/NAME[@REVISION]/FILE";

/// Connection settings of the hub. No `Debug`: it would print the token.
#[derive(Clone)]
pub struct Hub {
    /// Its URL.
    pub endpoint: String,
    /// The directory of cached files.
    pub cache: PathBuf,
    /// The access token.
    pub token: Option<String>,
    /// Only the cache is read.
    pub offline: bool,
}

impl Hub {
    /// Reads the environment variables.
    pub fn from_environment() -> Self {
        let is_true = |value: String| ["1", "ON", "YES", "TRUE"].contains(&value.to_uppercase().as_str());
        let token = variable("HF_TOKEN").or_else(|| fs_err::read_to_string(token_file()).ok());
        Self {
            endpoint: variable("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned()),
            cache: variable("HF_HUB_CACHE").map_or_else(|| hf_hub::hf_home().join("hub"), PathBuf::from),
            token: token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty()),
            offline: variable("HF_HUB_OFFLINE").is_some_and(is_true),
        }
    }

    /// The local path of a file, downloaded if it is not in the cache.
    ///
    /// # Errors
    /// `Hub`, `HubOffline`, `Io`.
    pub fn fetch(&self, source: &HubRepo, file: &str) -> Result<PathBuf, DatasetError> {
        let cached = self.snapshot(source).join(file);
        if cached.is_file() {
            return Ok(cached);
        }
        if self.offline {
            let (repo, revision) = (source.name.clone(), source.revision.clone());
            let cache = self.cache.clone();
            return Err(DatasetError::HubOffline { file: file.to_owned(), repo, revision, cache });
        }
        let transfer = Transfer::new(file);
        let download = |client| {
            let repository = source.of(&client);
            let download = repository.download_file().filename(file).revision(&source.revision);
            download.progress(Arc::clone(&transfer)).send()
        };
        let path = self.client().and_then(download).map_err(|error| self.failed(source, file, error))?;
        match remove_if_wrong_size(&path, transfer.total())? {
            None => Ok(path),
            Some(found) => {
                let reason =
                    format!("received {found} bytes instead of {}; they are removed", transfer.total());
                Err(self.failed(source, file, HFError::Other(reason)))
            }
        }
    }

    /// The files of a repository; offline, those in the cache.
    ///
    /// # Errors
    /// `Hub`, `Io`.
    pub fn list(&self, source: &HubRepo) -> Result<Vec<String>, DatasetError> {
        if self.offline {
            return self.list_cache(source);
        }
        let list = |client| source.of(&client).list_tree().revision(&source.revision).recursive(true).send();
        let entries =
            self.client().and_then(list).map_err(|error| self.failed(source, "the list of files", error))?;
        let file = |entry| match entry {
            RepoTreeEntry::File { path, .. } => Some(path),
            RepoTreeEntry::Directory { .. } => None,
        };
        let mut files: Vec<String> = entries.into_iter().filter_map(file).collect();
        files.sort();
        Ok(files)
    }

    fn list_cache(&self, source: &HubRepo) -> Result<Vec<String>, DatasetError> {
        let root = self.snapshot(source);
        let mut files = Vec::new();
        let mut folders = vec![root.clone()];
        while let Some(folder) = folders.pop().filter(|folder| folder.is_dir()) {
            for entry in fs_err::read_dir(&folder).map_err(DatasetError::io("read", &folder))?.flatten() {
                let path = entry.path();
                if path.is_dir() {
                    folders.push(path);
                } else if let Ok(inner) = path.strip_prefix(&root) {
                    files.push(inner.to_string_lossy().into_owned());
                }
            }
        }
        files.sort();
        Ok(files)
    }

    /// The directory of the files of `source` in the cache; it need not exist.
    fn snapshot(&self, source: &HubRepo) -> PathBuf {
        let name = format!("{}--{}", source.kind.plural(), source.name.replace('/', "--"));
        let folder = self.cache.join(name);
        let commit = fs_err::read_to_string(folder.join("refs").join(&source.revision));
        folder.join("snapshots").join(commit.as_deref().unwrap_or(&source.revision).trim())
    }

    fn client(&self) -> Result<HFClientSync, HFError> {
        let client = HFClient::builder()
            .endpoint(&self.endpoint)
            .cache_dir(&self.cache)
            .user_agent(concat!("jacobi/", env!("CARGO_PKG_VERSION")))
            .retry_max_attempts(3);
        self.token.iter().fold(client, |client, token| client.token(token)).build_sync()
    }

    fn failed(&self, source: &HubRepo, file: &str, error: HFError) -> DatasetError {
        DatasetError::Hub {
            file: file.to_owned(),
            repo: source.name.clone(),
            revision: source.revision.clone(),
            endpoint: self.endpoint.clone(),
            source: Box::new(without_url(error)),
        }
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The file with the token, read if `HF_TOKEN` is not set.
fn token_file() -> PathBuf {
    variable("HF_TOKEN_PATH").map_or_else(|| hf_hub::hf_home().join("token"), PathBuf::from)
}

/// Removes the URL from the error: a signed download URL gives access to the file.
fn without_url(error: HFError) -> HFError {
    match error {
        HFError::Request { source, .. } => HFError::Request { source: source.without_url(), url: None },
        error => error,
    }
}

/// Removes a cached file whose size is not `expected` (0: unknown) and returns its size. hf-hub stores the body
/// of an error response as the file.
fn remove_if_wrong_size(path: &Path, expected: u64) -> Result<Option<u64>, DatasetError> {
    let found = fs_err::metadata(path).map_err(DatasetError::io("read", path))?.len();
    if expected == 0 || found == expected {
        return Ok(None);
    }
    let blob = fs_err::canonicalize(path).map_err(DatasetError::io("read", path))?;
    // The file in the cache is a link to the blob, or the blob itself where links are not supported.
    for path in BTreeSet::from([path, &blob]) {
        fs_err::remove_file(path).map_err(DatasetError::io("remove", path))?;
    }
    Ok(Some(found))
}

/// Called as a transfer proceeds, with its name, the bytes done and all bytes; at its end with 0 of 0.
pub type OnTransfer = fn(&str, u64, u64);

static ON_TRANSFER: OnceLock<OnTransfer> = OnceLock::new();

/// Sets the callback of all transfers, once per process. It is global because files are fetched deep inside readers.
pub fn on_transfer(show: OnTransfer) {
    let _ = ON_TRANSFER.set(show);
}

struct Transfer {
    name: String,
    total: AtomicU64,
}

impl Transfer {
    fn new(name: &str) -> Arc<Self> {
        Arc::new(Self { name: name.to_owned(), total: AtomicU64::new(0) })
    }

    fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    fn show(&self, done: u64, total: u64) {
        if let Some(show) = ON_TRANSFER.get() {
            show(&self.name, done, total);
        }
    }
}

impl ProgressHandler for Transfer {
    fn on_progress(&self, event: &ProgressEvent) {
        let done = match event {
            ProgressEvent::Download(DownloadEvent::Start { total_bytes, .. })
            | ProgressEvent::Upload(UploadEvent::Start { total_bytes, .. }) => {
                self.total.store(*total_bytes, Ordering::Relaxed);
                0
            }
            ProgressEvent::Download(DownloadEvent::AggregateProgress { bytes_completed, .. })
            | ProgressEvent::Upload(UploadEvent::Progress { bytes_completed, .. }) => *bytes_completed,
            ProgressEvent::Download(DownloadEvent::Progress { files }) => {
                files.iter().map(|file| file.bytes_completed).sum()
            }
            _ => return,
        };
        self.show(done, self.total());
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.show(0, 0);
    }
}

/// A repository at a revision.
#[derive(Clone, Debug)]
pub struct HubRepo {
    kind: RepoTypeAny,
    name: String,
    revision: String,
}

impl HubRepo {
    /// `ORG/NAME`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A branch, tag or commit.
    pub fn revision(&self) -> &str {
        &self.revision
    }

    fn of(&self, client: &HFClientSync) -> HFRepositorySync<RepoTypeAny> {
        let (organization, name) = hf_hub::split_id(&self.name);
        client.repository(self.kind, organization, name)
    }

    /// Parses `ORG/NAME[@REVISION]` as a model. `None` if it is not of this form or a local directory ORG exists.
    pub fn model(path: &Path) -> Option<Self> {
        let named = Self::named(path.to_str()?)?;
        let (org, _) = named.name.split_once('/')?;
        (!Path::new(org).exists()).then_some(named)
    }

    /// Parses `ORG/NAME[@REVISION]` as a model, also if a local directory ORG exists.
    pub fn named(text: &str) -> Option<Self> {
        let (name, revision) = text.split_once('@').unwrap_or((text, "main"));
        let (org, model) = name.split_once('/')?;
        let plain = |part: &str| {
            !part.is_empty()
                && !part.starts_with('.')
                && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        };
        let is_name = plain(org) && plain(model) && !revision.is_empty();
        let (name, revision) = (name.to_owned(), revision.to_owned());
        is_name.then_some(Self { kind: RepoTypeAny::Model, name, revision })
    }
}

/// Parses `hf://datasets/..` into the repository and the file, whose name may contain a `*`. `None` for a path
/// that does not start with `hf://`.
///
/// # Errors
/// `HubPath`.
pub fn dataset_file(path: &Path) -> Result<Option<(HubRepo, String)>, DatasetError> {
    let Some(rest) = path.to_str().and_then(|text| text.strip_prefix(SCHEME)) else { return Ok(None) };
    let bad = || DatasetError::HubPath { path: path.display().to_string(), form: DATASET_FORM };
    let rest = rest.strip_prefix("datasets/").ok_or_else(bad)?;
    let mut parts = rest.splitn(3, '/');
    let (Some(org), Some(name), Some(file)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(bad());
    };
    let (name, revision) = name.split_once('@').unwrap_or((name, "main"));
    if [org, name, revision, file].iter().any(|part| part.is_empty())
        || file.split('/').any(|part| part == "..")
    {
        return Err(bad());
    }
    let repo = HubRepo {
        kind: RepoTypeAny::Dataset,
        name: format!("{org}/{name}"),
        // The hub's own tools also escape a slash in a revision.
        revision: revision.replace("%2F", "/"),
    };
    Ok(Some((repo, file.to_owned())))
}

/// A local model directory: `path` itself, or the cached files of the hub's model that it names, downloaded if missing.
///
/// # Errors
/// `NotLocal` with `Hub`, `HubOffline` or `Io`.
pub fn model_dir(path: &Path) -> Result<PathBuf, DatasetError> {
    local_dir(path, fetch_model)
}

/// A local adapter directory, as [`model_dir`].
///
/// # Errors
/// `NotLocal` with `Hub`, `HubOffline` or `Io`.
pub fn adapter_dir(path: &Path) -> Result<PathBuf, DatasetError> {
    local_dir(path, fetch_adapter)
}

fn local_dir(
    path: &Path,
    fetch: fn(&Hub, &HubRepo) -> Result<PathBuf, DatasetError>,
) -> Result<PathBuf, DatasetError> {
    let Some(source) = HubRepo::model(path).filter(|_| !path.exists()) else { return Ok(path.to_path_buf()) };
    let not_local = |source| DatasetError::NotLocal { path: path.to_path_buf(), source: Box::new(source) };
    fetch(&Hub::from_environment(), &source).map_err(not_local)
}

fn fetch_model(hub: &Hub, source: &HubRepo) -> Result<PathBuf, DatasetError> {
    let cached = hub.snapshot(source);
    if export::is_complete_model(&cached) {
        return Ok(cached);
    }
    fetch_all(hub, source, CONFIG, belongs_to_model)
}

fn fetch_adapter(hub: &Hub, source: &HubRepo) -> Result<PathBuf, DatasetError> {
    let cached = hub.snapshot(source);
    if export::is_complete_adapter(&cached) {
        return Ok(cached);
    }
    fetch_all(hub, source, export::ADAPTER, export::belongs_to_adapter)
}

/// The directory of the files of `source` that belong to a model or adapter whose configuration is the file `config`.
fn fetch_all(
    hub: &Hub,
    source: &HubRepo,
    config: &str,
    belongs: fn(&str) -> bool,
) -> Result<PathBuf, DatasetError> {
    let files = hub.list(source)?;
    // The configuration last: without it an interrupted download does not look like a model.
    if files.iter().any(|file| file == config) {
        for file in files.iter().filter(|file| belongs(file) && *file != config) {
            hub.fetch(source, file)?;
        }
    }
    hub.fetch(source, config)?;
    Ok(hub.snapshot(source))
}

/// Weights, configuration and tokenizer, at the top of the repository.
fn belongs_to_model(file: &str) -> bool {
    let ending = |end: &str| file.ends_with(end);
    !file.contains('/')
        && (ending(".safetensors") || ending(".json") || ending(".jinja") || ending("merges.txt"))
}

#[cfg(test)]
mod tests;
