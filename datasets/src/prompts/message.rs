//! Turns of conversations: read from rows of any form, kept as the map that a chat template sees.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::json;

/// The names of a turn's role, in the order of precedence: OpenAI's, ShareGPT's and others'.
pub(super) const ROLE_KEYS: [&str; 3] = ["role", "from", "speaker"];
/// The names of a turn's text, likewise.
const CONTENT_KEYS: [&str; 3] = ["content", "value", "text"];
/// Names of the reasoning before an answer. transformers copies the first of them to the first two names.
const REASONING_KEYS: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];
const CALL_KEYS: [&str; 2] = ["tool_calls", "function_call"];
/// Fields of an answer besides its content, by what they mean.
pub(crate) const ANSWER_KEYS: [&[&str]; 2] = [&REASONING_KEYS, &CALL_KEYS];
/// Roles of turns that are the JSON text of function calls, as ShareGPT files have them.
const CALL_ROLES: [&str; 3] = ["function_call", "tool_call", "tool_calls"];
/// The result of a tool may be nothing.
const CALL_ID: &str = "tool_call_id";

/// The roles that chat templates know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Who asks.
    User,
    /// Who answers: a closing turn of this role is the response.
    Assistant,
    /// Instructions for the whole conversation.
    System,
    /// The result of a tool.
    Tool,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::System => "system",
            Self::Tool => "tool",
        }
    }
}

/// `prompts.role_map`: roles by the names that a file has for them.
pub(crate) type RoleMap = BTreeMap<String, Role>;

/// One turn of a conversation as a chat template sees it: `role`, `content` (text, or a list of text parts), and
/// every other field of its row that is not null.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Message(Map<String, Value>);

