//! From a row of any format to a [`Prompt`].

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::arrow_value::Unread;
use super::message::{Message, from_json_text, kind, read_all, take_answer};
use super::templates::{Template, Templates};
use super::{BadRow, Place, Prompt, PromptsConfig, python_text};
use crate::error::DatasetError;

/// A row of a file of any format.
pub(super) struct Row {
    /// Name of its file, if there are several.
    pub(super) file: Option<Arc<str>>,
    /// Where it is in the file.
    pub(super) at: Place,
    /// Columns by name, in the file's order.
    pub(super) columns: Map<String, Value>,
}

/// A row or the reason why it is unusable; an error ends the iteration.
pub(super) type RowResult = Result<Result<Row, BadRow>, DatasetError>;

pub(super) type Rows = Box<dyn Iterator<Item = RowResult>>;

/// A column to read.
pub(super) struct Wanted {
    pub(super) column: String,
    /// The setting that names it. Without it the column is read only if there is one.
    pub(super) setting: Option<&'static str>,
}

impl Wanted {
    /// Whether all of the column's value is needed. A template says itself which of its fields it needs.
    fn is_whole(&self) -> bool {
        self.setting.is_none_or(|setting| !setting.ends_with("template"))
    }
}

/// The names of the columns to read; all if there is no list.
#[derive(Clone)]
pub(super) struct Names(Option<Rc<HashMap<String, Listed>>>);

/// A column to read.
#[derive(Default)]
struct Listed {
    /// A setting names it.
    by_setting: bool,
    /// All of its value is needed.
    is_whole: bool,
}

impl Names {
    pub(super) fn of(wanted: Option<&[Wanted]>) -> Self {
        let listed = |wanted: &[Wanted]| {
            let mut all: HashMap<String, Listed> = HashMap::new();
            for wanted in wanted {
                let listed = all.entry(wanted.column.clone()).or_default();
                listed.by_setting |= wanted.setting.is_some();
                listed.is_whole |= wanted.is_whole();
            }
            Rc::new(all)
        };
        Self(wanted.map(listed))
    }

    pub(super) fn contain(&self, name: &str) -> bool {
        self.0.as_ref().is_none_or(|names| names.contains_key(name))
    }

    /// Whether all of the column's value is needed; never without a list.
    pub(super) fn are_whole(&self, name: &str) -> bool {
        self.0.as_ref().and_then(|names| names.get(name)).is_some_and(|listed| listed.is_whole)
    }

    /// What happens to a field of the column whose type is not read.
    pub(super) fn unread(&self, name: &str) -> Unread {
        match &self.0 {
            None => Unread::LeftOut,
            Some(_) if self.are_whole(name) => Unread::Fails,
            Some(_) => Unread::Marked,
        }
    }

    /// Whether a setting names a column.
    pub(super) fn are_set(&self) -> bool {
        self.0.iter().flat_map(|names| names.values()).any(|listed| listed.by_setting)
    }

    /// How many of the columns that a setting names are in a row.
    pub(super) fn count_in(&self, columns: &Map<String, Value>) -> usize {
        let named = self.0.iter().flat_map(|names| names.iter()).filter(|(_, listed)| listed.by_setting);
        named.filter(|(name, _)| columns.contains_key(*name)).count()
    }
}

/// The columns that a conversation may have beside its messages, for settings that name none.
const TOOLS: &str = "tools";
const SYSTEM: &str = "system";

