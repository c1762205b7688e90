//! Text to ids and back, with the model's own tokenizer and chat template.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::error::DatasetError;
use crate::prompts::{Message, Prompt};

mod answer;
mod chat_template;
mod embedding;
mod parts;

use chat_template::ChatTemplate;

const TOKENIZER_JSON: &str = "tokenizer.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const CHAT_TEMPLATE: &str = "chat_template.jinja";
const MODEL_INPUT_NAMES: &str = "model_input_names";
const GENERATION_CONFIG: &str = "generation_config.json";
const CONFIG: &str = "config.json";

/// The tokenizer files of a model directory; export copies those that exist.
pub const TOKENIZER_FILES: &[&str] = &[
    TOKENIZER_JSON,
    TOKENIZER_CONFIG,
    CHAT_TEMPLATE,
    GENERATION_CONFIG,
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
];

/// Copies a tokenizer file. Adds `model_input_names` to a tokenizer_config.json without it: otherwise
/// transformers passes `token_type_ids`, which causal models of its version 4 refuse.
///
/// # Errors
/// If `source` cannot be read or `target` cannot be written.
pub fn copy_tokenizer_file(source: &Path, target: &Path) -> std::io::Result<()> {
    if source.file_name().is_some_and(|name| name == TOKENIZER_CONFIG)
        && let Ok(mut config) = serde_json::from_slice::<Map<String, Value>>(&fs_err::read(source)?)
        && !config.contains_key(MODEL_INPUT_NAMES)
    {
        config.insert(MODEL_INPUT_NAMES.to_owned(), json!(["input_ids", "attention_mask"]));
        let text = serde_json::to_string_pretty(&config).expect("a JSON object");
        return fs_err::write(target, text + "\n");
    }
    fs_err::copy(source, target).map(drop)
}

/// What a chat template renders: a conversation, and the tools offered in it as JSON Schemas.
#[derive(Clone, Copy, Debug)]
pub struct Chat<'a> {
    /// The turns.
    pub messages: &'a [Message],
    /// The tools.
    pub tools: Option<&'a [Value]>,
}

impl<'a> From<&'a Prompt> for Chat<'a> {
    fn from(prompt: &'a Prompt) -> Self {
        Self { messages: &prompt.messages, tools: prompt.tools.as_deref() }
    }
}

impl<'a, M: AsRef<[Message]> + ?Sized> From<&'a M> for Chat<'a> {
    fn from(messages: &'a M) -> Self {
        Self { messages: messages.as_ref(), tools: None }
    }
}

/// Tokenizer, chat template and end-of-sequence ids of one model.
#[derive(Debug)]
pub struct Tokenizer {
    dir: PathBuf,
    inner: tokenizers::Tokenizer,
    template: Option<ChatTemplate>,
    /// In place of `template` if tools are offered; for some models.
    tool_template: Option<ChatTemplate>,
    eos_token_ids: Vec<u32>,
    /// Rows of the model's embedding, if config.json says.
    embedding_rows: Option<u64>,
    hash: String,
}

impl Tokenizer {
    /// Reads the tokenizer of a Hugging Face model directory. Only `tokenizer.json` is required; the chat
    /// template is `chat_template.jinja` or an entry of `tokenizer_config.json`.
    ///
    /// # Errors
    /// `Tokenizer`, `Json`, `Io`; `ChatTemplate` for a template that does not parse; `IncompleteModel` without
    /// a tokenizer.json, or if no file names an end-of-sequence token of the vocabulary.
    pub fn load(dir: &Path) -> Result<Self, DatasetError> {
        let path = dir.join(TOKENIZER_JSON);
        if !path.is_file() {
            let lack = "has no tokenizer.json: point model.path at a Hugging Face model directory with a fast tokenizer";
            return Err(DatasetError::IncompleteModel { dir: dir.to_path_buf(), lack });
        }
        let bytes = fs_err::read(&path).map_err(DatasetError::io("read", &path))?;
        let mut inner = tokenizers::Tokenizer::from_bytes(&bytes)
            .map_err(|source| DatasetError::Tokenizer { path: path.clone(), source })?;
        // A tokenizer.json may enable truncation or padding, which would silently change the data.
        inner.with_truncation(None).map_err(|source| DatasetError::Tokenizer { path, source })?;
        inner.with_padding(None);
        let config = read_json(&dir.join(TOKENIZER_CONFIG))?;
        Ok(Self {
            template: load_template(dir, &config, "default")?,
            tool_template: load_template(dir, &config, "tool_use")?,
            eos_token_ids: eos_token_ids(dir, &config, &inner)?,
            embedding_rows: embedding::embedding_rows(&read_json(&dir.join(CONFIG))?),
            hash: blake3::hash(&bytes).to_hex().to_string(),
            dir: dir.to_path_buf(),
            inner,
        })
    }

