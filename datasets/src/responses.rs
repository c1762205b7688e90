//! Responses of another engine, matched to prompts: JSONL or Parquet as vLLM and SGLang write them, or plain
//! columns. Token ids are used unchanged. Text is tokenised, and refused if its tokens decode to another text.
//!
//! | what | keys |
//! |---|---|
//! | prompt | `prompt_token_ids`, `prompt_tokens`, `input_ids`; `messages`; `prompt`, the user's text or the rendered template |
//! | id | `id`, `sample_id`, `custom_id`, `request_id` |
//! | token ids | `response_tokens`, `token_ids`, `output_ids`, `output_token_ids` |
//! | text | `response`, `text`, `output`, `generated_text`, `completion` |
//! | finish reason | `finish_reason`, a word or `{"type": word}` |
//!
//! Keys in `outputs[0]` (vLLM's request output), `response.body.choices[0]` and `choices[0]` (the batch and
//! completion formats) and `meta_info` (SGLang) take precedence over those of the row.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::DatasetError;
use crate::prompts::{Prompt, rows_of};
use crate::tokenizer::Tokenizer;

/// All responses of a file, in memory.
#[derive(Debug)]
pub struct Responses {
    path: PathBuf,
    digest: String,
    entries: Vec<Entry>,
    /// Indices of entries by each of their keys, in file order.
    by_key: HashMap<Key, Vec<usize>>,
}

/// Hands out each response at most once.
#[derive(Debug)]
pub struct Matching<'a> {
    responses: &'a Responses,
    taken: Vec<bool>,
}

#[derive(Debug)]
struct Entry {
    content: Content,
    finish: Option<String>,
    /// The row holds the tokens or messages of its prompt: then an equal id alone is no match.
    has_prompt: bool,
}

#[derive(Debug)]
enum Content {
    Tokens(Vec<u32>),
    Text(String),
}

#[derive(Debug, PartialEq, Eq, Hash)]
enum Key {
    PromptTokens(Vec<u32>),
    Messages(u128),
    PromptText(String),
    Id(String),
}

const IDS: &[&str] = &["id", "sample_id", "custom_id", "request_id"];
const PROMPT_TOKENS: &[&str] = &["prompt_token_ids", "prompt_tokens", "input_ids"];
const TOKENS: &[&str] = &["response_tokens", "token_ids", "output_ids", "output_token_ids"];
const TEXTS: &[&str] = &["response", "text", "output", "generated_text", "completion"];

impl Responses {
    /// Reads a file of responses.
    ///
    /// # Errors
    /// `Missing`, `Io`, `Parquet`, `Prompts` for an unknown format; `BadRow` for a row without a response or a prompt.
    pub fn read(path: &Path) -> Result<Self, DatasetError> {
        if !path.exists() {
            let remedy =
                "set generate.responses, or give --responses (relative paths start at the working directory)";
            return Err(DatasetError::Missing { path: path.to_path_buf(), remedy });
        }
        let mut hasher = blake3::Hasher::new();
        let mut file = fs_err::File::open(path).map_err(DatasetError::io("read", path))?;
        hasher.update_reader(&mut file).map_err(DatasetError::io("read", path))?;
        let digest = hasher.finalize().to_hex()[..16].to_owned();
        let mut responses =
            Self { path: path.to_path_buf(), digest, entries: Vec::new(), by_key: HashMap::new() };
        for row in rows_of(path)? {
            let bad = |line: usize, reason| DatasetError::BadRow {
                path: path.to_path_buf(),
                place: format!("line {line}"),
                reason,
            };
            let (line, columns) = row?.map_err(|row| bad(row.line, row.reason))?;
            responses.add(&columns).map_err(|reason| bad(line, reason))?;
        }
        Ok(responses)
    }

    /// The first 16 hex digits of the BLAKE3 of the file.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// All responses, none of them handed out yet.
    pub fn matching(&self) -> Matching<'_> {
        Matching { responses: self, taken: vec![false; self.entries.len()] }
    }

    fn add(&mut self, row: &Map<String, Value>) -> Result<(), String> {
        let objects = objects_of(row);
        let find = |keys: &[&str]| find_in(&objects, keys);
        let content = match find(TOKENS) {
            Some(tokens) => Content::Tokens(ids(tokens)?),
            None => {
                let message = find(&["message"]).and_then(|message| message.get("content"));
                let text = message.or_else(|| find(TEXTS)).and_then(Value::as_str);
                Content::Text(text.ok_or("neither token ids nor text of a response")?.to_owned())
            }
        };
        let finish = find(&["finish_reason"]).and_then(|reason| {
            reason.as_str().or_else(|| reason.get("type").and_then(Value::as_str)).map(str::to_owned)
        });
        let mut keys = Vec::new();
        if let Some(tokens) = find(PROMPT_TOKENS) {
            keys.push(Key::PromptTokens(ids(tokens)?));
        }
        if let Some(hash) = find(&["messages"]).and_then(crate::prompts::hash_of_messages) {
            keys.push(Key::Messages(hash));
        }
        let has_prompt = !keys.is_empty();
        keys.extend(find(&["prompt"]).and_then(Value::as_str).map(|text| Key::PromptText(text.to_owned())));
        keys.extend(find(IDS).and_then(text_of).map(Key::Id));
        if keys.is_empty() {
            return Err("neither an id nor a prompt to match it by".to_owned());
        }
        for key in keys {
            self.by_key.entry(key).or_default().push(self.entries.len());
        }
        self.entries.push(Entry { content, finish, has_prompt });
        Ok(())
    }
}

