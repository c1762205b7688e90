//! Responses that another engine made, matched to prompts: JSONL or Parquet as vLLM and SGLang write them, or plain
//! columns. Token ids are taken as they are; text is tokenised again, and refused where that would read differently.
//!
//! | what | looked for under |
//! |---|---|
//! | prompt | `prompt_token_ids`, `prompt_tokens`, `input_ids`; `messages`; `prompt`, the user's text or the rendered template |
//! | id | `id`, `sample_id`, `custom_id`, `request_id` |
//! | token ids | `response_tokens`, `token_ids`, `output_ids`, `output_token_ids` |
//! | text | `response`, `text`, `output`, `generated_text`, `completion` |
//! | why it ends | `finish_reason`, a word or `{"type": word}` |
//!
//! `outputs[0]` (vLLM's request output), `response.body.choices[0]` and `choices[0]` (the batch and completion formats) and
//! `meta_info` (SGLang) are looked into first.

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
    /// Entries by every name they can be found under, in the order of the file.
    names: HashMap<Name, Vec<usize>>,
}

/// Responses as they are given out, each at most once.
#[derive(Debug)]
pub struct Matching<'a> {
    responses: &'a Responses,
    taken: Vec<bool>,
}

#[derive(Debug)]
struct Entry {
    given: Given,
    finish: Option<String>,
    /// It says by tokens or messages what it answers: its id alone does not make it the answer to anything else.
    says_prompt: bool,
}

#[derive(Debug)]
enum Given {
    Tokens(Vec<u32>),
    Text(String),
}

#[derive(Debug, PartialEq, Eq, Hash)]
enum Name {
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
    /// `Missing`, `Io`, `Parquet`, `PromptFormatUnknown`; `BadResponse` for a row that holds no response or names no prompt.
    pub fn read(path: &Path) -> Result<Self, DatasetError> {
        if !path.exists() {
            let way_out =
                "set generate.responses, or give --responses (relative paths start at the working directory)";
            return Err(DatasetError::Missing { path: path.to_path_buf(), way_out });
        }
        let mut hasher = blake3::Hasher::new();
        let mut file = fs_err::File::open(path).map_err(DatasetError::io("read", path))?;
        hasher.update_reader(&mut file).map_err(DatasetError::io("read", path))?;
        let digest = hasher.finalize().to_hex()[..16].to_owned();
        let mut responses =
            Self { path: path.to_path_buf(), digest, entries: Vec::new(), names: HashMap::new() };
        for row in rows_of(path)? {
            let bad = |line, reason| DatasetError::BadResponse { path: path.to_path_buf(), line, reason };
            let (line, columns) = row?.map_err(|row| bad(row.line, row.reason))?;
            responses.add(&columns).map_err(|reason| bad(line, reason))?;
        }
        Ok(responses)
    }

    /// The first 16 hex digits of the BLAKE3 of the file.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Starts giving them out.
    pub fn matching(&self) -> Matching<'_> {
        Matching { responses: self, taken: vec![false; self.entries.len()] }
    }

    fn add(&mut self, row: &Map<String, Value>) -> Result<(), String> {
        let places = places(row);
        let find = |keys: &[&str]| find_in(&places, keys);
        let given = match find(TOKENS) {
            Some(tokens) => Given::Tokens(ids(tokens)?),
            None => {
                let message = find(&["message"]).and_then(|message| message.get("content"));
                let text = message.or_else(|| find(TEXTS)).and_then(Value::as_str);
                Given::Text(text.ok_or("neither token ids nor text of a response")?.to_owned())
            }
        };
        let finish = find(&["finish_reason"]).and_then(|reason| {
            reason.as_str().or_else(|| reason.get("type").and_then(Value::as_str)).map(str::to_owned)
        });
        let mut names = Vec::new();
        if let Some(tokens) = find(PROMPT_TOKENS) {
            names.push(Name::PromptTokens(ids(tokens)?));
        }
        if let Some(hash) = find(&["messages"]).and_then(crate::prompts::hash_of_messages) {
            names.push(Name::Messages(hash));
        }
        let says_prompt = !names.is_empty();
        names.extend(find(&["prompt"]).and_then(Value::as_str).map(|text| Name::PromptText(text.to_owned())));
        names.extend(find(IDS).and_then(text_of).map(Name::Id));
        if names.is_empty() {
            return Err("neither an id nor a prompt says what it answers".to_owned());
        }
        for name in names {
            self.names.entry(name).or_default().push(self.entries.len());
        }
        self.entries.push(Entry { given, finish, says_prompt });
        Ok(())
    }
}