    /// Ids of a text, without adding special tokens; special tokens in the text become their ids.
    ///
    /// # Errors
    /// `Tokenizer`; `BeyondEmbedding` for a token that the model has no embedding for.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, DatasetError> {
        let ids = self.encode_unchecked(text)?;
        self.check_ids(&ids).map(|()| ids)
    }

    /// As [`Tokenizer::encode`], but with ids that the model has no embedding for.
    pub(crate) fn encode_unchecked(&self, text: &str) -> Result<Vec<u32>, DatasetError> {
        let encoding = self
            .inner
            .encode_fast(text, false)
            .map_err(|source| DatasetError::Tokenizer { path: self.dir.join(TOKENIZER_JSON), source })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Text of ids without special tokens. Ids outside the vocabulary give no text.
    pub fn decode(&self, ids: &[u32]) -> String {
        self.inner.decode(ids, true).expect("decoders of tokenizer.json join strings, which cannot fail")
    }

    /// Text of ids with special tokens.
    pub fn decode_with_special(&self, ids: &[u32]) -> String {
        self.inner.decode(ids, false).expect("decoders of tokenizer.json join strings, which cannot fail")
    }

    /// Ids of a conversation in the model's chat template, with the prompt for the next answer.
    ///
    /// # Errors
    /// `IncompleteModel` without a template, `ChatTemplate` if it refuses the messages, those of
    /// [`Tokenizer::encode`].
    pub fn encode_chat<'a>(&self, chat: impl Into<Chat<'a>>) -> Result<Vec<u32>, DatasetError> {
        self.encode(&self.render_chat(chat, true)?)
    }

    /// Text of a conversation in the model's chat template.
    ///
    /// # Errors
    /// `IncompleteModel` without a template, `ChatTemplate` if it refuses the messages.
    pub fn render_chat<'a>(
        &self,
        chat: impl Into<Chat<'a>>,
        add_generation_prompt: bool,
    ) -> Result<String, DatasetError> {
        let chat: Chat = chat.into();
        let dir = || self.dir.clone();
        let lack = "has no chat template: add chat_template.jinja, or give the prompts without a template";
        let for_tools = self.tool_template.as_ref().filter(|_| chat.tools.is_some());
        let template = for_tools
            .or(self.template.as_ref())
            .ok_or_else(|| DatasetError::IncompleteModel { dir: dir(), lack })?;
        parts::render(template, chat, add_generation_prompt)
            .map_err(|source| DatasetError::ChatTemplate { dir: dir(), source })
    }

    /// The ids that end a response; at least one.
    pub fn eos_token_ids(&self) -> &[u32] {
        &self.eos_token_ids
    }

    /// BLAKE3 of `tokenizer.json`, in hex.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// Size of the vocabulary with added tokens. The model's embedding may have more rows.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The token of an id, as spelled in the vocabulary.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }
}

/// The content of a JSON file; null if there is no file.
fn read_json(path: &Path) -> Result<Value, DatasetError> {
    if !path.is_file() {
        return Ok(Value::Null);
    }
    let bytes = fs_err::read(path).map_err(DatasetError::io("read", path))?;
    serde_json::from_slice(&bytes).map_err(|source| DatasetError::Json {
        path: path.to_path_buf(),
        expected: "a JSON object",
        source,
    })
}

/// As transformers does: the file takes precedence over the entry. `name` is the one to take of several named
/// templates; a single template is `default`.
fn load_template(dir: &Path, config: &Value, name: &str) -> Result<Option<ChatTemplate>, DatasetError> {
    let is_default = name == "default";
    let path = dir.join(CHAT_TEMPLATE);
    let source = if path.is_file() {
        is_default
            .then(|| fs_err::read_to_string(&path).map_err(DatasetError::io("read", &path)))
            .transpose()?
    } else {
        match &config["chat_template"] {
            Value::String(source) => is_default.then(|| source.clone()),
            Value::Array(named) => {
                let entry = named.iter().find(|entry| entry["name"] == name);
                entry.and_then(|entry| entry["template"].as_str()).map(str::to_owned)
            }
            _ => None,
        }
    };
    let parse = |source: String| ChatTemplate::new(&source, special_tokens(config));
    let template = source.map(parse).transpose();
    template.map_err(|source| DatasetError::ChatTemplate { dir: dir.to_path_buf(), source })
}

/// `bos_token`, `eos_token` and other special tokens, by their names in templates.
fn special_tokens(config: &Value) -> Vec<(String, String)> {
    let entries = config.as_object().into_iter().flatten();
    entries
        .filter(|(name, _)| name.ends_with("_token"))
        .filter_map(|(name, value)| Some((name.clone(), token_text(value)?.to_owned())))
        .collect()
}

/// A special token is a string, or an object with its flags.
fn token_text(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value["content"].as_str())
}

/// The end-of-sequence ids of the first of generation_config.json, config.json and tokenizer_config.json that
/// names any.
fn eos_token_ids(
    dir: &Path,
    tokenizer_config: &Value,
    inner: &tokenizers::Tokenizer,
) -> Result<Vec<u32>, DatasetError> {
    let ids_of = |value: &Value| -> Vec<u32> {
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        match value {
            Value::Array(ids) => ids.iter().filter_map(id).collect(),
            value => id(value).into_iter().collect(),
        }
    };
    for file in [GENERATION_CONFIG, CONFIG] {
        let ids = ids_of(&read_json(&dir.join(file))?["eos_token_id"]);
        if !ids.is_empty() {
            return Ok(ids);
        }
    }
    let id = token_text(&tokenizer_config["eos_token"]).and_then(|token| inner.token_to_id(token));
    let lack = "names no end-of-sequence token of the vocabulary: set eos_token_id in generation_config.json";
    id.map(|id| vec![id]).ok_or_else(|| DatasetError::IncompleteModel { dir: dir.to_path_buf(), lack })
}

#[cfg(test)]
mod tests;
