//! Failures to read, write or fetch data. Each message names the file and the remedy.

use std::io;
use std::path::{Path, PathBuf};

use parquet::errors::ParquetError;

/// A failure to read or write data. The underlying error, where there is one, is the `source`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatasetError {
    /// A failed operation on a file.
    #[error("cannot {action} {path}")]
    Io {
        /// The attempted action, e.g. `read`.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },

    /// No space left on the disk.
    #[error(
        "the disk is full, cannot write {path}: free some space and run the same command again; finished files are kept"
    )]
    DiskFull {
        /// The file that did not fit.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },

    /// A file that is not JSON, or not of the expected shape.
    #[error("{path} is not valid JSON, or not {expected}")]
    Json {
        /// The file.
        path: PathBuf,
        /// The expected content.
        expected: &'static str,
        /// Line, column and cause.
        source: serde_json::Error,
    },

    /// A file that the user has to provide or generate.
    #[error("{path} does not exist: {remedy}")]
    Missing {
        /// The path as configured.
        path: PathBuf,
        /// What to do.
        remedy: &'static str,
    },

    /// A prompt file, or a selection of its rows, without prompts. The text names file, setting and remedy.
    #[error("{0}")]
    Prompts(String),

    /// A configured column that is in no row.
    #[error("{}", missing_column(path, column, setting, available))]
    MissingColumn {
        /// The file.
        path: PathBuf,
        /// The configured column.
        column: String,
        /// The setting that names it.
        setting: &'static str,
        /// The existing columns.
        available: Vec<String>,
    },

    /// A setting that is not a valid Jinja template.
    #[error("{setting} is not a valid template: columns are written as {{{{ name }}}}")]
    Template {
        /// The setting.
        setting: &'static str,
        /// Line and cause.
        source: minijinja::Error,
    },

    /// A template that gives every row the same text.
    #[error(
        "{setting} names no column, so that every row would have the same text, {text:?}: it is the template itself, not a file or a column; columns are written as {{{{ name }}}}"
    )]
    ConstantTemplate {
        /// The setting.
        setting: &'static str,
        /// The template.
        text: String,
    },

    /// A row that contradicts itself or its file, or holds nothing usable.
    #[error("{path}, {place}: {reason}")]
    BadRow {
        /// The file.
        path: PathBuf,
        /// As [`Place`](crate::Place), or `row 3` of a shard, from 1.
        place: String,
        /// What is wrong with it.
        reason: String,
    },

    /// A path that starts like a path on the hub but is not of the right form.
    #[error("{path} is not of the form {form}")]
    HubPath {
        /// The path as configured.
        path: String,
        /// The required form.
        form: &'static str,
    },

    /// A file that could not be downloaded from the hub.
    #[error(
        "cannot fetch {file} of {repo} at {revision} from {endpoint}: check the name, the network (HF_ENDPOINT), and HF_TOKEN if access is restricted; HF_HUB_OFFLINE=1 uses only cached files"
    )]
    Hub {
        /// Path within the repository.
        file: String,
        /// `ORG/NAME`.
        repo: String,
        /// Branch, tag or commit.
        revision: String,
        /// The hub's URL.
        endpoint: String,
        /// The failed request.
        source: Box<dyn std::error::Error + Send + Sync>,
    },

    /// A model or adapter that is not here, and could not be fetched from the hub.
    #[error("there is no directory {path}, and the hub gave no model or adapter of that name")]
    NotLocal {
        /// The path or name given.
        path: PathBuf,
        /// Why it could not be fetched.
        source: Box<DatasetError>,
    },

    /// A file that is not in the cache while offline.
    #[error(
        "HF_HUB_OFFLINE is set and {file} of {repo} at {revision} is not in the cache {cache}: unset it once, or fill the cache elsewhere"
    )]
    HubOffline {
        /// Path within the repository.
        file: String,
        /// `ORG/NAME`.
        repo: String,
        /// Branch, tag or commit.
        revision: String,
        /// The cache.
        cache: PathBuf,
    },

    /// A directory to push that is not an export.
    #[error("{} is not an exported model: it lacks {lacks}; `jacobi export` and `jacobi run` make one from a recipe", path.display())]
    NotAnExport {
        /// The directory.
        path: PathBuf,
        /// The missing files of an export.
        lacks: String,
    },

    /// No token for a push.
    #[error("no token for the hub: set HF_TOKEN, or store a token with write access in {}", path.display())]
    HubNoToken {
        /// The file that is read if HF_TOKEN is not set.
        path: PathBuf,
    },

    /// A push while offline.
    #[error("HF_HUB_OFFLINE is set, and a push needs the hub: unset it")]
    HubPushOffline,

    /// A request of a push that failed.
    #[error("cannot {what} at {repo} on {endpoint}: {reason}")]
    HubPush {
        /// The attempted action.
        what: String,
        /// `ORG/NAME`.
        repo: String,
        /// The hub's URL.
        endpoint: String,
        /// The hub's answer, or the cause.
        reason: String,
    },

    /// A file that is not Parquet, or is truncated or damaged.
    #[error("{path} is not a readable Parquet file: it is truncated, damaged or of another format: {remedy}")]
    Parquet {
        /// The file.
        path: PathBuf,
        /// What to do about it.
        remedy: &'static str,
        /// The reader's error.
        source: ParquetError,
    },

    /// A shard or manifest of another schema or version, with other columns, or with settings that do not fit.
    #[error("{path}: {reason}: generate the trajectories again")]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What does not fit, with what was found and what was expected.
        reason: String,
    },

    /// Shards with the states of one noise schedule only, under another schedule.
    #[error(
        "{path} holds the states of one noise schedule only ({made}), but training asks for another ({asked}): train with the first, or generate again with generate.states = \"all\""
    )]
    WrongSchedule {
        /// The directory or file.
        path: PathBuf,
        /// The schedule they were made for.
        made: String,
        /// The requested schedule.
        asked: String,
    },

    /// A file that has changed since it was written.
    #[error(
        "{path} has changed since it was written (digest {found}, recorded {expected}): delete it and run `jacobi generate` again, which makes its rows again (or `jacobi import`, if it was imported)"
    )]
    Digest {
        /// The file.
        path: PathBuf,
        /// Digest recorded when it was written.
        expected: String,
        /// Digest now.
        found: String,
    },

    /// A shard that was changed or replaced while it was in use.
    #[error(
        "{path} has changed since it was checked: run the command again, and leave the shards alone while it runs"
    )]
    ChangedShard {
        /// The file.
        path: PathBuf,
    },

    /// Trajectories whose generation has not finished.
    #[error(
        "the trajectories in {dir} are not complete ({done} of {input} prompts): run `jacobi generate` again, which resumes, or `jacobi import`, which starts over"
    )]
    Incomplete {
        /// The directory.
        dir: PathBuf,
        /// Prompts done.
        done: usize,
        /// Prompts asked for.
        input: usize,
    },

    /// A manifest whose numbers contradict each other.
    #[error("{path}: {reason}: delete the directory and generate again")]
    BadManifest {
        /// The manifest.
        path: PathBuf,
        /// The contradiction.
        reason: String,
    },

    /// Shards without a manifest.
    #[error(
        "{dir} holds {file} but no manifest.json: choose another directory, or replace its shards with --overwrite"
    )]
    StrayShards {
        /// The directory.
        dir: PathBuf,
        /// One of the shards.
        file: String,
    },

    /// A complete generation without a single trajectory.
    #[error(
        "the trajectories in {dir} are empty (0 of {input} prompts gave one): see errors.jsonl in the same directory"
    )]
    NoTrajectories {
        /// The directory.
        dir: PathBuf,
        /// Prompts asked for.
        input: usize,
    },

    /// A model directory without a tokenizer, an end-of-sequence token or a chat template.
    #[error("{dir} {lack}")]
    IncompleteModel {
        /// The model directory.
        dir: PathBuf,
        /// What it lacks, and the remedy.
        lack: &'static str,
    },

    /// An end-of-sequence token in a form that is not read.
    #[error(
        "{}: eos_token_id is {found}: give the id of a token, or a list of ids, as numbers without quotes",
        path.display()
    )]
    EosToken {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        found: String,
    },

    /// A token that the model has no embedding for.
    #[error(
        "token id {id} ({token}) is beyond the embedding of {dir}, which has {rows} rows (vocab_size in config.json): leave the token out, or resize the embedding (resize_token_embeddings in transformers)"
    )]
    BeyondEmbedding {
        /// The model directory.
        dir: PathBuf,
        /// The token, as spelled in the vocabulary.
        token: String,
        /// Its id.
        id: u32,
        /// Rows of the embedding.
        rows: u64,
    },

    /// A tokenizer.json that cannot be read, or a text it cannot encode.
    #[error("the tokenizer {path} failed")]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// The error of the tokenizers library.
        source: Box<dyn std::error::Error + Send + Sync>,
    },

    /// A chat template that does not parse, or refuses these messages.
    #[error("the chat template of {place} failed{hint}")]
    ChatTemplate {
        /// The model directory, or the setting that gives the template.
        place: String,
        /// A likely cause in the messages, behind a colon, or nothing.
        hint: String,
        /// Line and cause.
        source: minijinja::Error,
    },
}

