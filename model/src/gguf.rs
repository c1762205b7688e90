//! GGUF files (llama.cpp's format, versions 2 and 3) turned into Hugging Face model directories.
//!
//! [`convert()`] dequantises every tensor, gives it its Hugging Face name and writes `model.safetensors` in bf16 beside
//! `config.json` and `generation_config.json`. The tokenizer is handed back as plain lists, because text is not this
//! crate's business. Only the `llama` architecture is understood; whatever is not understood is an error by name.

mod blocks;
mod convert;
mod reader;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

pub use blocks::BlockType;
pub use convert::convert;
pub use reader::{GgufFile, TensorInfo, Value};

/// What a GGUF file says about its tokenizer, in plain lists. Index in `tokens` is the token id.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenizerMetadata {
    /// `tokenizer.ggml.model`: the algorithm, for instance `gpt2` (byte-level BPE).
    pub model: String,
    /// `tokenizer.ggml.pre`: the name of the pre-tokenizer.
    pub pre: String,
    /// Every token, in the byte-level alphabet where `model` has one.
    pub tokens: Vec<String>,
    /// llama.cpp's kind of each token: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte.
    pub token_types: Vec<u32>,
    /// BPE merges, best first, the two parts separated by a space.
    pub merges: Vec<String>,
    /// The chat template (Jinja).
    pub chat_template: Option<String>,
    /// Id of the token that begins a text.
    pub bos_token_id: Option<u32>,
    /// Id of the token that ends an answer.
    pub eos_token_id: Option<u32>,
    /// Id of the token for what has none.
    pub unknown_token_id: Option<u32>,
    /// Id of the token that fills batches.
    pub padding_token_id: Option<u32>,
    /// A space is put before the text.
    pub add_space_prefix: bool,
    /// The beginning token is put before the text.
    pub add_bos_token: bool,
    /// Longest context of the model, in tokens.
    pub context_length: usize,
}

/// A failure of reading or converting a GGUF file. Every variant names the file.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    /// Reading or writing failed; the source names the path.
    #[error("cannot access the files of the conversion")]
    Io(#[from] std::io::Error),
    /// The file does not begin with `GGUF`.
    #[error("{path} is not a GGUF file: it begins with {found:?} instead of \"GGUF\"")]
    BadMagic {
        /// The file.
        path: PathBuf,
        /// Its first bytes, as text.
        found: String,
    },
    /// A version of the format that is not read.
    #[error("{path}: GGUF version {found} is not supported (supported: 2 and 3, little-endian)")]
    UnsupportedVersion {
        /// The file.
        path: PathBuf,
        /// The version it states.
        found: u32,
    },
    /// The file ends inside something it announces.
    #[error(
        "{path} is truncated: {what} needs {need} bytes at offset {offset}, the file has {size}; copy or download it again"
    )]
    Truncated {
        /// The file.
        path: PathBuf,
        /// What was being read.
        what: String,
        /// Where it starts.
        offset: u64,
        /// How long it is.
        need: u64,
        /// Length of the file.
        size: u64,
    },
    /// Bytes that no writer of the format produces.
    #[error("{path} is malformed: {what}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the value.
        what: String,
    },
    /// A metadata key that the conversion needs is absent or of another type.
    #[error("{path}: metadata `{key}` is missing or not {expected}")]
    MissingMetadata {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// The type it should have.
        expected: &'static str,
    },
    /// A metadata value that the conversion would get wrong.
    #[error("{path}: metadata `{key}` = {value} is not supported ({supported})")]
    UnsupportedMetadata {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// Its value.
        value: String,
        /// What would work.
        supported: String,
    },
    /// A tensor in a storage format that is not dequantised.
    #[error("{path}: tensor `{tensor}` is stored as {found}; supported: {supported}")]
    UnsupportedTensorType {
        /// The file.
        path: PathBuf,
        /// The tensor's name in the file.
        tensor: String,
        /// The name of its type.
        found: String,
        /// The types that would work.
        supported: String,
    },
    /// A tensor that the architecture has no place for.
    #[error("{path}: tensor `{tensor}` has no place in the llama architecture as supported here")]
    UnknownTensor {
        /// The file.
        path: PathBuf,
        /// The tensor's name in the file.
        tensor: String,
    },
    /// A tensor of another shape than the metadata calls for, or none at all.
    #[error("{path}: tensor `{tensor}` should have shape {expected:?}, the file has {found:?}")]
    WrongShape {
        /// The file.
        path: PathBuf,
        /// The tensor's name in the file.
        tensor: String,
        /// Rows first.
        expected: Vec<usize>,
        /// Rows first; `None` when the tensor is absent.
        found: Option<Vec<usize>>,
    },
    /// The safetensors file could not be written.
    #[error("cannot write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// The format's own message.
        source: safetensors::SafeTensorError,
    },
}

impl GgufError {
    fn malformed(path: &Path, what: impl Into<String>) -> Self {
        Self::Malformed { path: path.to_path_buf(), what: what.into() }
    }
}
