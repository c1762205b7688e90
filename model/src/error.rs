//! Everything that can go wrong between a model directory and a running model.

use std::path::{Path, PathBuf};

/// A failure of loading or saving a model. Every variant names the file and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The path is no directory at all.
    #[error(
        "no model directory at {path}: give a local Hugging Face directory (config.json, *.safetensors), or ORG/NAME of the hub"
    )]
    NoDirectory {
        /// What was asked for.
        path: PathBuf,
    },
    /// The directory lacks a file that every model has.
    #[error("{dir} holds no {file}: it is not a complete Hugging Face model directory")]
    MissingFile {
        /// The model directory.
        dir: PathBuf,
        /// The absent file.
        file: String,
    },
    /// Reading or writing failed; the source names the path.
    #[error("cannot access the model files")]
    Io(#[from] std::io::Error),
    /// A JSON file does not parse.
    #[error("{path} is not valid JSON: is the file truncated?")]
    Json {
        /// The file.
        path: PathBuf,
        /// The parser's own message, with line and column.
        source: serde_json::Error,
    },
    /// `architectures`/`model_type` name a family that is not built.
    #[error("{path}: architecture {found:?} is not supported; supported: {supported}")]
    UnsupportedArchitecture {
        /// config.json.
        path: PathBuf,
        /// What it says.
        found: String,
        /// What would work.
        supported: String,
    },
    /// A field has a value that this implementation would silently get wrong.
    #[error("{path}: `{field}` = {value} is not supported ({supported})")]
    UnsupportedValue {
        /// config.json.
        path: PathBuf,
        /// The field's name.
        field: String,
        /// Its value.
        value: String,
        /// What would work.
        supported: String,
    },
    /// A field whose meaning is not known here, and might change the model.
    #[error(
        "{path}: field `{field}` is not known, and ignoring it could change the model; remove it if it is only a note"
    )]
    UnknownField {
        /// config.json.
        path: PathBuf,
        /// The field's name.
        field: String,
    },
    /// A field that is needed, or of another type.
    #[error("{path}: field `{field}` is missing or not {expected}")]
    MissingField {
        /// config.json.
        path: PathBuf,
        /// The field's name.
        field: String,
        /// The type it should have.
        expected: &'static str,
    },
    /// A weight file that is not whole.
    #[error("{path} is not a whole safetensors file: copy or download it again")]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// What the format's own reader says.
        source: safetensors::SafeTensorError,
    },
    /// Weights that did not reach the disk.
    #[error("cannot write {path}: is the disk full?")]
    Unwritten {
        /// The file.
        path: PathBuf,
        /// What the format's own writer says.
        source: safetensors::SafeTensorError,
    },
    /// A tensor that config.json calls for is in no file.
    #[error("{dir}: tensor `{name}` {shape:?} is missing from the weights")]
    MissingTensor {
        /// The model directory.
        dir: PathBuf,
        /// Its Hugging Face name.
        name: String,
        /// The shape it should have.
        shape: Vec<i64>,
    },
    /// A tensor that the architecture has no place for.
    #[error(
        "{dir}: tensor `{name}` belongs to no part of this architecture; does config.json match the weights?"
    )]
    ExtraTensor {
        /// The model directory.
        dir: PathBuf,
        /// Its name in the file.
        name: String,
    },
    /// A tensor of another shape than config.json says.
    #[error("{dir}: tensor `{name}` has shape {found:?}, config.json calls for {expected:?}")]
    WrongShape {
        /// The model directory.
        dir: PathBuf,
        /// Its Hugging Face name.
        name: String,
        /// The shape in the file.
        found: Vec<i64>,
        /// The shape of the architecture.
        expected: Vec<i64>,
    },
    /// A quantised or integer tensor.
    #[error("{path}: tensor `{name}` is stored as {dtype}; supported: F32, F16, BF16")]
    UnsupportedTensorDtype {
        /// The weight file.
        path: PathBuf,
        /// Its name.
        name: String,
        /// The dtype in the file.
        dtype: String,
    },
    /// A weight that is NaN or infinite.
    #[error(
        "{dir}: tensor `{name}` contains NaN or infinity: the model is damaged. If it was copied or downloaded, do that \
         again; if it was trained, take an earlier checkpoint and train on with a lower train.learning_rate"
    )]
    NonFinite {
        /// The model directory.
        dir: PathBuf,
        /// Its name.
        name: String,
    },
    /// `lm_head.weight` differs from the embedding although config.json ties them.
    #[error("{dir}: tie_word_embeddings is true, but lm_head.weight differs from model.embed_tokens.weight")]
    UntiedHead {
        /// The model directory.
        dir: PathBuf,
    },
    /// libtorch refused an operation on outside data.
    #[error("libtorch failed on tensor `{name}`")]
    Torch {
        /// The tensor.
        name: String,
        /// libtorch's message.
        source: tch::TchError,
    },
}

impl ModelError {
    pub(crate) fn json(path: &Path, source: serde_json::Error) -> Self {
        Self::Json { path: path.to_path_buf(), source }
    }
}