fn missing_column(path: &Path, column: &str, setting: &str, available: &[String]) -> String {
    let (path, names) = (path.display(), available.join(", "));
    if setting.ends_with("template") {
        return format!("{path} has no column `{column}`, which {setting} names: its columns are {names}");
    }
    format!("{path} has no column `{column}`: set {setting} to one of {names}")
}

impl DatasetError {
    /// For `map_err`: `Io` about `path`, or `DiskFull` if the disk is full.
    pub fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { path, source },
            _ => Self::Io { action, path, source },
        }
    }

    /// A file with several columns of a name that a setting names.
    pub(crate) fn several_columns(path: &Path, column: &str) -> Self {
        Self::Prompts(format!("{} has several columns `{column}`: rename one of them", path.display()))
    }

    /// For `map_err` of a Parquet or Arrow reader: `Parquet` about the file `path` of another program.
    pub(crate) fn parquet<E: Into<ParquetError>>(path: &Path) -> impl Fn(E) -> Self + '_ {
        let remedy = "fetch or write it again";
        move |source| Self::Parquet { path: path.to_path_buf(), remedy, source: source.into() }
    }

    /// As [`Self::parquet`], about a shard.
    pub(crate) fn shard<E: Into<ParquetError>>(path: &Path) -> impl Fn(E) -> Self + '_ {
        let remedy = "if it is a shard, delete it and run `jacobi generate` again, which makes its rows again (or `jacobi import`, if it was imported)";
        move |source| Self::Parquet { path: path.to_path_buf(), remedy, source: source.into() }
    }
}
