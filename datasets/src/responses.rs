//! Responses of another engine, matched to prompts: JSONL or Parquet as vLLM and SGLang write them, or plain
//! columns. Token ids are used unchanged. Text is tokenised, and refused if its tokens decode to another text.
//!
//! | what | keys |
//! |---|---|
//! | prompt | `prompt_token_ids`, `prompt_tokens`, `input_ids`, if lists; `messages`; `prompt`, the user's text or the rendered template |
//! | id | `custom_id`, `sample_id`, `id`, `request_id` of the row, else of its parts |
//! | token ids | `response_tokens`, `token_ids`, `output_ids`, `output_token_ids` |
//! | message | `message`, or `response` with `content` |
//! | text | `response`, `text`, `output`, `generated_text`, `completion`, or their text parts |
//! | finish reason | `finish_reason`, a word or `{"type": word}` |
//! | failure | `error`, a `status_code` that is not 2xx |
//!
//! Keys in `outputs[0]` (vLLM's request output), `choices[0]` (the completion format, by itself or in `response` or
//! `response.body`, as in batches) and `meta_info` (SGLang) take precedence over those of the row, except for the id.
//! A row that cannot be used fails its own prompt.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::DatasetError;
use crate::prompts::{Message, Place, Prompt, RoleMap, hash_of_messages, number_text, rows_of};
use crate::tokenizer::Tokenizer;

mod row;

/// All responses of a file, in memory.
#[derive(Debug)]
pub struct Responses {
    path: PathBuf,
    digest: String,
    entries: Vec<Entry>,
    /// Indices of entries by each of their keys, in file order.
    by_key: HashMap<Key, Vec<usize>>,
    /// Rows that answer no prompt: their number, and what is wrong with the first.
    unusable: usize,
    first_unusable: Option<(Place, String)>,
}

/// Hands out each response at most once.
#[derive(Debug)]
pub struct Matching<'a> {
    responses: &'a Responses,
    taken: Vec<bool>,
}

#[derive(Debug)]
struct Entry {
    /// The response, or why there is none.
    content: Result<Content, String>,
    finish: Option<String>,
    id: Option<String>,
    /// The row holds the tokens or messages of its prompt: then an equal id alone is no match.
    has_prompt: bool,
}

impl Entry {
    /// Whether its row has none of the keys of a response.
    fn lacks_response(&self) -> bool {
        self.content.as_ref().is_err_and(|reason| reason == row::NO_RESPONSE)
    }
}

#[derive(Debug)]
enum Content {
    Tokens(Vec<u32>),
    Message(Message),
}

#[derive(Debug, PartialEq, Eq, Hash)]
enum Key {
    PromptTokens(Vec<u32>),
    Messages(u128),
    PromptText(String),
    Id(String),
}

/// Finish reasons of a response that the model has ended.
const ENDED: [&str; 5] = ["stop", "eos", "eos_token", "tool_calls", "function_call"];