/// The columns to read.
pub(super) fn wanted(config: &PromptsConfig, templates: &Templates) -> Vec<Wanted> {
    let named = |setting, column: String| Wanted { column, setting: Some(setting) };
    let in_template = |template: &Template| {
        let setting = template.setting;
        template.columns.iter().map(|column| named(setting, column.clone())).collect::<Vec<_>>()
    };
    let mut wanted = match (&config.messages_column, &templates.prompt) {
        (Some(column), _) => vec![named("prompts.messages_column", column.clone())],
        (None, Some(template)) => in_template(template),
        (None, None) => vec![named("prompts.prompt_column", config.prompt_column.clone())],
    };
    let unless =
        |template: &Option<Template>, column: &Option<String>| column.clone().filter(|_| template.is_none());
    let beside = [
        ("prompts.tools_column", &config.tools_column, TOOLS),
        ("prompts.system_column", &config.system_column, SYSTEM),
    ];
    for (setting, column, default) in beside {
        match column.as_deref() {
            Some("") => {}
            Some(column) => wanted.push(named(setting, column.to_owned())),
            None if config.messages_column.is_some() => {
                wanted.push(Wanted { column: default.to_owned(), setting: None });
            }
            None => {}
        }
    }
    let optional = [
        ("prompts.id_column", config.id_column.clone()),
        ("prompts.answer_column", unless(&templates.answer, &config.answer_column)),
        ("prompts.response_column", unless(&templates.response, &config.response_column)),
        ("prompts.filter_column", config.filter_column.clone()),
    ];
    wanted.extend(templates.answer.iter().chain(&templates.response).flat_map(in_template));
    wanted.extend(optional.into_iter().filter_map(|(setting, column)| Some(named(setting, column?))));
    wanted
}

/// Whether `filter_column` keeps the row. A row without a value there, or with a list, is dropped.
pub(super) fn is_kept(config: &PromptsConfig, row: &Row) -> bool {
    let Some(column) = &config.filter_column else { return true };
    let Ok(value) = text(row, column) else { return false };
    let is_truth = row.columns.get(column).is_some_and(Value::is_boolean);
    // `true` and `True` are the same.
    let is_in = |list: &[String]| {
        list.iter().any(|item| *item == value || (is_truth && item.eq_ignore_ascii_case(&value)))
    };
    (config.filter_keep.is_empty() || is_in(&config.filter_keep)) && !is_in(&config.filter_drop)
}

/// The prompt of a row, or what is wrong with it.
pub(super) fn to_prompt(config: &PromptsConfig, templates: &Templates, row: &Row) -> Result<Prompt, BadRow> {
    let file = row.file.as_deref().map(str::to_owned);
    convert(config, templates, row).map_err(|reason| BadRow { file, at: row.at, reason })
}

fn convert(config: &PromptsConfig, templates: &Templates, row: &Row) -> Result<Prompt, String> {
    let mut messages = match (&config.messages_column, &templates.prompt) {
        (Some(name), _) => read_all(name, column(row, name)?, &config.role_map)?,
        (None, Some(template)) => vec![Message::new("user", template.render(&row.columns)?)],
        (None, None) => vec![Message::new("user", text(row, &config.prompt_column)?)],
    };
    let last_turn = match &config.messages_column {
        Some(name) => take_answer(name, &mut messages)?,
        None => None,
    };
    if messages.iter().all(Message::is_empty) {
        return Err("the prompt is empty".to_owned());
    }
    if let Some(system) = system(config, row, &messages[0])? {
        messages.insert(0, Message::new("system", system));
    }
    let tools = tools(config, row)?;
    let optional = |column: &Option<String>| column.as_ref().map(|column| text(row, column)).transpose();
    let answer = match &templates.answer {
        Some(template) => Some(template.render(&row.columns)?),
        None => optional(&config.answer_column)?,
    };
    let response = match (&templates.response, &config.response_column) {
        (Some(template), _) => Some(Message::new("assistant", template.render(&row.columns)?)),
        (None, Some(name)) => Some(response(config, row, name)?),
        (None, None) => last_turn,
    };
    let digest = || hash(&messages, tools.as_deref()).to_hex()[..16].to_owned();
    let id = optional(&config.id_column)?.unwrap_or_else(digest);
    Ok(Prompt { id, messages, tools, answer, response })
}

/// The column beside a conversation that `setting` names, or else `default`; none for an empty name, for prompts
/// that are not conversations, and for a null or empty text.
fn beside<'a>(
    config: &PromptsConfig,
    row: &'a Row,
    setting: &'a Option<String>,
    default: &'a str,
) -> Option<(&'a str, &'a Value)> {
    let name = setting.as_deref().or_else(|| config.messages_column.as_ref().map(|_| default))?;
    let value = row.columns.get(name)?;
    (!value.is_null() && value != "").then_some((name, value))
}