impl Matching<'_> {
    /// The response to a prompt with the tokens `prompt_tokens`, found by its tokens, messages, text or id,
    /// in this order.
    ///
    /// # Errors
    /// Why there is no response, or no usable one.
    pub fn take(
        &mut self,
        prompt: &Prompt,
        prompt_tokens: &[u32],
        tokenizer: &Tokenizer,
    ) -> Result<Vec<u32>, String> {
        let mut keys = vec![
            Key::PromptTokens(prompt_tokens.to_vec()),
            Key::Messages(prompt.content_hash()),
            Key::PromptText(prompt.messages.last().map_or_else(String::new, |last| last.content.clone())),
        ];
        keys.extend(tokenizer.render_chat(&prompt.messages, true).ok().map(Key::PromptText));
        keys.push(Key::Id(prompt.id.clone()));
        let path = self.responses.path.display();
        for key in keys {
            let known = self.responses.by_key.get(&key).into_iter().flatten();
            let Some(&index) = known.into_iter().find(|&&index| !self.taken[index]) else { continue };
            let entry = &self.responses.entries[index];
            if entry.has_prompt && matches!(key, Key::Id(_)) {
                return Err(format!("the response with its id in {path} answers another prompt"));
            }
            self.taken[index] = true;
            return tokens_of(entry, tokenizer);
        }
        Err(format!(
            "{path} has no response to it: none with its tokens, messages or text, or with the id {}",
            prompt.id
        ))
    }
}

/// The objects of a row that can hold the keys, innermost first.
fn objects_of(row: &Map<String, Value>) -> Vec<&Map<String, Value>> {
    let mut objects = Vec::new();
    let body = row.get("response").and_then(|response| response.get("body")).and_then(Value::as_object);
    for outer in [Some(row), body].into_iter().flatten() {
        for list in ["outputs", "choices"] {
            let first = outer.get(list).and_then(|list| list.get(0)).and_then(Value::as_object);
            objects.extend(first);
        }
        objects.extend(outer.get("meta_info").and_then(Value::as_object));
    }
    objects.extend(body);
    objects.push(row);
    objects
}

/// The first non-null value of any of `keys`, object by object.
fn find_in<'a>(objects: &[&'a Map<String, Value>], keys: &[&str]) -> Option<&'a Value> {
    let mut all = objects.iter().flat_map(|object| keys.iter().filter_map(|key| object.get(*key)));
    all.find(|value| !value.is_null())
}

fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn ids(value: &Value) -> Result<Vec<u32>, String> {
    let list = value.as_array().ok_or("token ids are not a list")?;
    let id = |id: &Value| id.as_u64().and_then(|id| u32::try_from(id).ok());
    list.iter().map(|value| id(value).ok_or_else(|| format!("{value} is no token id"))).collect()
}

/// The ids of a response up to and including its end-of-sequence token, if it has one.
fn tokens_of(entry: &Entry, tokenizer: &Tokenizer) -> Result<Vec<u32>, String> {
    let eos = tokenizer.eos_token_ids();
    let (mut tokens, has_ended) = match &entry.content {
        Content::Tokens(tokens) => (tokens.clone(), false),
        Content::Text(text) => {
            let tokens = tokenizer.encode(text).map_err(|error| error.to_string())?;
            let again = tokenizer.decode_with_special(&tokens);
            if again != *text {
                return Err("its text changes when it is tokenised and decoded".to_owned());
            }
            // Engines write text without its end-of-sequence token, and most responses have ended.
            (tokens, entry.finish.is_none())
        }
    };
    if let Some(id) = tokens.iter().find(|&&id| tokenizer.id_to_token(id).is_none()) {
        return Err(format!("token id {id} is not in the vocabulary of {}", tokenizer.vocab_size()));
    }
    match tokens.iter().position(|id| eos.contains(id)) {
        Some(end) => tokens.truncate(end + 1),
        None if has_ended || matches!(entry.finish.as_deref(), Some("stop" | "eos" | "eos_token")) => {
            tokens.push(eos[0]);
        }
        None => {}
    }
    if tokens.is_empty() { Err("it is empty".to_owned()) } else { Ok(tokens) }
}

#[cfg(test)]
mod tests;