impl Responses {
    /// Reads a file of responses.
    ///
    /// # Errors
    /// `Missing`, `Io`, `Parquet`, `Prompts` for an unknown format; `BadRow` or `Prompts` if no row has a usable
    /// response.
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
        let mut responses = Self {
            path: path.to_path_buf(),
            digest,
            entries: Vec::new(),
            by_key: HashMap::new(),
            unusable: 0,
            first_unusable: None,
        };
        let (mut columns, mut failed) = (None, None);
        for row in rows_of(path)? {
            let added = row?.map_err(|row| (row.at, row.reason)).and_then(|(at, row)| {
                columns.get_or_insert_with(|| row.keys().cloned().collect());
                responses.add(&row).map(|()| at).map_err(|reason| (at, reason))
            });
            match added {
                Ok(at) => {
                    let reason =
                        responses.entries.last().and_then(|entry| entry.content.as_ref().err().cloned());
                    failed = failed.or(reason.map(|reason| (at, reason)));
                }
                Err(unusable) => {
                    responses.unusable += 1;
                    responses.first_unusable.get_or_insert(unusable);
                }
            }
        }
        let has_response = responses.entries.iter().any(|entry| entry.content.is_ok());
        if has_response { Ok(responses) } else { Err(responses.refused(columns.unwrap_or_default(), failed)) }
    }

    /// The error of a file without any usable response: with the columns of its first row, and what is wrong with the
    /// first response.
    fn refused(self, columns: Vec<String>, failed: Option<(Place, String)>) -> DatasetError {
        if failed.is_some() && self.entries.iter().all(Entry::lacks_response) {
            return DatasetError::Prompts(format!(
                "{} has no responses: its columns are {}, and a response is in one of {}: rename its column",
                self.path.display(),
                columns.join(", "),
                row::names_of_responses()
            ));
        }
        match failed.or(self.first_unusable) {
            Some((at, reason)) => {
                let reason = format!("{reason}; no row has a usable response");
                DatasetError::BadRow { path: self.path, place: at.to_string(), reason }
            }
            None => DatasetError::Prompts(format!("{} holds no responses: it is empty", self.path.display())),
        }
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
        let (entry, keys) = row::read(row)?;
        for key in keys {
            self.by_key.entry(key).or_default().push(self.entries.len());
        }
        self.entries.push(entry);
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
            Key::Messages(prompt.hash_of_texts()),
            Key::PromptText(prompt.messages.last().map_or_else(String::new, Message::text)),
        ];
        keys.extend(tokenizer.render_chat(prompt, true).ok().map(Key::PromptText));
        keys.push(Key::Id(prompt.id.clone()));
        let path = self.responses.path.display();
        for key in keys {
            let known = self.responses.by_key.get(&key).into_iter().flatten().copied();
            let Some(index) = self.best_of(known, &prompt.id) else { continue };
            let entry = &self.responses.entries[index];
            if entry.has_prompt && matches!(key, Key::Id(_)) {
                return Err(format!("the response with its id in {path} answers another prompt"));
            }
            self.taken[index] = true;
            return tokens_of(entry, prompt, tokenizer);
        }
        let unusable = match &self.responses.first_unusable {
            None => String::new(),
            Some((at, reason)) => {
                let count = self.responses.unusable;
                format!("; rows of the file that cannot be used: {count}, the first: {at}: {reason}")
            }
        };
        Err(format!(
            "{path} has no response to it: none with its tokens, messages or text, or with the id {}{unusable}",
            prompt.id
        ))
    }

    /// The first response of `known` that is left: rather one with the prompt's id, rather one that has not failed.
    fn best_of(&self, known: impl Iterator<Item = usize>, id: &str) -> Option<usize> {
        known.filter(|&index| !self.taken[index]).min_by_key(|&index| {
            let entry = &self.responses.entries[index];
            (entry.id.as_deref() != Some(id), entry.content.is_err())
        })
    }
}

/// The ids of a response up to and including its end-of-sequence token, if it has one.
fn tokens_of(entry: &Entry, prompt: &Prompt, tokenizer: &Tokenizer) -> Result<Vec<u32>, String> {
    let eos = tokenizer.eos_token_ids();
    let (mut tokens, has_ended) = match entry.content.as_ref().map_err(String::clone)? {
        Content::Tokens(tokens) => (tokens.clone(), false),
        Content::Message(message) => {
            let text = tokenizer.answer_text(prompt, message)?;
            let tokens = tokenizer.encode_unchecked(&text, false).map_err(|error| error.to_string())?;
            let again = tokenizer.decode_with_special(&tokens);
            if again != text {
                return Err("its text changes when it is tokenised and decoded".to_owned());
            }
            // Engines write text without its end-of-sequence token, and most responses have ended.
            (tokens, entry.finish.is_none())
        }
    };
    match tokens.iter().position(|id| eos.contains(id)) {
        Some(end) => tokens.truncate(end + 1),
        None if has_ended || entry.finish.as_deref().is_some_and(|reason| ENDED.contains(&reason)) => {
            tokens.push(eos[0]);
        }
        None => {}
    }
    // After the cut: padding behind the end does no harm.
    if let Some(id) = tokens.iter().find(|&&id| tokenizer.id_to_token(id).is_none()) {
        return Err(format!("token id {id} is not in the vocabulary of {}", tokenizer.vocab_size()));
    }
    tokenizer.check_ids(&tokens).map_err(|error| error.to_string())?;
    if tokens.is_empty() { Err("it is empty".to_owned()) } else { Ok(tokens) }
}

#[cfg(test)]
mod tests;
