//! Prompts from files: JSON, CSV or Parquet, plain text or conversations, columns by name.
//!
//! A row that cannot be used is a value ([`BadRow`]) and does not end the run; a file that cannot be used is an error.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::DatasetError;
use crate::hub::Hub;
use crate::settings::{RecordedSettings, Section};

mod arrow_value;
mod bytes;
mod csv_rows;
mod files;
mod json;
mod json_rows;
mod message;
mod parquet_rows;
mod python_text;
mod row;
mod stream;
mod templates;

pub(crate) use message::{ANSWER_KEYS, RoleMap};
pub use message::{Message, Role};
pub(crate) use python_text::number as number_text;
pub use stream::{PromptStream, stream_prompts, stream_prompts_from};

/// Format of a prompt file. Text may be compressed with gzip or zstd.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PromptFormat {
    /// By the first bytes for Parquet, gzip and zstd, and by the extension for text: `.jsonl`, `.ndjson`, `.json`,
    /// `.csv`, `.tsv`, each also with `.gz` or `.zst`.
    #[default]
    Auto,
    /// JSON objects, one per line or over several, or an array of them, alone or in an object.
    Jsonl,
    /// The same.
    Json,
    /// Values separated by commas, with the names of the columns in the first line. All values are text.
    Csv,
    /// As CSV, with tabs for commas.
    Tsv,
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
    /// Column with a conversation: a list of `{role, content}` or of `{from, value}`, or its JSON text. An assistant
    /// turn at its end is the response, not part of the prompt. All fields of a turn reach the chat template.
    pub messages_column: Option<String>,
    /// Roles by the names that a file has for them, for names that are not known anyway: `{ bing = "assistant" }`.
    /// The roles are `user`, `assistant`, `system` and `tool`.
    pub role_map: BTreeMap<String, Role>,
    /// Column with the tools of a conversation: a list of JSON Schemas, or its JSON text. Without it, the column
    /// `tools` if there is one beside `messages_column`; with an empty name, none.
    pub tools_column: Option<String>,
    /// Column with the system message of a conversation that has none. Without it, the column `system` if there is
    /// one beside `messages_column`; with an empty name, none.
    pub system_column: Option<String>,
    /// Column with the id of the row. Without it the id is a digest of the messages.
    pub id_column: Option<String>,
    /// Column with the reference answer, for evaluation.
    pub answer_column: Option<String>,
    /// The reference answer as a Jinja template over the columns, in place of `answer_column`.
    pub answer_template: Option<String>,
    /// The given response as a Jinja template over the columns, in place of `response_column`.
    pub response_template: Option<String>,
    /// Column with a given response, to train on as it is: text, or a list of one message.
    pub response_column: Option<String>,
    /// System message for conversations that have none, not even in `system_column`.
    pub system: Option<String>,
    /// A chat template in place of the model's: a file, or the Jinja text itself.
    pub chat_template: Option<String>,
    /// Variables of the chat template, such as `{ enable_thinking = false }`.
    pub chat_template_kwargs: BTreeMap<String, serde_json::Value>,
    /// Takes each prompt as it is, without a chat template, for base models. The tokenizer's post-processor adds what
    /// it adds to any text, such as BOS.
    pub raw: bool,
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

    fn deciding(&self) -> RecordedSettings {
        let mut settings = RecordedSettings::of_section(self);
        settings.extend(self.deciding_template());
        settings
    }
}

impl Default for PromptsConfig {
    fn default() -> Self {
        Self {
            path: PathBuf::new(),
            format: PromptFormat::Auto,
            prompt_column: "prompt".to_owned(),
            template: None,
            messages_column: None,
            role_map: BTreeMap::new(),
            tools_column: None,
            system_column: None,
            id_column: None,
            answer_column: None,
            answer_template: None,
            response_template: None,
            response_column: None,
            system: None,
            chat_template: None,
            chat_template_kwargs: BTreeMap::new(),
            raw: false,
            filter_column: None,
            filter_keep: Vec::new(),
            filter_drop: Vec::new(),
            offset: 0,
            limit: None,
        }
    }
}

impl PromptsConfig {
    /// The settings that turn a conversation into text: the template by its content, its variables, `raw`.
    pub fn deciding_template(&self) -> RecordedSettings {
        let mut settings = RecordedSettings::default();
        let digest = |source: String| blake3::hash(source.as_bytes()).to_hex()[..16].to_owned();
        settings.set("prompts.chat_template", self.template_source().ok().flatten().map(digest));
        settings.set("prompts.chat_template_kwargs", &self.chat_template_kwargs);
        settings.set("prompts.raw", self.raw.then_some(true));
        settings
    }

    /// Takes the chat template, its variables and `raw` that `other` sets.
    pub fn take_template(&mut self, other: &Self) {
        if other.chat_template.is_some() {
            self.chat_template.clone_from(&other.chat_template);
        }
        self.chat_template_kwargs.extend(other.chat_template_kwargs.clone());
        self.raw |= other.raw;
    }

