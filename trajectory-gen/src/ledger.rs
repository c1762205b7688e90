//! errors.jsonl: every prompt without a row, and the reason. The next run tries failed prompts again. A prompt
//! whose answer a rule excluded is recorded with its key, and not answered again.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use jacobi_datasets::{DatasetError, write_atomic};
use serde::{Deserialize, Serialize};

use crate::filters::Rule;

/// Name of the file in a directory of shards.
pub const ERRORS_FILE: &str = "errors.jsonl";

/// A prompt without a trajectory: a line of errors.jsonl.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rejected {
    /// Whether a rule excluded it or it failed.
    pub kind: RejectedKind,
    /// The rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Line or row in the prompt file, or the sample's id.
    pub prompt: String,
    /// Why.
    pub reason: String,
    /// Key of the prompt in 32 hex digits; set if it was answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// Whether a rule excluded a prompt or it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RejectedKind {
    /// A rule of the config excluded it.
    Skipped,
    /// It could not be read, rendered or answered.
    Failed,
}

impl Rejected {
    /// A prompt that failed.
    pub(crate) fn failed(prompt: String, reason: String) -> Self {
        Self { kind: RejectedKind::Failed, rule: None, prompt, reason, key: None }
    }

    /// A prompt that a rule excluded; with `key` if it had been answered.
    pub(crate) fn skipped(rule: Rule, prompt: String, reason: String, key: Option<u128>) -> Self {
        let key = key.map(|key| format!("{key:032x}"));
        Self { kind: RejectedKind::Skipped, rule: Some(rule.as_str().to_owned()), prompt, reason, key }
    }
}

/// The open file. Lines are appended; an incomplete last line is ignored.
#[derive(Debug)]
pub(crate) struct Ledger {
    path: PathBuf,
    file: File,
    /// The rules that excluded prompts after earlier runs answered them, by key.
    answered: BTreeMap<u128, Vec<String>>,
}

impl Ledger {
    /// The rules that excluded prompts after earlier runs answered them, by key.
    pub(crate) fn read(dir: &Path) -> Result<BTreeMap<u128, Vec<String>>, DatasetError> {
        let mut answered: BTreeMap<u128, Vec<String>> = BTreeMap::new();
        for (line, key) in kept_lines(dir)? {
            answered.entry(key).or_default().push(line.rule.unwrap_or_default());
        }
        Ok(answered)
    }

    /// Opens the file and removes the lines of prompts that are tried again.
    pub(crate) fn open(dir: &Path) -> Result<Self, DatasetError> {
        let path = dir.join(ERRORS_FILE);
        let kept: String = kept_lines(dir)?.iter().map(|(line, _)| to_line(line)).collect();
        write_atomic(&path, |out| out.write_all(kept.as_bytes()))?;
        let file = fs_err::OpenOptions::new().append(true).open(&path).map_err(io("write", &path))?;
        Ok(Self { answered: Self::read(dir)?, file: file.into_parts().0, path })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes and returns a rule that excluded this prompt in an earlier run.
    pub(crate) fn take(&mut self, key: u128) -> Option<String> {
        self.answered.get_mut(&key)?.pop()
    }

    pub(crate) fn append(&mut self, rejected: &Rejected) -> Result<(), DatasetError> {
        self.file.write_all(to_line(rejected).as_bytes()).map_err(io("write", &self.path))
    }
}

fn to_line(rejected: &Rejected) -> String {
    serde_json::to_string(rejected).expect("a row of names and texts") + "\n"
}

fn kept_lines(dir: &Path) -> Result<Vec<(Rejected, u128)>, DatasetError> {
    let path = dir.join(ERRORS_FILE);
    if !path.is_file() {
        return Ok(Vec::new());
    }
    let bytes = fs_err::read(&path).map_err(io("read", &path))?;
    let text = String::from_utf8_lossy(&bytes);
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Rejected>(line).ok());
    let key = |line: Rejected| {
        let key = u128::from_str_radix(line.key.as_deref()?, 16).ok()?;
        Some((line, key))
    };
    Ok(lines.filter_map(key).collect())
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> DatasetError {
    DatasetError::io(action, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_is_forgotten_and_what_was_answered_is_remembered_even_after_a_torn_line() {
        let dir = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::open(dir.path()).unwrap();
        ledger.append(&Rejected::failed("line 3".into(), "not JSON".into())).unwrap();
        let cut = Rejected::skipped(Rule::ResponseCut, "a".into(), "cut".into(), Some(7));
        ledger.append(&cut).unwrap();
        ledger.append(&cut).unwrap();
        let early = Rejected::skipped(Rule::PromptTooLong, "b".into(), "long".into(), None);
        ledger.append(&early).unwrap();
        assert_eq!(fs_err::read_to_string(ledger.path()).unwrap().lines().count(), 4);
        fs_err::OpenOptions::new()
            .append(true)
            .open(ledger.path())
            .unwrap()
            .write_all(b"{\"kind\": \"skipped\", \"ru")
            .unwrap();
        let mut again = Ledger::open(dir.path()).unwrap();
        assert_eq!(fs_err::read_to_string(again.path()).unwrap().lines().count(), 2);
        assert_eq!([7, 7, 7, 8].map(|key| again.take(key).is_some()), [true, true, false, false]);
    }
}
