//! Special and added tokens from all files of a tokenizer, with the precedence of transformers 5: `added_tokens_decoder`
//! of tokenizer_config.json replaces special_tokens_map.json and added_tokens.json, which override tokenizer_config.json.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};
use tokenizers::AddedToken;

use super::read_json;
use crate::error::DatasetError;

const MAP: &str = "special_tokens_map.json";
const ADDED: &str = "added_tokens.json";

/// The tokens that the files name.
pub(super) struct SpecialTokens {
    /// `bos_token`, `eos_token` and others, by their names in templates.
    pub(super) named: Vec<(String, String)>,
    /// Tokens that the tokenizer has to know, in the order in which they get ids.
    pub(super) added: Vec<AddedToken>,
    /// How many of them, from the first, have an id in a file; the others only have a name.
    numbered: usize,
    /// Whether they come from `added_tokens_decoder`, whose flags replace those of tokenizer.json.
    is_decoder: bool,
}

impl SpecialTokens {
    /// Reads the files of `dir`; `config` is the content of tokenizer_config.json.
    ///
    /// # Errors
    /// `Json`, `Io`.
    pub(super) fn read(dir: &Path, config: &Value) -> Result<Self, DatasetError> {
        let mut entries = config.as_object().cloned().unwrap_or_default();
        let mut added: BTreeMap<u64, AddedToken> = BTreeMap::new();
        let is_decoder = entries.contains_key("added_tokens_decoder");
        if let Some(decoder) = entries.get("added_tokens_decoder") {
            let tokens = decoder.as_object().into_iter().flatten();
            added
                .extend(tokens.filter_map(|(id, token)| Some((id.parse().ok()?, added_token(token, None)?))));
        } else {
            for (name, value) in object(dir, MAP)? {
                merge(&mut entries, name, value);
            }
            let special = special_texts(&entries);
            for (text, id) in object(dir, ADDED)? {
                let token = AddedToken::from(text.clone(), special.contains(&text));
                added.extend(id.as_u64().map(|id| (id, token)));
            }
        }
        let named = named(&entries);
        let mut added: Vec<AddedToken> = added.into_values().collect();
        let numbered = added.len();
        let mut add = |token: AddedToken| {
            if !added.iter().any(|known| known.content == token.content) {
                added.push(token);
            }
        };
        for (name, text) in &named {
            add(entries
                .get(name)
                .and_then(|value| added_token(value, Some(true)))
                .unwrap_or_else(|| AddedToken::from(text, true)));
        }
        extra(&entries).filter_map(|value| added_token(value, Some(true))).for_each(add);
        Ok(Self { named, added, numbered, is_decoder })
    }

    /// The text of a named token.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.named.iter().find(|(known, _)| known == name).map(|(_, text)| text.as_str())
    }

    /// Adds what `tokenizer` does not know yet of the tokens with an id, or of those with only a name, and says how
    /// many that were.
    pub(super) fn add_to(
        &self,
        tokenizer: &mut tokenizers::Tokenizer,
        numbered: bool,
    ) -> tokenizers::Result<usize> {
        let (with_id, with_name) = self.added.split_at(self.numbered);
        let known = tokenizer.get_added_tokens_decoder();
        let is_new = |token: &&AddedToken| match known.values().find(|known| known.content == token.content) {
            Some(known) => self.is_decoder && numbered && known != *token,
            None => true,
        };
        let new: Vec<AddedToken> =
            (if numbered { with_id } else { with_name }).iter().filter(is_new).cloned().collect();
        tokenizer.add_tokens(new)
    }
}

fn object(dir: &Path, name: &str) -> Result<Map<String, Value>, DatasetError> {
    let path = dir.join(name);
    match read_json(&path)? {
        Value::Null => Ok(Map::new()),
        value => serde_json::from_value(value).map_err(|source| DatasetError::Json {
            path,
            expected: "a JSON object of tokens",
            source,
        }),
    }
}

/// An entry of special_tokens_map.json replaces that of tokenizer_config.json; lists of extra tokens are joined.
fn merge(entries: &mut Map<String, Value>, name: String, value: Value) {
    match (entries.get_mut(&name), value) {
        (Some(Value::Array(known)), Value::Array(more)) if name == "extra_special_tokens" => {
            let new: Vec<Value> = more.into_iter().filter(|token| !known.contains(token)).collect();
            known.extend(new);
        }
        (_, value) => drop(entries.insert(name, value)),
    }
}

fn named(entries: &Map<String, Value>) -> Vec<(String, String)> {
    let ours = entries.iter().filter(|(name, _)| name.ends_with("_token"));
    let extra = entries.get("extra_special_tokens").and_then(Value::as_object).into_iter().flatten();
    ours.chain(extra)
        .filter_map(|(name, value)| Some((name.clone(), token_text(value)?.to_owned())))
        .collect()
}

/// The special tokens without names.
fn extra(entries: &Map<String, Value>) -> impl Iterator<Item = &Value> {
    let lists = ["extra_special_tokens", "additional_special_tokens"];
    lists.into_iter().filter_map(|name| entries.get(name)?.as_array()).flatten()
}

fn special_texts(entries: &Map<String, Value>) -> Vec<String> {
    let extra = extra(entries).filter_map(token_text).map(str::to_owned);
    named(entries).into_iter().map(|(_, text)| text).chain(extra).collect()
}

/// A special token is a string, or an object with its flags.
fn token_text(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value["content"].as_str()).filter(|text| !text.is_empty())
}

fn added_token(value: &Value, special: Option<bool>) -> Option<AddedToken> {
    let flag = |name: &str| value[name].as_bool();
    let special = special.or_else(|| flag("special")).unwrap_or(false);
    Some(
        AddedToken::from(token_text(value)?, special)
            .single_word(flag("single_word").unwrap_or(false))
            .lstrip(flag("lstrip").unwrap_or(false))
            .rstrip(flag("rstrip").unwrap_or(false))
            .normalized(flag("normalized").unwrap_or(!special)),
    )
}