impl Message {
    /// A turn of `role` with the text `content`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        let field = |name: &str, value: String| (name.to_owned(), Value::String(value));
        Self([field("role", role.into()), field("content", content.into())].into_iter().collect())
    }

    /// Its role, as the template sees it.
    pub fn role(&self) -> &str {
        self.0.get("role").and_then(Value::as_str).unwrap_or_default()
    }

    /// Its text: parts are joined; without content, none.
    pub fn text(&self) -> String {
        match self.0.get("content") {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Array(parts)) => parts.iter().filter_map(|part| part["text"].as_str()).collect(),
            _ => String::new(),
        }
    }

    /// Replaces its text; a list of parts becomes a list of one.
    pub fn set_text(&mut self, text: String) {
        let content = if self.has_parts() { Value::Array(vec![text_part(text)]) } else { text.into() };
        self.0.insert("content".to_owned(), content);
    }

    /// Whether it has content.
    pub(crate) fn has_content(&self) -> bool {
        self.0.contains_key("content")
    }

    /// Whether its content is a list of parts.
    pub(crate) fn has_parts(&self) -> bool {
        self.0.get("content").is_some_and(Value::is_array)
    }

    /// The same turn with `text(part)` for each of its parts, in order.
    pub(crate) fn map_parts(&self, mut text: impl FnMut() -> String) -> Self {
        let mut message = self.clone();
        for part in message.0.get_mut("content").and_then(Value::as_array_mut).into_iter().flatten() {
            part["text"] = text().into();
        }
        message
    }

    /// The same turn with its parts joined to one text.
    pub(crate) fn joined(&self) -> Self {
        let mut message = self.clone();
        if self.has_parts() {
            message.0.insert("content".to_owned(), self.text().into());
        }
        message
    }

    /// The first of `keys` with a value: neither empty text nor an empty list.
    pub(crate) fn first_of<'a>(&self, keys: &[&'a str]) -> Option<&'a str> {
        keys.iter().copied().find(|key| self.0.get(*key).is_some_and(|value| !is_empty(value)))
    }

    /// The same turn without `keys`.
    pub(crate) fn without(&self, keys: &[&str]) -> Self {
        Self(self.fields().filter(|(key, _)| !keys.contains(key)).map(owned).collect())
    }

    /// Whether it says nothing: no text, reasoning or tool call.
    pub(super) fn is_empty(&self) -> bool {
        self.text().trim().is_empty() && ANSWER_KEYS.iter().all(|keys| self.first_of(keys).is_none())
    }

    /// Its fields, in order.
    pub(super) fn into_fields(self) -> Map<String, Value> {
        self.0
    }

    fn fields(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// What a template gets: with the reasoning under the names that templates know, as transformers copies it.
    pub(crate) fn for_template(&self) -> Map<String, Value> {
        let Some(reasoning) = REASONING_KEYS.iter().find_map(|key| self.0.get(*key)) else {
            return self.0.clone();
        };
        let mut fields = Map::new();
        fields.insert("thinking".to_owned(), reasoning.clone());
        fields.extend(self.fields().map(owned));
        fields.insert("reasoning_content".to_owned(), reasoning.clone());
        fields
    }

    /// Reads a turn in any form. As transformers does, a null field is left out.
    ///
    /// # Errors
    /// What is wrong, to follow a name of the turn: "has no role ..".
    pub(crate) fn read(turn: &Value, roles: &RoleMap) -> Result<Self, String> {
        Self::read_turn(turn, roles).map(|(message, _)| message)
    }

    /// As [`Message::read`]; also whether it is a turn of function calls.
    fn read_turn(turn: &Value, roles: &RoleMap) -> Result<(Self, bool), String> {
        let turn = turn.as_object().ok_or_else(|| format!("is {}, not an object", kind(turn)))?;
        let fields = || turn.iter().filter(|(_, value)| !value.is_null());
        let names = || match fields().map(|(key, _)| key.as_str()).collect::<Vec<_>>().join(", ") {
            names if names.is_empty() => "it has no fields".to_owned(),
            names => format!("only {names}"),
        };
        let value = |key: &str| turn.get(key).filter(|value| !value.is_null());
        let role_key = ROLE_KEYS.into_iter().find(|key| value(key).is_some());
        let role_key = role_key.ok_or_else(|| format!("has no role: {}", names()))?;
        let role = value(role_key).and_then(Value::as_str);
        let role = role.ok_or_else(|| format!("has a `{role_key}` that is not text"))?;
        // Other fields may have the names of the further forms, such as a number called `value`.
        let is_content = |key: &&str| {
            value(key).is_some_and(|value| *key == "content" || value.is_string() || value.is_array())
        };
        let content_key = CONTENT_KEYS.into_iter().find(is_content);
        let known = known_role(role, roles);
        let is_call = known.is_none() && content_key.is_some() && CALL_ROLES.contains(&&*fold(role));
        let mut message = Self(Map::new());
        for (key, value) in fields() {
            let (key, value) = match key.as_str() {
                key if key == role_key && is_call => ("role", "assistant".into()),
                key if key == role_key => ("role", known.unwrap_or(role).into()),
                key if Some(key) == content_key && is_call => (
                    "tool_calls",
                    calls(value).map_err(|reason| format!("is a `{role}` whose `{key}` {reason}"))?,
                ),
                key if Some(key) == content_key => {
                    ("content", content(value).map_err(|reason| format!("has a `{key}` {reason}"))?)
                }
                key => (key, value.clone()),
            };
            message.0.insert(key.to_owned(), value);
        }
        let needs_content = message.is_empty() && message.first_of(&[CALL_ID]).is_none();
        if content_key.is_none() && needs_content {
            return Err(format!("has no content: {}", names()));
        }
        Ok((message, is_call))
    }

    /// Takes the calls of the next turn, if nothing else tells the two apart.
    fn join_calls(&mut self, next: &Self) -> bool {
        let calls = |message: &Self| message.0.get("tool_calls").and_then(Value::as_array).cloned();
        let (Some(mut own), Some(more)) = (calls(self), calls(next)) else { return false };
        let is_same = self.without(&["tool_calls"]) == next.without(&["tool_calls"]);
        if is_same {
            own.extend(more);
            self.0.insert("tool_calls".to_owned(), own.into());
        }
        is_same
    }
}

/// Reads a list of turns, or its JSON text. `name` is the column. Successive turns of function calls become one.
///
/// # Errors
/// The number of the bad turn and what is wrong with it.
pub(super) fn read_all(name: &str, value: &Value, roles: &RoleMap) -> Result<Vec<Message>, String> {
    let parsed = from_json_text(name, value)?;
    let value = parsed.as_ref().unwrap_or(value);
    let turns =
        value.as_array().ok_or_else(|| format!("`{name}` is {}, not a list of messages", kind(value)))?;
    let (mut messages, mut follows_call) = (Vec::<Message>::new(), false);
    for (number, turn) in (1..).zip(turns) {
        let (message, is_call) = Message::read_turn(turn, roles)
            .map_err(|reason| format!("`{name}`, message {number}: it {reason}"))?;
        let last = messages.last_mut().filter(|_| follows_call && is_call);
        if !last.is_some_and(|last| last.join_calls(&message)) {
            messages.push(message);
        }
        follows_call = is_call;
    }
    Ok(messages)
}

