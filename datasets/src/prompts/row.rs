//! From a row of any format to a [`Prompt`].

use std::sync::Arc;

use serde_json::{Map, Value};

use super::templates::{Template, Templates};
use super::{BadRow, Message, Prompt, PromptsConfig};
use crate::error::DatasetError;

/// A row of a file of any format.
pub(super) struct Row {
    /// Name of its file, if there are several.
    pub(super) file: Option<Arc<str>>,
    /// 1-based line or row.
    pub(super) line: usize,
    /// Columns by name, in the file's order.
    pub(super) columns: Map<String, Value>,
}

/// A row or the reason why it is unusable; an error ends the iteration.
pub(super) type RowResult = Result<Result<Row, BadRow>, DatasetError>;

pub(super) type Rows = Box<dyn Iterator<Item = RowResult>>;

/// The columns to read, each with the setting that names it.
pub(super) fn wanted(config: &PromptsConfig, templates: &Templates) -> Vec<(&'static str, String)> {
    let in_template = |template: &Template| {
        let setting = template.setting;
        template.columns().into_iter().map(|column| (setting, column)).collect::<Vec<_>>()
    };
    let mut wanted = match (&config.messages_column, &templates.prompt) {
        (Some(column), _) => vec![("prompts.messages_column", column.clone())],
        (None, Some(template)) => in_template(template),
        (None, None) => vec![("prompts.prompt_column", config.prompt_column.clone())],
    };
    let unless =
        |template: &Option<Template>, column: &Option<String>| column.clone().filter(|_| template.is_none());
    let optional = [
        ("prompts.id_column", config.id_column.clone()),
        ("prompts.answer_column", unless(&templates.answer, &config.answer_column)),
        ("prompts.response_column", unless(&templates.response, &config.response_column)),
        ("prompts.filter_column", config.filter_column.clone()),
    ];
    wanted.extend(templates.answer.iter().chain(&templates.response).flat_map(in_template));
    wanted.extend(optional.into_iter().filter_map(|(setting, column)| Some((setting, column?))));
    wanted
}

/// Whether `filter_column` keeps the row. A row without a value there, or with a list, is dropped.
pub(super) fn is_kept(config: &PromptsConfig, row: &Row) -> bool {
    let Some(column) = &config.filter_column else { return true };
    let value = match row.columns.get(column) {
        Some(Value::Bool(value)) => value.to_string(),
        _ => match text(row, column) {
            Ok(value) => value,
            Err(_) => return false,
        },
    };
    let kept = config.filter_keep.is_empty() || config.filter_keep.contains(&value);
    kept && !config.filter_drop.contains(&value)
}

/// The prompt of a row, or what is wrong with it.
pub(super) fn to_prompt(config: &PromptsConfig, templates: &Templates, row: &Row) -> Result<Prompt, BadRow> {
    let file = row.file.as_deref().map(str::to_owned);
    convert(config, templates, row).map_err(|reason| BadRow { file, line: row.line, reason })
}

fn convert(config: &PromptsConfig, templates: &Templates, row: &Row) -> Result<Prompt, String> {
    let mut messages = match (&config.messages_column, &templates.prompt) {
        (Some(column), _) => messages(row, column)?,
        (None, Some(template)) => vec![Message::new("user", template.render(&row.columns)?)],
        (None, None) => vec![Message::new("user", text(row, &config.prompt_column)?)],
    };
    let last_turn = match messages.last() {
        Some(last) if last.role == "assistant" => messages.pop().map(|last| last.content),
        _ => None,
    };
    if messages.iter().all(|message| message.content.trim().is_empty()) {
        return Err("the prompt is empty".to_owned());
    }
    if let Some(system) = &config.system
        && messages[0].role != "system"
    {
        messages.insert(0, Message::new("system", system));
    }
    let optional = |column: &Option<String>| column.as_ref().map(|column| text(row, column)).transpose();
    let given = |template: &Option<Template>, column: &Option<String>| match template {
        Some(template) => template.render(&row.columns).map(Some),
        None => optional(column),
    };
    Ok(Prompt {
        id: optional(&config.id_column)?.unwrap_or_else(|| hash(&messages).to_hex()[..16].to_owned()),
        answer: given(&templates.answer, &config.answer_column)?,
        response: given(&templates.response, &config.response_column)?.or(last_turn),
        messages,
    })
}

fn column<'a>(row: &'a Row, name: &str) -> Result<&'a Value, String> {
    match row.columns.get(name) {
        None => {
            let names: Vec<&str> = row.columns.keys().map(String::as_str).collect();
            Err(format!("no column `{name}`, only {}", names.join(", ")))
        }
        Some(Value::Null) => Err(format!("`{name}` is null")),
        Some(value) => Ok(value),
    }
}

/// Text, or a number as text: files hold ids and answers as either.
fn text(row: &Row, name: &str) -> Result<String, String> {
    match column(row, name)? {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        other => Err(format!("`{name}` is {}, not text", kind(other))),
    }
}

fn messages(row: &Row, name: &str) -> Result<Vec<Message>, String> {
    let value = column(row, name)?;
    let turns =
        value.as_array().ok_or_else(|| format!("`{name}` is {}, not a list of messages", kind(value)))?;
    turns
        .iter()
        .enumerate()
        .map(|(index, turn)| {
            message(turn).ok_or_else(|| {
                format!(
                    "`{name}`, message {}: neither {{role, content}} nor {{from, value}} as text",
                    index + 1
                )
            })
        })
        .collect()
}

/// A turn in the OpenAI form, or in the ShareGPT form with its own role names.
pub(super) fn message(turn: &Value) -> Option<Message> {
    let field = |name: &str| turn.get(name).and_then(Value::as_str);
    if let (Some(role), Some(content)) = (field("role"), field("content")) {
        return Some(Message::new(role, content));
    }
    let role = match field("from")? {
        "human" => "user",
        "gpt" | "chatgpt" | "model" => "assistant",
        other => other,
    };
    Some(Message::new(role, field("value")?))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

pub(super) fn content_hash(messages: &[Message]) -> u128 {
    u128::from_le_bytes(hash(messages).as_bytes()[..16].try_into().expect("16 of 32 bytes"))
}

/// The lengths make `("a", "bc")` and `("ab", "c")` differ.
fn hash(messages: &[Message]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    for text in messages.iter().flat_map(|message| [&message.role, &message.content]) {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    }
    hasher.finalize()
}
