//! Samples as they are finished: a file to which those of each prompt are appended, so that an evaluation that was
//! killed goes on from there.
//!
//! A prompt is kept when every decoder has answered it. One that was broken off in the middle is measured again by all of
//! them: figures of one prompt are held against each other, so they belong to one sitting.

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
    /// Which sitting this is, from 1.
    pub(crate) sitting: usize,
}

impl Journal {
    /// Opens `path`, which is made with its directory if missing, and reads what is in it. A last line that was cut short
    /// is removed: the process was killed while it wrote.
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

    /// The samples of one prompt, if every one of `wanted` was answered. Each of `wanted` names one of them: model, task,
    /// decoder and prompt are what counts.
    pub(crate) fn take(&mut self, wanted: &[EvalSample]) -> Option<Vec<EvalSample>> {
        let found = |wanted: &EvalSample| self.kept.get(&key(wanted)).filter(|s| s.error.is_none()).cloned();
        wanted.iter().map(found).collect()
    }

    /// Keeps the samples of one prompt; when this returns they are on the disk.
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
    // Settings that the label leaves out tell decoders apart too.
    [role, &sample.model, &sample.task, &decoder, &settings.to_string(), &sample.sample_id].join("\0")
}

/// The samples in a file of samples, in their order.
///
/// # Errors
/// The file cannot be read, or a line of it is not a sample.
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
mod tests {
    use super::*;
    use crate::fixtures::sample;

    fn of(decoder: &str, id: &str) -> EvalSample {
        let mut sample = sample(decoder, 8, 4, 1.0);
        sample.sample_id = id.to_owned();
        sample
    }

    #[test]
    fn a_prompt_is_kept_when_every_decoder_has_answered_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("report").join("samples.jsonl");
        let mut journal = Journal::open(&path).unwrap();
        assert_eq!(journal.sitting, 1);
        let prompts = ["a", "b", "c"].map(|id| [of("ar", id), of("jacobi", id)]);
        journal.append(&prompts[0]).unwrap();
        journal.append(&prompts[1][..1]).unwrap();
        let mut failed = prompts[2].clone();
        failed[1].error = Some("x".to_owned());
        journal.append(&failed).unwrap();
        let mut journal = Journal::open(&path).unwrap();
        assert_eq!(journal.sitting, 2);
        assert_eq!(journal.take(&prompts[0]).as_deref(), Some(&prompts[0][..]));
        assert_eq!((journal.take(&prompts[1]), journal.take(&prompts[2])), (None, None));
        let mut other = prompts[0].clone();
        other[1].decoder_settings.insert("spawn_ratio".to_owned(), 0.5.into());
        assert_eq!(journal.take(&other), None);
    }

    #[test]
    fn a_line_cut_short_is_removed_and_a_damaged_one_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("samples.jsonl");
        Journal::open(&path).unwrap().append(&[of("ar", "a"), of("ar", "b")]).unwrap();
        let whole = fs_err::read_to_string(&path).unwrap();
        let first = whole.split_inclusive('\n').next().unwrap();
        for cut in [1, 40, whole.len() - first.len() - 1] {
            fs_err::write(&path, &whole[..first.len() + cut]).unwrap();
            let mut journal = Journal::open(&path).unwrap();
            assert!(journal.take(&[of("ar", "a")]).is_some() && journal.take(&[of("ar", "b")]).is_none());
            assert_eq!(fs_err::read_to_string(&path).unwrap(), first);
            journal.append(&[of("ar", "b")]).unwrap();
            assert_eq!(read_samples(&path).unwrap(), [of("ar", "a"), of("ar", "b")]);
        }
        fs_err::write(&path, format!("{first}{{oops}}\n")).unwrap();
        let message = Journal::open(&path).unwrap_err().to_string();
        assert!(message.contains("samples.jsonl:2") && message.contains("--overwrite"), "{message}");
    }
}
