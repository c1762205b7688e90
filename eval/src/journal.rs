//! The file of finished samples, from which a killed evaluation resumes.
//!
//! A prompt is kept when every decoder has answered it. Otherwise all of them measure it again: figures of one
//! prompt are compared with each other, so they must come from one process. A process that appends to the file is
//! called a sitting.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use jacobi_datasets::schema::eval_row::{EvalSample, decoder_label};

use crate::EvalError;

/// The samples of an evaluation, kept in a file.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
    kept: HashMap<String, EvalSample>,
    /// Number of this sitting, from 1.
    pub(crate) sitting: usize,
}

impl Journal {
    /// Opens `path` and reads its samples; creates it, with its directory, if missing. An incomplete last line,
    /// written when the process was killed, is removed.
    pub(crate) fn open(path: &Path) -> Result<Self, EvalError> {
        let io = |source| EvalError::Journal { path: path.to_owned(), source };
        if let Some(dir) = path.parent() {
            fs_err::create_dir_all(dir).map_err(io)?;
        }
        let mut options = fs_err::OpenOptions::new();
        let file = options.read(true).append(true).create(true).open(path).map_err(io)?;
        let text = fs_err::read(path).map_err(io)?;
        let whole = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
        let mut kept = HashMap::new();
        let mut sitting = 0;
        for (line, bytes) in text[..whole].split_inclusive(|&byte| byte == b'\n').enumerate() {
            let sample = parse(path, line + 1, bytes)?;
            sitting = sitting.max(sample.sitting);
            kept.insert(key(&sample), sample);
        }
        let (file, _) = file.into_parts();
        file.set_len(whole as u64).map_err(io)?;
        Ok(Self { path: path.to_owned(), file, kept, sitting: sitting + 1 })
    }

    /// The kept samples of one prompt with the models, tasks, decoders and prompts of `wanted`; `None` if one of
    /// them is missing or has an error.
    pub(crate) fn take(&mut self, wanted: &[EvalSample]) -> Option<Vec<EvalSample>> {
        let found = |wanted: &EvalSample| self.kept.get(&key(wanted)).filter(|s| s.error.is_none()).cloned();
        wanted.iter().map(found).collect()
    }

    /// Appends the samples of one prompt and waits until they are on disk.
    pub(crate) fn append(&mut self, samples: &[EvalSample]) -> Result<(), EvalError> {
        let mut text = String::new();
        for sample in samples {
            text += &serde_json::to_string(sample).expect("a sample has a JSON form");
            text.push('\n');
        }
        let written = self.file.write_all(text.as_bytes()).and_then(|()| self.file.sync_data());
        written.map_err(|source| EvalError::Journal { path: self.path.clone(), source })
    }
}

fn key(sample: &EvalSample) -> String {
    let role = sample.model_role.as_str();
    let settings = serde_json::Value::Object(sample.decoder_settings.clone());
    let decoder = decoder_label(&sample.decoder, &sample.decoder_settings);
    // The label leaves out some settings.
    [role, &sample.model, &sample.task, &decoder, &settings.to_string(), &sample.sample_id].join("\0")
}

/// All samples of the file, in order.
///
/// # Errors
/// [`EvalError::Journal`], [`EvalError::JournalLine`].
pub fn read_samples(path: &Path) -> Result<Vec<EvalSample>, EvalError> {
    let text = fs_err::read_to_string(path)
        .map_err(|source| EvalError::Journal { path: path.to_owned(), source })?;
    text.lines().enumerate().map(|(index, line)| parse(path, index + 1, line.as_bytes())).collect()
}

fn parse(path: &Path, line: usize, bytes: &[u8]) -> Result<EvalSample, EvalError> {
    serde_json::from_slice(bytes).map_err(|source| EvalError::JournalLine {
        path: path.to_owned(),
        line,
        source,
    })
}

#[cfg(test)]
mod tests;