impl Matching<'_> {
    /// The response to a prompt, whose tokens are `prompt_tokens`: by its tokens, its messages, its
    /// text, its id, in this order.
    ///
    /// # Errors
    /// Why there is none, or none that can be used.
    pub fn take(
        &mut self,
        prompt: &Prompt,
        prompt_tokens: &[u32],
        tokenizer: &Tokenizer,
    ) -> Result<Vec<u32>, String> {
        let mut names = vec![
            Name::PromptTokens(prompt_tokens.to_vec()),
            Name::Messages(prompt.content_hash()),
            Name::PromptText(prompt.messages.last().map_or_else(String::new, |last| last.content.clone())),
        ];
        names.extend(tokenizer.render_chat(&prompt.messages, true).ok().map(Name::PromptText));
        names.push(Name::Id(prompt.id.clone()));
        let path = self.responses.path.display();
        for name in names {
            let known = self.responses.names.get(&name).into_iter().flatten();
            let Some(&index) = known.into_iter().find(|&&index| !self.taken[index]) else { continue };
            let entry = &self.responses.entries[index];
            if entry.says_prompt && matches!(name, Name::Id(_)) {
                return Err(format!(
                    "the response under its id in {path} says that it answers another prompt"
                ));
            }
            self.taken[index] = true;
            return tokens_of(entry, tokenizer);
        }
        Err(format!(
            "{path} has no response to it: none with its tokens, messages or text, nor with the id {}",
            prompt.id
        ))
    }
}

/// The objects of a row in which to look, the innermost first.
fn places(row: &Map<String, Value>) -> Vec<&Map<String, Value>> {
    let mut places = Vec::new();
    let body = row.get("response").and_then(|response| response.get("body")).and_then(Value::as_object);
    for outer in [Some(row), body].into_iter().flatten() {
        for list in ["outputs", "choices"] {
            let first = outer.get(list).and_then(|list| list.get(0)).and_then(Value::as_object);
            places.extend(first);
        }
        places.extend(outer.get("meta_info").and_then(Value::as_object));
    }
    places.extend(body);
    places.push(row);
    places
}

/// The first place's first of `keys` that is there and not null.
fn find_in<'a>(places: &[&'a Map<String, Value>], keys: &[&str]) -> Option<&'a Value> {
    let all = places.iter().flat_map(|place| keys.iter().filter_map(|key| place.get(*key)));
    all.into_iter().find(|value| !value.is_null())
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

/// The ids of a response up to and including its end, if it has one.
fn tokens_of(entry: &Entry, tokenizer: &Tokenizer) -> Result<Vec<u32>, String> {
    let eos = tokenizer.eos_token_ids();
    let (mut tokens, whole) = match &entry.given {
        Given::Tokens(tokens) => (tokens.clone(), false),
        Given::Text(text) => {
            let tokens = tokenizer.encode(text).map_err(|error| error.to_string())?;
            let again = tokenizer.decode_with_special(&tokens);
            if again != *text {
                return Err("its text reads differently once it is tokenised".to_owned());
            }
            // Text comes without its end-of-sequence token, and mostly because it ended.
            (tokens, entry.finish.is_none())
        }
    };
    if let Some(id) = tokens.iter().find(|&&id| tokenizer.id_to_token(id).is_none()) {
        return Err(format!("token id {id} is not in the vocabulary of {}", tokenizer.vocab_size()));
    }
    match tokens.iter().position(|id| eos.contains(id)) {
        Some(end) => tokens.truncate(end + 1),
        None if whole || matches!(entry.finish.as_deref(), Some("stop" | "eos" | "eos_token")) => {
            tokens.push(eos[0]);
        }
        None => {}
    }
    if tokens.is_empty() { Err("it is empty".to_owned()) } else { Ok(tokens) }
}

#[cfg(test)]
mod tests;
