//! `stages.json`: which stages of a run were started and finished, and under which settings. So a run can be restarted:
//! a finished stage is skipped, and results of other settings are never mixed with new ones.

use std::path::PathBuf;

use anyhow::Context;
use jacobi_datasets::{Differences, RecordedSettings};
use serde::{Deserialize, Serialize};

use crate::run_dir::write_text;

/// One stage as recorded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Entry {
    name: String,
    finished: bool,
    settings: RecordedSettings,
}

/// The record of a run's stages, saved whole after every change.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    entries: Vec<Entry>,
}

/// How far a stage is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Never started.
    New,
    /// Started and not finished: it will resume.
    Started,
    /// Finished: it will be skipped.
    Finished,
}

impl Ledger {
    /// The ledger at `path`, empty when there is none yet.
    ///
    /// # Errors
    /// When the file cannot be read or is not a ledger.
    pub fn open(path: PathBuf) -> anyhow::Result<Self> {
        if !path.is_file() {
            return Ok(Self::empty(path));
        }
        let text = fs_err::read_to_string(&path)?;
        let entries = serde_json::from_str(&text).with_context(|| {
            format!("{} is damaged: use another output_dir, or --overwrite to start again", path.display())
        })?;
        Ok(Self { path, entries })
    }

    /// A ledger without stages, whatever is at `path`; its first change replaces the file.
    pub fn empty(path: PathBuf) -> Self {
        Self { path, entries: Vec::new() }
    }

    /// How far the stage `name` is.
    pub fn status(&self, name: &str) -> Status {
        match self.entries.iter().find(|entry| entry.name == name) {
            None => Status::New,
            Some(entry) if entry.finished => Status::Finished,
            Some(_) => Status::Started,
        }
    }

    /// The stages recorded, in the order they were started.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|entry| entry.name.as_str())
    }

    /// How `settings` differ from those recorded of `name`.
    pub fn changes(&self, name: &str, settings: &RecordedSettings) -> Differences {
        let entry = self.entries.iter().find(|entry| entry.name == name);
        entry.map_or_else(Differences::default, |entry| settings.differences(&entry.settings))
    }

    /// Records that `name` starts under `settings`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn start(&mut self, name: &str, settings: &RecordedSettings) -> anyhow::Result<()> {
        self.entries.retain(|entry| entry.name != name);
        self.entries.push(Entry { name: name.into(), finished: false, settings: settings.clone() });
        self.save()
    }

    /// Records that `name` has finished.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn finish(&mut self, name: &str) -> anyhow::Result<()> {
        for entry in self.entries.iter_mut().filter(|entry| entry.name == name) {
            entry.finished = true;
        }
        self.save()
    }

    /// Keeps only the stages in `names`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn keep_only(&mut self, names: &[&str]) -> anyhow::Result<()> {
        self.entries.retain(|entry| names.contains(&entry.name.as_str()));
        self.save()
    }

    fn save(&self) -> anyhow::Result<()> {
        write_text(&self.path, &(serde_json::to_string_pretty(&self.entries)? + "\n"))
    }
}

#[cfg(test)]
mod tests;
