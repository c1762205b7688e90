//! Text to ids and back, with the model's own tokenizer and chat template.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::error::DatasetError;
use crate::prompts::{Message, Prompt, PromptsConfig};

mod answer;
mod chat_format;
mod chat_template;
mod embedding;
mod parts;
mod special_tokens;

use chat_format::ChatFormat;
use special_tokens::SpecialTokens;

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
#[derive(Clone, Debug)]
pub struct Tokenizer {
    dir: PathBuf,
    inner: Arc<tokenizers::Tokenizer>,
    chat: ChatFormat,
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
    /// a tokenizer.json, or if no file names an end-of-sequence token of the vocabulary; `EosToken` for an
    /// `eos_token_id` that is not one.
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
        let failed = |source| DatasetError::Tokenizer { path: path.clone(), source };
        inner.with_truncation(None).map_err(failed)?;
        inner.with_padding(None);
        let config = read_json(&dir.join(TOKENIZER_CONFIG))?;
        let special_tokens = SpecialTokens::read(dir, &config)?;
        let mut hasher = blake3::Hasher::new();
        hasher.update(&bytes);
        let added = special_tokens.add_to(&mut inner, true).map_err(failed)?;
        // Before tokens that have only a name: the model has no embedding of those.
        let eos_token_ids = eos_token_ids(dir, &special_tokens, &inner)?;
        if added + special_tokens.add_to(&mut inner, false).map_err(failed)? > 0 {
            for token in &special_tokens.added {
                hasher.update(token.content.as_bytes());
            }
        }
        Ok(Self {
            chat: ChatFormat::load(dir, &config, special_tokens.named)?,
            eos_token_ids,
            embedding_rows: embedding::embedding_rows(&read_json(&dir.join(CONFIG))?),
            hash: hasher.finalize().to_hex().to_string(),
            dir: dir.to_path_buf(),
            inner: Arc::new(inner),
        })
    }

    /// Ids of a text, without adding special tokens; special tokens in the text become their ids.
    ///
    /// # Errors
    /// `Tokenizer`; `BeyondEmbedding` for a token that the model has no embedding for.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, DatasetError> {
        let ids = self.encode_unchecked(text, false)?;
        self.check_ids(&ids).map(|()| ids)
    }

    /// Ids of a text as the prompt of a base model: with what the tokenizer's post-processor adds, often BOS.
    ///
    /// # Errors
    /// Those of [`Tokenizer::encode`].
    pub fn encode_raw(&self, text: &str) -> Result<Vec<u32>, DatasetError> {
        let ids = self.encode_unchecked(text, true)?;
        self.check_ids(&ids).map(|()| ids)
    }

    /// Also with ids that the model has no embedding for.
    pub(crate) fn encode_unchecked(
        &self,
        text: &str,
        add_special_tokens: bool,
    ) -> Result<Vec<u32>, DatasetError> {
        let encoding = self
            .inner
            .encode_fast(text, add_special_tokens)
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

    /// Ids of a conversation in the model's chat template, with the prompt for the next answer; of its text alone if
    /// prompts are raw.
    ///
    /// # Errors
    /// Those of [`Tokenizer::render_chat`] and [`Tokenizer::encode`].
    pub fn encode_chat<'a>(&self, chat: impl Into<Chat<'a>>) -> Result<Vec<u32>, DatasetError> {
        let ids = self.encode_unchecked(&self.render_chat(chat, true)?, self.chat.raw)?;
        self.check_ids(&ids).map(|()| ids)
    }

    /// Text of a conversation in the model's chat template; the text itself if prompts are raw.
    ///
    /// # Errors
    /// `IncompleteModel` without a template, `ChatTemplate` if it refuses the messages, `Prompts` for a conversation
    /// of several messages if prompts are raw.
    pub fn render_chat<'a>(
        &self,
        chat: impl Into<Chat<'a>>,
        add_generation_prompt: bool,
    ) -> Result<String, DatasetError> {
        self.chat.render(chat.into(), add_generation_prompt)
    }

    /// The same tokenizer with the chat template, its variables and the form of prompts that `prompts` sets.
    ///
    /// # Errors
    /// `Prompts` for settings that exclude each other, `Io`, `ChatTemplate` for a template that does not parse.
    pub fn with_prompts(&self, prompts: &PromptsConfig) -> Result<Self, DatasetError> {
        Ok(Self { chat: self.chat.with_prompts(prompts)?, ..self.clone() })
    }

    /// The same tokenizer with `variables` of the chat template, over those it has.
    #[must_use]
    pub fn with_variables(&self, variables: Map<String, Value>) -> Self {
        let mut tokenizer = self.clone();
        tokenizer.chat.variables.extend(variables);
        tokenizer
    }

    /// The ids that end a response; at least one.
    pub fn eos_token_ids(&self) -> &[u32] {
        &self.eos_token_ids
    }

    /// BLAKE3 of `tokenizer.json` and of tokens that other files add, in hex.
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

/// The end-of-sequence ids of the first of generation_config.json, config.json and tokenizer_config.json that
/// names any.
fn eos_token_ids(
    dir: &Path,
    special_tokens: &SpecialTokens,
    inner: &tokenizers::Tokenizer,
) -> Result<Vec<u32>, DatasetError> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    for file in [GENERATION_CONFIG, CONFIG] {
        let path = dir.join(file);
        let value = &read_json(&path)?["eos_token_id"];
        let ids: Option<Vec<u32>> = match value {
            Value::Null => continue,
            Value::Array(ids) => ids.iter().map(id).collect(),
            value => id(value).map(|id| vec![id]),
        };
        // Also one that is no token: the embedding may have more rows.
        return match ids {
            Some(ids) if !ids.is_empty() => Ok(ids),
            _ => Err(DatasetError::EosToken { path, found: value.to_string() }),
        };
    }
    let id = special_tokens.get("eos_token").and_then(|token| inner.token_to_id(token));
    let lack = "names no end-of-sequence token of the vocabulary: set eos_token_id in generation_config.json";
    id.map(|id| vec![id]).ok_or_else(|| DatasetError::IncompleteModel { dir: dir.to_path_buf(), lack })
}

#[cfg(test)]
mod tests;
