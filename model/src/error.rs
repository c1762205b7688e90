//! Failures of loading and saving a model.

use std::path::{Path, PathBuf};

/// A failure of loading or saving a model. Every message names the file and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The path is not a directory.
    #[error(
        "no model directory at {path}: give a local Hugging Face directory (config.json, *.safetensors), or ORG/NAME of the hub"
    )]
    NoDirectory {
        /// The path given.
        path: PathBuf,
    },
    /// The directory lacks a file that every model has.
    #[error("{dir} holds no {file}: it is {}", match crate::StoredAdapter::is_at(dir) {
        true => "an adapter, not a model: give it as --adapter",
        false => "not a complete Hugging Face model directory",
    })]
    MissingFile {
        /// The model directory.
        dir: PathBuf,
        /// The absent file.
        file: String,
    },
    /// The directory lacks a file that every adapter has.
    #[error("{dir} holds no {file}: {}", match (dir.is_dir(), dir.join("config.json").is_file() && !crate::StoredAdapter::is_at(dir)) {
        (false, _) => "there is no such directory",
        (true, true) => "it is a model, not an adapter",
        (true, false) => "it is not an adapter directory of PEFT (adapter_config.json, adapter_model.safetensors)",
    })]
    NoAdapter {
        /// The adapter's directory.
        dir: PathBuf,
        /// The absent file.
        file: String,
    },
    /// Weights in a format that is not read.
    #[error("{dir} holds no model.safetensors but {file}, which is not read: {remedy}")]
    OtherFormat {
        /// The model directory.
        dir: PathBuf,
        /// The file.
        file: String,
        /// What to do with it.
        remedy: &'static str,
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
    /// A JSON field that is missing, of the wrong type, unknown, or has an unsupported value.
    #[error("{path}: `{field}` {problem}")]
    Field {
        /// The file.
        path: PathBuf,
        /// The field's name.
        field: String,
        /// What is wrong, with the value and what would work.
        problem: String,
    },
    /// A weight file that is truncated or damaged.
    #[error("{path} is not a whole safetensors file: copy or download it again")]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// The parser's own message.
        source: safetensors::SafeTensorError,
    },
    /// A weight file that was changed or replaced after it was opened.
    #[error("{path} has changed since it was opened: run the command again when its directory is complete")]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// Weights could not be written.
    #[error("cannot write {path}: is the disk full?")]
    Unwritten {
        /// The file.
        path: PathBuf,
        /// The writer's own message.
        source: safetensors::SafeTensorError,
    },
    /// A tensor that is missing, unknown, damaged, or has another shape or dtype than the model needs.
    #[error("{path}: tensor `{name}` {problem}")]
    Tensor {
        /// The model directory or weight file.
        path: PathBuf,
        /// The tensor's name there.
        name: String,
        /// What is wrong, with the value and what would work.
        problem: String,
    },
}

impl ModelError {
    pub(crate) fn json(path: &Path, source: serde_json::Error) -> Self {
        Self::Json { path: path.to_path_buf(), source }
    }

    pub(crate) fn field(path: &Path, field: &str, problem: impl Into<String>) -> Self {
        Self::Field { path: path.to_path_buf(), field: field.to_owned(), problem: problem.into() }
    }

    pub(crate) fn tensor(path: &Path, name: &str, problem: impl Into<String>) -> Self {
        Self::Tensor { path: path.to_path_buf(), name: name.to_owned(), problem: problem.into() }
    }
}