    /// The text of `chat_template`, read from its file unless it is the template itself.
    ///
    /// # Errors
    /// `Io`.
    pub fn template_source(&self) -> Result<Option<String>, DatasetError> {
        let is_template = |text: &&String| text.contains("{{") || text.contains("{%") || text.contains('\n');
        match &self.chat_template {
            Some(text) if !is_template(&text) => {
                fs_err::read_to_string(text).map(Some).map_err(DatasetError::io("read", text))
            }
            text => Ok(text.clone()),
        }
    }

    /// # Errors
    /// `Prompts` for settings of the chat template that exclude each other or set what the conversation sets.
    pub(crate) fn check_template(&self) -> Result<(), DatasetError> {
        let refused = |message: String| Err(DatasetError::Prompts(message));
        let templated = [
            ("chat_template", self.chat_template.is_some()),
            ("chat_template_kwargs", !self.chat_template_kwargs.is_empty()),
            ("system", self.system.is_some()),
        ];
        if let (true, Some((key, _))) = (self.raw, templated.into_iter().find(|(_, is_set)| *is_set)) {
            return refused(format!(
                "prompts.raw takes prompts without a chat template, and prompts.{key} is for one: set one of the two"
            ));
        }
        let ours = ["messages", "tools", "add_generation_prompt"];
        match ours.into_iter().find(|name| self.chat_template_kwargs.contains_key(*name)) {
            Some(name) => refused(format!(
                "prompts.chat_template_kwargs.{name} is set for each prompt by its conversation: leave it out"
            )),
            None => Ok(()),
        }
    }

    /// The local files of `path`, in reading order; downloads those of the hub.
    ///
    /// # Errors
    /// `Missing`, `Prompts` for a directory, `HubPath`, `Hub`, `HubOffline`.
    pub fn files(&self) -> Result<Vec<PathBuf>, DatasetError> {
        let hub = Hub::from_environment();
        files::find(self, &hub)?.into_iter().map(|source| source.locate(&hub)).collect()
    }
}

/// A prompt, ready for the chat template.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prompt {
    /// From the id column, or 16 hex digits of the BLAKE3 of the messages.
    pub id: String,
    /// The conversation; the response answers its last turn.
    pub messages: Vec<Message>,
    /// The tools offered in it, as JSON Schemas.
    pub tools: Option<Vec<Value>>,
    /// Reference answer.
    pub answer: Option<String>,
    /// Given response: a turn of the assistant.
    pub response: Option<Message>,
}

impl Prompt {
    /// 128 bits of the BLAKE3 of messages and tools: equal for equal conversations, whatever the id.
    pub fn content_hash(&self) -> u128 {
        row::shorten(row::hash(&self.messages, self.tools.as_deref()))
    }

    /// As [`hash_of_messages`].
    pub(crate) fn hash_of_texts(&self) -> u128 {
        row::hash_of_texts(&self.messages)
    }
}

/// Where a row is in its file, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// A line of JSON objects.
    Line(usize),
    /// A row of CSV (the header does not count), Parquet or a JSON array.
    Row(usize),
}

impl Place {
    /// The number of the line or row.
    pub fn number(self) -> usize {
        match self {
            Self::Line(number) | Self::Row(number) => number,
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Line(number) => write!(f, "line {number}"),
            Self::Row(number) => write!(f, "row {number}"),
        }
    }
}

/// A row that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadRow {
    /// Name of its file, if the configured path matches several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Where it is in the file.
    pub at: Place,
    /// What is wrong with it.
    pub reason: String,
}

impl BadRow {
    fn new(at: Place, reason: impl Into<String>) -> Self {
        Self { file: None, at, reason: reason.into() }
    }

    /// Its place: `line 7`, or `train-1.parquet, row 7`.
    pub fn place(&self) -> String {
        let file = self.file.as_ref().map_or_else(String::new, |file| format!("{file}, "));
        format!("{file}{}", self.at)
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

/// The columns of a row with its place, or why the row is unusable.
pub(crate) type RawRow = Result<(Place, serde_json::Map<String, Value>), BadRow>;

/// All columns of all rows of one file.
///
/// # Errors
/// `Prompts` for an unknown format, `Parquet`, `Io`.
pub(crate) fn rows_of(
    path: &Path,
) -> Result<impl Iterator<Item = Result<RawRow, DatasetError>>, DatasetError> {
    let rows = files::open(path, PromptFormat::Auto, None)?;
    Ok(rows.map(|row| Ok(row?.map(|row| (row.at, row.columns)))))
}

/// A hash of the roles and texts of a conversation in any form, without a final assistant turn; `None` for any other
/// value.
pub(crate) fn hash_of_messages(value: &Value) -> Option<u128> {
    let read = |turn| Message::read(turn, &RoleMap::new()).ok();
    let mut messages: Vec<Message> = value.as_array()?.iter().map(read).collect::<Option<_>>()?;
    messages.pop_if(|last| last.role() == "assistant");
    Some(row::hash_of_texts(&messages))
}

#[cfg(test)]
mod tests;
