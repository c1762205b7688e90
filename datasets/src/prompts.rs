//! Prompts from files: JSONL, JSON or Parquet, plain text or conversations, columns by name.
//!
//! A row that cannot be used is a value ([`BadRow`]) and does not end the run; a file that cannot be used is an error.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::DatasetError;
use crate::hub::Hub;
use crate::settings::Section;

mod files;
mod parquet_rows;
mod row;
mod stream;
mod templates;
mod text_rows;

pub use stream::{PromptStream, stream_prompts, stream_prompts_from};

/// Format of a prompt file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PromptFormat {
    /// By the extension: `.jsonl` and `.ndjson` are lines, `.json` is an array or lines, `.parquet` is Parquet.
    #[default]
    Auto,
    /// One JSON object per line; empty lines are skipped.
    Jsonl,
    /// One array of objects.
    Json,
    /// One row per prompt.
    Parquet,
}

/// Where the prompts are, and the meaning of the columns.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PromptsConfig {
    /// The file, local or on the hub (`hf://datasets/ORG/NAME[@REVISION]/FILE`). One `*` in its name stands for
    /// any text: all files that match are read, in the order of their names.
    pub path: PathBuf,
    /// Format of the file.
    pub format: PromptFormat,
    /// Column with the user's text. Not read when `template` or `messages_column` is set.
    pub prompt_column: String,
    /// The user's text as a Jinja template over the columns: `"Q: {{ question }}"`.
    pub template: Option<String>,
    /// Column with a conversation: a list of `{role, content}` or of `{from, value}`. An assistant turn at its
    /// end is the response, not part of the prompt.
    pub messages_column: Option<String>,
    /// Column with the id of the row. Without it the id is a digest of the messages.
    pub id_column: Option<String>,
    /// Column with the reference answer, for evaluation.
    pub answer_column: Option<String>,
    /// The reference answer as a Jinja template over the columns, in place of `answer_column`.
    pub answer_template: Option<String>,
    /// The given response as a Jinja template over the columns, in place of `response_column`.
    pub response_template: Option<String>,
    /// Column with a given response, to train on as it is.
    pub response_column: Option<String>,
    /// System message for conversations that have none.
    pub system: Option<String>,
    /// Column of texts, numbers or truth values that decides whether a row is used. Rows that are not used, and
    /// rows without a value there, are not counted anywhere.
    pub filter_column: Option<String>,
    /// Values of `filter_column` whose rows are used. If empty, all except those of `filter_drop`.
    pub filter_keep: Vec<String>,
    /// Values of `filter_column` whose rows are not used.
    pub filter_drop: Vec<String>,
    /// Number of rows to skip.
    pub offset: usize,
    /// Maximum number of rows to take after `offset`. Without it, all.
    pub limit: Option<usize>,
}

impl Section for PromptsConfig {
    const NAME: &'static str = "prompts";
    const NEUTRAL: &'static [(&'static str, &'static str)] =
        &[("path", "the content of the files decides; it is recorded as a digest")];
}

impl Default for PromptsConfig {
    fn default() -> Self {
        Self {
            path: PathBuf::new(),
            format: PromptFormat::Auto,
            prompt_column: "prompt".to_owned(),
            template: None,
            messages_column: None,
            id_column: None,
            answer_column: None,
            answer_template: None,
            response_template: None,
            response_column: None,
            system: None,
            filter_column: None,
            filter_keep: Vec::new(),
            filter_drop: Vec::new(),
            offset: 0,
            limit: None,
        }
    }
}

impl PromptsConfig {
    /// The local files of `path`, in reading order; downloads those of the hub.
    ///
    /// # Errors
    /// `Missing`, `Prompts` for a directory, `HubPath`, `Hub`, `HubOffline`.
    pub fn files(&self) -> Result<Vec<PathBuf>, DatasetError> {
        let hub = Hub::from_environment();
        files::find(self, &hub)?.into_iter().map(|source| source.locate(&hub)).collect()
    }
}

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// The text.
    pub content: String,
}

impl Message {
    /// A turn of `role` with the text `content`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

/// A prompt, ready for the chat template.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prompt {
    /// From the id column, or 16 hex digits of the BLAKE3 of the messages.
    pub id: String,
    /// The conversation; the response answers its last turn.
    pub messages: Vec<Message>,
    /// Reference answer.
    pub answer: Option<String>,
    /// Given response.
    pub response: Option<String>,
}

impl Prompt {
    /// 128 bits of the BLAKE3 of the messages: equal for equal messages, whatever the id.
    pub fn content_hash(&self) -> u128 {
        row::content_hash(&self.messages)
    }
}

/// A row that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadRow {
    /// Name of its file, if the configured path matches several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Line of a JSONL file, row of any other, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub reason: String,
}

impl BadRow {
    fn new(line: usize, reason: impl Into<String>) -> Self {
        Self { file: None, line, reason: reason.into() }
    }

    /// Its place: `line 7`, or `train-1.jsonl, line 7`.
    pub fn place(&self) -> String {
        let file = self.file.as_ref().map_or_else(String::new, |file| format!("{file}, "));
        format!("{file}line {}", self.line)
    }
}

impl std::fmt::Display for BadRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.place(), self.reason)
    }
}

/// Reads the rows `offset .. offset + limit` of the configured files into memory, good and bad, in order.
///
/// # Errors
/// Those of [`stream_prompts`] and of its items.
pub fn read_prompts(config: &PromptsConfig) -> Result<Vec<Result<Prompt, BadRow>>, DatasetError> {
    stream_prompts(config)?.collect()
}

/// The columns of a row with its line, or why the row is unusable.
pub(crate) type RawRow = Result<(usize, serde_json::Map<String, serde_json::Value>), BadRow>;

/// All columns of all rows of one file.
///
/// # Errors
/// `Prompts` for an unknown format, `Json`, `Parquet`, `Io`.
pub(crate) fn rows_of(
    path: &Path,
) -> Result<impl Iterator<Item = Result<RawRow, DatasetError>>, DatasetError> {
    let rows = files::open(path, PromptFormat::Auto, None)?;
    Ok(rows.map(|row| Ok(row?.map(|row| (row.line, row.columns)))))
}

/// The content hash of a conversation in either form, without a final assistant turn; `None` for any other value.
pub(crate) fn hash_of_messages(value: &serde_json::Value) -> Option<u128> {
    let mut messages: Vec<Message> = value.as_array()?.iter().map(row::message).collect::<Option<_>>()?;
    messages.pop_if(|last| last.role == "assistant");
    Some(row::content_hash(&messages))
}

#[cfg(test)]
mod tests;