/// The system message to put before the turn `first`.
fn system(config: &PromptsConfig, row: &Row, first: &Message) -> Result<Option<String>, String> {
    let has_one = ["system", "developer"].contains(&first.role());
    let Some((name, value)) = beside(config, row, &config.system_column, SYSTEM) else {
        return Ok(config.system.clone().filter(|_| !has_one));
    };
    let refuse = |reason: String| {
        Err(format!("`{name}` {reason}: name another column in prompts.system_column, or \"\" for none"))
    };
    match value.as_str() {
        None => refuse(format!("is {}, not text", kind(value))),
        Some(text) if has_one && text != first.text() => {
            refuse("is not the system message of the conversation".to_owned())
        }
        Some(text) => Ok((!has_one).then(|| text.to_owned())),
    }
}

/// The tools of a conversation, in the column or in its JSON text.
fn tools(config: &PromptsConfig, row: &Row) -> Result<Option<Vec<Value>>, String> {
    let Some((name, value)) = beside(config, row, &config.tools_column, TOOLS) else { return Ok(None) };
    let parsed = from_json_text(name, value)?;
    let refuse = |value: &Value| {
        let found = kind(value);
        format!(
            "`{name}` has {found}, not a list of JSON Schemas: name another column in prompts.tools_column, or \"\" for \
             none"
        )
    };
    let value = parsed.as_ref().unwrap_or(value);
    let tool = |tool: &Value| {
        let tool = from_json_text(name, tool)?.unwrap_or_else(|| tool.clone());
        if tool.is_object() { Ok(tool) } else { Err(refuse(&tool)) }
    };
    match value {
        Value::Null => Ok(None),
        Value::Array(tools) => tools.iter().map(tool).collect::<Result<_, _>>().map(Some),
        other => Err(refuse(other)),
    }
}

/// A given response: text, or a list of one message.
fn response(config: &PromptsConfig, row: &Row, name: &str) -> Result<Message, String> {
    let value = column(row, name)?;
    if !value.is_array() {
        return text(row, name).map(|text| Message::new("assistant", text));
    }
    let mut messages = read_all(name, value, &config.role_map)?;
    match (messages.pop(), messages.is_empty()) {
        (Some(message), true) if message.role() == "assistant" => Ok(message),
        _ => Err(format!("`{name}` is a list, but not of one message of an assistant")),
    }
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

/// Text, or a number or truth value as the text that Python gives it: files hold ids and answers as any of them.
fn text(row: &Row, name: &str) -> Result<String, String> {
    match column(row, name)? {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(python_text::number(number)),
        Value::Bool(value) => Ok(python_text::boolean(*value).to_owned()),
        other => Err(format!("`{name}` is {}, not text", kind(other))),
    }
}

/// 128 bits of a digest.
pub(super) fn shorten(digest: blake3::Hash) -> u128 {
    u128::from_le_bytes(digest.as_bytes()[..16].try_into().expect("16 of 32 bytes"))
}

/// Before JSON in a digest, in place of the length of a text.
const JSON: u64 = u64::MAX;

/// The digest of what a chat template gets.
pub(super) fn hash(messages: &[Message], tools: Option<&[Value]>) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    for message in messages {
        add_text(&mut hasher, message.role());
        let mut further = message.clone().into_fields();
        further.remove("role");
        if let Some(text) = further.get("content").and_then(Value::as_str) {
            add_text(&mut hasher, text);
            further.remove("content");
        }
        if !further.is_empty() {
            hasher.update(&JSON.to_le_bytes());
            add_text(&mut hasher, &Value::Object(further).to_string());
        }
    }
    if let Some(tools) = tools {
        hasher.update(&JSON.to_le_bytes());
        add_text(&mut hasher, &Value::from(tools).to_string());
    }
    hasher.finalize()
}

/// The digest of roles and texts alone, by which the responses of other engines are matched.
pub(super) fn hash_of_texts(messages: &[Message]) -> u128 {
    let mut hasher = blake3::Hasher::new();
    for message in messages {
        add_text(&mut hasher, message.role());
        add_text(&mut hasher, &message.text());
    }
    shorten(hasher.finalize())
}

/// The lengths make `("a", "bc")` and `("ab", "c")` differ.
fn add_text(hasher: &mut blake3::Hasher, text: &str) {
    hasher.update(&(text.len() as u64).to_le_bytes());
    hasher.update(text.as_bytes());
}

#[cfg(test)]
mod tests;
