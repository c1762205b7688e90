//! Files of the Hugging Face hub, kept in the cache that its Python tools use too: `HF_HOME` (or `HF_HUB_CACHE`) says
//! where, `HF_TOKEN` who is asking, `HF_ENDPOINT` whom, `HF_HUB_OFFLINE` that nobody is asked.
//!
//! A file in the cache is taken as it is: to follow a branch that has moved, name its commit or clear the cache.

use std::path::{Path, PathBuf};

use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};

use crate::error::DatasetError;

mod export;
mod push;

pub use export::{CUSTOM_GENERATE, ExportFile, export_files};
pub use push::PushOptions;

const SCHEME: &str = "hf://";
const CONFIG: &str = "config.json";
const DATASET_FORM: &str = "hf://datasets/ORG/NAME[@REVISION]/FILE";

/// How the hub is reached.
#[derive(Clone, Debug)]
pub struct Hub {
    /// Its address.
    pub endpoint: String,
    /// Where files are kept.
    pub cache: PathBuf,
    /// Who is asking.
    pub token: Option<String>,
    /// Only the cache is looked into.
    pub offline: bool,
}

impl Hub {
    /// As the environment says.
    pub fn from_environment() -> Self {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let cache = variable("HF_HUB_CACHE").map_or_else(|| Cache::from_env().path().clone(), PathBuf::from);
        let truth = |value: String| ["1", "ON", "YES", "TRUE"].contains(&value.to_uppercase().as_str());
        Self {
            endpoint: variable("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned()),
            token: variable("HF_TOKEN").or_else(|| Cache::new(cache.clone()).token()),
            cache,
            offline: variable("HF_HUB_OFFLINE").is_some_and(truth),
        }
    }

    /// The local path of a file, downloaded if it is not in the cache.
    ///
    /// # Errors
    /// `Hub`, `HubOffline`.
    pub fn fetch(&self, source: &HubRepo, file: &str) -> Result<PathBuf, DatasetError> {
        if let Some(path) = Cache::new(self.cache.clone()).repo(source.repo()).get(file) {
            return Ok(path);
        }
        if self.offline {
            let (repo, revision) = (source.name.clone(), source.revision.clone());
            let cache = self.cache.clone();
            return Err(DatasetError::HubOffline { file: file.to_owned(), repo, revision, cache });
        }
        let api = self.api(source).map_err(|error| self.failed(source, file, error))?;
        api.download(file).map_err(|error| self.failed(source, file, error))
    }

    /// The files of a repository; offline, those of it in the cache.
    ///
    /// # Errors
    /// `Hub`, `Io`.
    pub fn list(&self, source: &HubRepo) -> Result<Vec<String>, DatasetError> {
        if self.offline {
            return self.list_cache(source);
        }
        let info = self.api(source).and_then(|api| api.info());
        let info = info.map_err(|error| self.failed(source, "the list of files", error))?;
        let mut files: Vec<String> = info.siblings.into_iter().map(|sibling| sibling.rfilename).collect();
        files.sort();
        Ok(files)
    }

    fn list_cache(&self, source: &HubRepo) -> Result<Vec<String>, DatasetError> {
        let repo = Repo::with_revision(source.name.clone(), source.kind, source.revision.clone());
        let folder = self.cache.join(repo.folder_name());
        let commit = fs_err::read_to_string(folder.join("refs").join(&source.revision)).unwrap_or_default();
        let root = folder.join("snapshots").join(commit.trim());
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

    /// Where a token lies that `HF_TOKEN` does not give.
    fn token_file(&self) -> PathBuf {
        Cache::new(self.cache.clone()).token_path()
    }

    fn api(&self, source: &HubRepo) -> Result<ApiRepo, ApiError> {
        // Its bar is shown on a terminal only: gigabytes without a sign of life would be worse than a second drawer.
        let api = ApiBuilder::from_cache(Cache::new(self.cache.clone()))
            .with_endpoint(self.endpoint.trim_end_matches('/').to_owned())
            .with_token(self.token.clone())
            .with_retries(3)
            .with_progress(true)
            .build()?;
        Ok(api.repo(source.repo()))
    }

    fn failed(&self, source: &HubRepo, file: &str, error: ApiError) -> DatasetError {
        DatasetError::Hub {
            file: file.to_owned(),
            repo: source.name.clone(),
            revision: source.revision.clone(),
            endpoint: self.endpoint.clone(),
            source: Box::new(error),
        }
    }
}

/// A repository at a revision.
#[derive(Clone, Debug)]
pub struct HubRepo {
    kind: RepoType,
    name: String,
    revision: String,
}

impl HubRepo {
    /// `ORG/NAME`.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn repo(&self) -> Repo {
        Repo::with_revision(self.name.clone(), self.kind, self.revision.clone())
    }

    /// `ORG/NAME[@REVISION]` as a model to read, if it can be one: two plain names, and no directory called ORG here.
    pub fn model(path: &Path) -> Option<Self> {
        let named = Self::named(path.to_str()?)?;
        let (org, _) = named.name.split_once('/')?;
        (!Path::new(org).exists()).then_some(named)
    }

    /// `ORG/NAME[@REVISION]` as a model, whatever there is here.
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
        is_name.then_some(Self { kind: RepoType::Model, name, revision })
    }
}

/// A file of a dataset, or several: its name may hold a `*`.
///
/// `None` when `path` is none of the hub.
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
        kind: RepoType::Dataset,
        name: format!("{org}/{name}"),
        // A revision with a slash is written as the hub's own tools write it.
        revision: revision.replace("%2F", "/"),
    };
    Ok(Some((repo, file.to_owned())))
}

/// A local model directory: `path` itself, or what it names on the hub, with the files that a model needs.
///
/// # Errors
/// `Hub`, `HubOffline`.
pub fn model_dir(path: &Path) -> Result<PathBuf, DatasetError> {
    match HubRepo::model(path).filter(|_| !path.exists()) {
        None => Ok(path.to_path_buf()),
        Some(source) => fetch_model(&Hub::from_environment(), &source),
    }
}

fn fetch_model(hub: &Hub, source: &HubRepo) -> Result<PathBuf, DatasetError> {
    let dir_of = |config: PathBuf| config.parent().unwrap_or(Path::new(".")).to_path_buf();
    let cached = Cache::new(hub.cache.clone()).repo(source.repo()).get(CONFIG).map(dir_of);
    if let Some(dir) = cached.filter(|dir| export::is_whole_model(dir)) {
        return Ok(dir);
    }
    let files = hub.list(source)?;
    // The configuration last: where it is, nothing else is missing.
    if files.iter().any(|file| file == CONFIG) {
        for file in files.iter().filter(|file| belongs_to_model(file) && *file != CONFIG) {
            hub.fetch(source, file)?;
        }
    }
    hub.fetch(source, CONFIG).map(dir_of)
}

/// Weights, configuration and tokenizer, at the top of the repository.
fn belongs_to_model(file: &str) -> bool {
    let ending = |end: &str| file.ends_with(end);
    !file.contains('/')
        && (ending(".safetensors") || ending(".json") || ending(".jinja") || ending("merges.txt"))
}

#[cfg(test)]
mod tests;
