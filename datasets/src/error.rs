//! What can go wrong between this crate and the world. Each message names the file and the way out.

use std::io;
use std::path::PathBuf;

/// A failure to read or write data. The underlying error, where there is one, is the `source`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatasetError {
    /// The operating system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried, e.g. `read`.
        action: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// Its answer.
        source: io::Error,
    },

    /// No room left.
    #[error("the disk is full, cannot write {}: free some space and run the same command again; what was finished is kept", path.display())]
    DiskFull {
        /// The file that did not fit.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },

    /// A JSON file that is not JSON, or not of the expected shape.
    #[error("{} is not the JSON it should be ({expected})", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What should be in it.
        expected: &'static str,
        /// Line, column and cause.
        source: serde_json::Error,
    },

    /// A file that somebody has to bring.
    #[error("{} does not exist: {way_out}", path.display())]
    Missing {
        /// The path as configured.
        path: PathBuf,
        /// What to do.
        way_out: &'static str,
    },

    /// A directory where a prompt file is wanted.
    #[error("prompts.path {} is a directory: name a file in it{}", path.display(), one_of(found))]
    PromptPathIsDirectory {
        /// The path as configured.
        path: PathBuf,
        /// Files in it that could be meant.
        found: Vec<String>,
    },

    /// The name of the prompt file does not tell its format.
    #[error("cannot tell the format of {} from its name: set prompts.format to jsonl, json or parquet", path.display())]
    PromptFormatUnknown {
        /// The path as configured.
        path: PathBuf,
    },

    /// The prompt file has no rows.
    #[error("{} holds no prompts: it is empty", path.display())]
    NoPrompts {
        /// The file.
        path: PathBuf,
    },

    /// `offset` and `limit` leave no row.
    #[error(
        "prompts.offset = {offset} and prompts.limit = {} select none of the {rows} rows of {}{filter}",
        limit.map_or_else(|| "none".to_owned(), |limit| limit.to_string()), path.display()
    )]
    NoPromptsSelected {
        /// The file.
        path: PathBuf,
        /// Rows in the file, those left out by a filter not counted.
        rows: usize,
        /// That filter, in words.
        filter: String,
        /// Rows skipped.
        offset: usize,
        /// Rows taken at most.
        limit: Option<usize>,
    },

    /// A configured column that no row has.
    #[error("{} has no column `{column}`: set {setting} to one of {}", path.display(), available.join(", "))]
    MissingColumn {
        /// The file.
        path: PathBuf,
        /// The column asked for.
        column: String,
        /// The setting that asks for it.
        setting: &'static str,
        /// The columns there are.
        available: Vec<String>,
    },

    /// A template that is not Jinja.
    #[error("{setting} is not a template: correct it, columns stand in double braces")]
    Template {
        /// The setting.
        setting: &'static str,
        /// Line and cause.
        source: minijinja::Error,
    },

    /// A row of a response file that cannot be used.
    #[error("{}, line {line}: {reason}", path.display())]
    BadResponse {
        /// The file.
        path: PathBuf,
        /// 1-based line or row.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },

    /// A path that begins like one of the hub and is none.
    #[error("{path} is not of the form {form}")]
    HubPath {
        /// The path as configured.
        path: String,
        /// What it should look like.
        form: &'static str,
    },

    /// A file that the hub did not give.
    #[error(
        "cannot fetch {file} of {repo} at {revision} from {endpoint}: check the name, the network (HF_ENDPOINT), and HF_TOKEN if access is restricted; HF_HUB_OFFLINE=1 makes do with what is cached"
    )]
    Hub {
        /// Path within the repository.
        file: String,
        /// `ORG/NAME`.
        repo: String,
        /// Branch, tag or commit.
        revision: String,
        /// Where it was looked for.
        endpoint: String,
        /// The hub's answer.
        source: Box<dyn std::error::Error + Send + Sync>,
    },

    /// Offline, and not in the cache.
    #[error("HF_HUB_OFFLINE is set and {file} of {repo} at {revision} is not in the cache {}: unset it once, or fill the cache elsewhere", cache.display())]
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

    /// A directory that is to be pushed as an export and is none.
    #[error("{} is no exported model: it lacks {lacks}; `jacobi export` with a recipe makes one, `jacobi run` at its end", path.display())]
    NotAnExport {
        /// The directory.
        path: PathBuf,
        /// What of an export is not there.
        lacks: String,
    },

    /// Nobody to push as.
    #[error("no token for the hub: set HF_TOKEN, or write one that may write into {}", path.display())]
    HubNoToken {
        /// Where a token is looked for besides.
        path: PathBuf,
    },

    /// A push without a network.
    #[error("HF_HUB_OFFLINE is set, and a push needs the hub: unset it")]
    HubPushOffline,

    /// The hub did not do its part of a push.
    #[error("cannot {what} at {repo} on {endpoint}: {reason}")]
    HubPush {
        /// What was asked of it.
        what: String,
        /// `ORG/NAME`.
        repo: String,
        /// Where.
        endpoint: String,
        /// What it said.
        reason: String,
    },

    /// A file that is no Parquet, or a truncated or damaged one.
    #[error("{} is not a readable Parquet file: it is truncated, damaged or of another format", path.display())]
    Parquet {
        /// The file.
        path: PathBuf,
        /// What the reader stumbled on.
        source: parquet::errors::ParquetError,
    },

    /// Columns that could not be built or read.
    #[error("cannot convert the columns of {}", path.display())]
    Arrow {
        /// The file.
        path: PathBuf,
        /// What was wrong.
        source: arrow_schema::ArrowError,
    },

    /// A Parquet file of another schema or version.
    #[error("{} is of schema {found}, this program reads {expected}: generate the trajectories again", path.display())]
    WrongSchema {
        /// The file.
        path: PathBuf,
        /// Schema name and version in the file, or `none`.
        found: String,
        /// Schema name and version of this program.
        expected: String,
    },

    /// A Parquet file that claims our schema but has other columns.
    #[error("{} has columns {found}, its schema says {expected}: generate the trajectories again", path.display())]
    WrongColumns {
        /// The file.
        path: PathBuf,
        /// Columns in the file.
        found: String,
        /// Columns of the schema.
        expected: String,
    },

    /// An entry of the file metadata that is absent or senseless.
    #[error("{}: metadata `{key}` is {found}: generate the trajectories again", path.display())]
    BadMetadata {
        /// The file.
        path: PathBuf,
        /// The entry.
        key: String,
        /// Its value, or `missing`.
        found: String,
    },

    /// Shards with the states of one noise schedule are asked for those of another.
    #[error(
        "{path} holds the states of one noise schedule alone ({made}), and training asks for another ({asked}): train with that one, or generate again with generate.states = \"all\""
    )]
    WrongSchedule {
        /// The directory or file.
        path: PathBuf,
        /// The schedule they were made for.
        made: String,
        /// The one that is asked for.
        asked: String,
    },

    /// A row that contradicts itself or its file.
    #[error("{}, row {row}: {reason}", path.display())]
    BadShardRow {
        /// The file.
        path: PathBuf,
        /// 1-based row.
        row: usize,
        /// What is wrong with it.
        reason: String,
    },

    /// A file whose content is not what was written.
    #[error("{} has changed since it was written (digest {found}, recorded {expected}): delete it and run `jacobi generate` again, which makes its rows anew (what was imported, import again)", path.display())]
    Digest {
        /// The file.
        path: PathBuf,
        /// Digest recorded when it was written.
        expected: String,
        /// Digest now.
        found: String,
    },

    /// A directory that no generation has written to.
    #[error("{} holds no trajectories (no {}): run `jacobi generate` first", dir.display(), crate::schema::manifest::MANIFEST_FILE)]
    NoManifest {
        /// The directory.
        dir: PathBuf,
    },

    /// A generation that has not come to its end.
    #[error("the trajectories in {} are not complete ({done} of {input} prompts): run `jacobi generate` again, which resumes, or `jacobi import`, which starts over", dir.display())]
    Incomplete {
        /// The directory.
        dir: PathBuf,
        /// Prompts done.
        done: usize,
        /// Prompts asked for.
        input: usize,
    },

    /// A manifest whose numbers contradict each other.
    #[error("{}: {reason}: delete the directory and generate again", path.display())]
    BadManifest {
        /// The manifest.
        path: PathBuf,
        /// What does not add up.
        reason: String,
    },

    /// Shards that no manifest speaks of.
    #[error("{} holds {file} but no manifest.json: choose another directory, or remove what is in it with --overwrite", dir.display())]
    StrayShards {
        /// The directory.
        dir: PathBuf,
        /// One of them.
        file: String,
    },

    /// Shards of different runs in one directory.
    #[error("{} was written with other settings than the first shard of its directory: generate into an empty directory", path.display())]
    MixedShards {
        /// The first shard that differs.
        path: PathBuf,
    },

    /// A complete generation without a single trajectory.
    #[error("the trajectories in {} are empty (0 of {input} prompts gave one): see errors.jsonl beside them", dir.display())]
    NoTrajectories {
        /// The directory.
        dir: PathBuf,
        /// Prompts asked for.
        input: usize,
    },

    /// A model directory without tokenizer.
    #[error("{} has no tokenizer.json: point model.path at a Hugging Face model directory with a fast tokenizer", dir.display())]
    NoTokenizer {
        /// The directory.
        dir: PathBuf,
    },

    /// A tokenizer.json that cannot be read, or a text it cannot encode.
    #[error("the tokenizer {} failed", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// Cause, in the words of the tokenizers library.
        source: Box<dyn std::error::Error + Send + Sync>,
    },

    /// The configuration names an end-of-sequence token that the vocabulary lacks, or none at all.
    #[error("{} names no end-of-sequence token of the vocabulary: set eos_token_id in generation_config.json", dir.display())]
    NoEos {
        /// The model directory.
        dir: PathBuf,
    },

    /// A model without chat template.
    #[error("{} has no chat template: add chat_template.jinja, or give the prompts without template", dir.display())]
    NoChatTemplate {
        /// The model directory.
        dir: PathBuf,
    },

    /// A chat template that does not parse, or refuses these messages.
    #[error("the chat template of {} failed", dir.display())]
    ChatTemplate {
        /// The model directory.
        dir: PathBuf,
        /// Line and cause.
        source: minijinja::Error,
    },
}

/// `, for instance a or b`, or nothing.
fn one_of(names: &[String]) -> String {
    if names.is_empty() { String::new() } else { format!(", for instance {}", names.join(" or ")) }
}

impl DatasetError {
    /// For `map_err`: `Io` about `path`, or `DiskFull` when that is what it is.
    pub fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { path, source },
            _ => Self::Io { action, path, source },
        }
    }

    /// For `map_err`: `Parquet` about `path`.
    pub(crate) fn parquet(path: &std::path::Path) -> impl Fn(parquet::errors::ParquetError) -> Self + '_ {
        move |source| Self::Parquet { path: path.to_path_buf(), source }
    }

    /// For `map_err`: `Arrow` about `path`.
    pub(crate) fn arrow(path: &std::path::Path) -> impl Fn(arrow_schema::ArrowError) -> Self + '_ {
        move |source| Self::Arrow { path: path.to_path_buf(), source }
    }
}