/// The value that a text holds as JSON; `None` for a value that is not text.
pub(super) fn from_json_text(name: &str, value: &Value) -> Result<Option<Value>, String> {
    let Value::String(text) = value else { return Ok(None) };
    json::value(text).map(Some).map_err(|reason| format!("`{name}` is text, {reason}"))
}

/// Takes a closing answer off a conversation. A closing turn whose role is unknown may be an answer too.
///
/// # Errors
/// The unknown role, and the way out.
pub(super) fn take_answer(name: &str, messages: &mut Vec<Message>) -> Result<Option<Message>, String> {
    let Some(last) = messages.last() else { return Ok(None) };
    match known_role(last.role(), &RoleMap::new()) {
        Some("assistant") => Ok(messages.pop()),
        Some(_) => Ok(None),
        None => Err(format!(
            "`{name}`, message {}: the closing turn has the unknown role `{}`: say in prompts.role_map whether it is \
             \"assistant\", \"user\", \"system\" or \"tool\"",
            messages.len(),
            last.role()
        )),
    }
}

/// The name that chat templates have for a role, in any case; `None` if it is not known.
fn known_role(name: &str, roles: &RoleMap) -> Option<&'static str> {
    let folded = fold(name);
    let mapped = || roles.iter().find(|(known, _)| fold(known) == folded).map(|(_, role)| role);
    if let Some(role) = roles.get(name).or_else(mapped) {
        return Some(role.name());
    }
    Some(match folded.as_str() {
        "user" | "human" | "prompter" => "user",
        "assistant" | "gpt" | "chatgpt" | "model" | "bot" | "chatbot" | "ai" => "assistant",
        "system" => "system",
        "tool" | "tools" | "observation" | "tool_response" | "tool_responses" | "tool_result"
        | "tool_results" | "function_response" | "function_result" => "tool",
        // Other names that templates know.
        "developer" => "developer",
        "function" => "function",
        "ipython" => "ipython",
        _ => return None,
    })
}

fn fold(role: &str) -> String {
    role.trim().to_lowercase().replace(['-', ' '], "_")
}

/// The calls of a turn that is the JSON text of one, or of several.
fn calls(value: &Value) -> Result<Value, String> {
    let wrong = "is not the JSON of a name and arguments";
    let parsed = match value {
        Value::String(text) => {
            json::value(text).map_err(|reason| format!("{wrong}: it is text, {reason}"))?
        }
        other => other.clone(),
    };
    let items = match parsed {
        Value::Array(items) if !items.is_empty() => items,
        other => vec![other],
    };
    let call = |call: &Value| {
        let (name, arguments) = (call["name"].as_str()?, call.get("arguments")?);
        Some(serde_json::json!({"type": "function", "function": {"name": name, "arguments": arguments}}))
    };
    items.iter().map(call).collect::<Option<Vec<_>>>().map(Value::Array).ok_or_else(|| wrong.to_owned())
}

/// Text, or a list of text parts in one form.
fn content(value: &Value) -> Result<Value, String> {
    match value {
        Value::String(_) => Ok(value.clone()),
        Value::Array(parts) => parts.iter().map(part).collect::<Result<Vec<_>, _>>().map(Value::Array),
        other => Err(format!("that is {}, not text", kind(other))),
    }
}

/// A text part without its null fields, whose type templates know. Arrow fills the fields of other parts with nulls, and
/// templates ask `'image' in part`.
fn part(part: &Value) -> Result<Value, String> {
    if let Value::String(text) = part {
        return Ok(text_part(text.clone()));
    }
    let text = part.get("text").filter(|text| text.is_string());
    let kind = part.get("type").and_then(Value::as_str);
    match (kind, text) {
        (Some("text" | "input_text" | "output_text") | None, Some(_)) => {}
        (Some(kind @ ("text" | "input_text" | "output_text")), None) => {
            return Err(format!("with a part of type `{kind}` that has no text"));
        }
        (Some(kind), _) => return Err(format!("with a part of type `{kind}`: only text can be read")),
        (None, None) => return Err("with a part that is not text".to_owned()),
    }
    let fields = part.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
    let mut fields: Map<String, Value> = fields.map(|(key, value)| (key.clone(), value.clone())).collect();
    fields.insert("type".to_owned(), "text".into());
    Ok(Value::Object(fields))
}

fn text_part(text: String) -> Value {
    serde_json::json!({"type": "text", "text": text})
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

fn owned((key, value): (&str, &Value)) -> (String, Value) {
    (key.to_owned(), value.clone())
}

/// The type of a value, for messages.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests;
