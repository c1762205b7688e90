//! Prompts from files: JSONL, JSON or Parquet, plain text or conversations, columns by name.
//!
//! A row that cannot be used is a value ([`BadRow`]), not the end of the run; a file that cannot be used is an error.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::DatasetError;

mod parquet_rows;
mod row;
mod text_rows;

/// How a prompt file is laid out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PromptFormat {
    /// By the extension: `.jsonl`, `.ndjson`, `.json` (an array, or lines all the same), `.parquet`.
    #[default]
    Auto,
    /// One JSON object per line; empty lines do not count.
    Jsonl,
    /// One array of objects.
    Json,
    /// Parquet, one row per prompt.
    Parquet,
}

/// Where the prompts are and which columns mean what.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct PromptsConfig {
    /// The file.
    pub path: PathBuf,
    /// Its format.
    pub format: PromptFormat,
    /// Column with the user's text; not read when `messages_column` is set.
    pub prompt_column: String,
    /// Column with a conversation: a list of `{role, content}` or of `{from, value}`. A closing assistant turn is the
    /// response, not part of the prompt.
    pub messages_column: Option<String>,
    /// Column with the name of the row; without it the name is a digest of the messages.
    pub id_column: Option<String>,
    /// Column with the reference answer, for evaluation.
    pub answer_column: Option<String>,
    /// Column with a given response.
    pub response_column: Option<String>,
    /// System message put before conversations that bring none.
    pub system: Option<String>,
    /// Rows to skip.
    pub offset: usize,
    /// Rows to take at most, after `offset`.
    pub limit: Option<usize>,
}

impl Default for PromptsConfig {
    fn default() -> Self {
        Self {
            path: PathBuf::new(),
            format: PromptFormat::Auto,
            prompt_column: "prompt".to_owned(),
            messages_column: None,
            id_column: None,
            answer_column: None,
            response_column: None,
            system: None,
            offset: 0,
            limit: None,
        }
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
    /// A turn of `role` saying `content`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

/// A prompt, ready for the chat template.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prompt {
    /// From the id column, or 16 hex digits of the BLAKE3 of the messages.
    pub id: String,
    /// The conversation so far; the last turn is the one to answer.
    pub messages: Vec<Message>,
    /// Reference answer.
    pub answer: Option<String>,
    /// Given response.
    pub response: Option<String>,
}

/// A row that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadRow {
    /// 1-based line of a JSONL file, row of any other.
    pub line: usize,
    /// What is wrong with it.
    pub reason: String,
}

/// Reads the rows `offset .. offset + limit` of the configured file, good and bad, in order.
///
/// # Errors
/// `PromptFileMissing`, `PromptFormatUnknown`, `NoPrompts`, `NoPromptsSelected`, `MissingColumn` (when no row at all
/// has it), `Json` (a JSON file that is no array), `Parquet`, `Io`.
pub fn read_prompts(config: &PromptsConfig) -> Result<Vec<Result<Prompt, BadRow>>, DatasetError> {
    let path = &config.path;
    if !path.is_file() {
        return Err(DatasetError::PromptFileMissing { path: path.clone() });
    }
    let rows = match resolve_format(config)? {
        PromptFormat::Parquet => parquet_rows::read(config)?,
        PromptFormat::Json => text_rows::read_json(path)?,
        PromptFormat::Jsonl => text_rows::read_jsonl(path)?,
        PromptFormat::Auto => text_rows::read_json_or_jsonl(path)?,
    };
    if rows.is_empty() {
        return Err(DatasetError::NoPrompts { path: path.clone() });
    }
    row::check_columns(config, &rows)?;
    let (total, limit) = (rows.len(), config.limit.unwrap_or(usize::MAX));
    let selected: Vec<_> = rows
        .into_iter()
        .skip(config.offset)
        .take(limit)
        .map(|row| row.and_then(|row| row::to_prompt(config, &row)))
        .collect();
    if selected.is_empty() {
        let (offset, limit) = (config.offset, config.limit);
        return Err(DatasetError::NoPromptsSelected { path: path.clone(), rows: total, offset, limit });
    }
    Ok(selected)
}

/// `Auto` is left only for `.json`, whose first character decides.
fn resolve_format(config: &PromptsConfig) -> Result<PromptFormat, DatasetError> {
    if config.format != PromptFormat::Auto {
        return Ok(config.format);
    }
    let extension = config.path.extension().map(|extension| extension.to_string_lossy().to_lowercase());
    match extension.as_deref() {
        Some("jsonl" | "ndjson") => Ok(PromptFormat::Jsonl),
        Some("json") => Ok(PromptFormat::Auto),
        Some("parquet") => Ok(PromptFormat::Parquet),
        _ => Err(DatasetError::PromptFormatUnknown { path: config.path.clone() }),
    }
}

#[cfg(test)]
mod tests;
