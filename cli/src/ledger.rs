//! `stages.json`: which stages of a run were started and finished, and under which settings. It is what makes a run
//! restartable: a finished stage is skipped, and one made under other settings is never silently mixed with new ones.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::run_dir::write_text;

/// Everything that decides what a stage makes, flattened to `section.key` and JSON text.
pub type Settings = BTreeMap<String, String>;

/// One stage as recorded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Entry {
    name: String,
    finished: bool,
    settings: Settings,
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
            return Ok(Self { path, entries: Vec::new() });
        }
        let text = fs_err::read_to_string(&path)?;
        let entries = serde_json::from_str(&text).with_context(|| {
            format!("{} is damaged: use another output_dir, or --overwrite to start again", path.display())
        })?;
        Ok(Self { path, entries })
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

    /// How the recorded settings of `name` differ from `settings`: lines of `key: then, now`.
    pub fn changes(&self, name: &str, settings: &Settings) -> Vec<String> {
        let Some(entry) = self.entries.iter().find(|entry| entry.name == name) else { return Vec::new() };
        let keys: std::collections::BTreeSet<&String> =
            entry.settings.keys().chain(settings.keys()).collect();
        let value = |map: &Settings, key: &str| map.get(key).map_or("not set".to_owned(), Clone::clone);
        keys.into_iter()
            .filter(|key| entry.settings.get(*key) != settings.get(*key))
            .map(|key| format!("{key}: was {}, is {}", value(&entry.settings, key), value(settings, key)))
            .collect()
    }

    /// Records that `name` starts under `settings`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn start(&mut self, name: &str, settings: &Settings) -> anyhow::Result<()> {
        self.entries.retain(|entry| entry.name != name);
        self.entries.push(Entry { name: name.into(), finished: false, settings: settings.clone() });
        self.save()
    }

    /// Records that `name` has made all it makes.
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

/// Flattens `value` under `prefix` into `settings`; nulls are left out.
pub fn flatten(prefix: &str, value: &Value, settings: &mut Settings) {
    match value {
        Value::Null => {}
        Value::Object(fields) => {
            for (name, value) in fields {
                flatten(&format!("{prefix}.{name}"), value, settings);
            }
        }
        other => drop(settings.insert(prefix.into(), other.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn settings(value: &Value) -> Settings {
        let mut settings = Settings::new();
        flatten("train", value, &mut settings);
        settings
    }

    #[test]
    fn a_ledger_survives_its_process_and_names_changes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("stages.json");
        let then = settings(&json!({"batch_size": 4, "max_steps": null, "inner": {"rate": 0.5}}));
        let mut ledger = Ledger::open(path.clone()).unwrap();
        assert_eq!(ledger.status("round-1/train"), Status::New);
        ledger.start("round-1/train", &then).unwrap();
        let mut ledger = Ledger::open(path.clone()).unwrap();
        assert_eq!(ledger.status("round-1/train"), Status::Started);
        ledger.finish("round-1/train").unwrap();
        let mut ledger = Ledger::open(path).unwrap();
        assert_eq!(ledger.status("round-1/train"), Status::Finished);
        assert!(ledger.changes("round-1/train", &then).is_empty());
        let now = settings(&json!({"batch_size": 8, "max_steps": 3, "inner": {"rate": 0.5}}));
        let expected = ["train.batch_size: was 4, is 8", "train.max_steps: was not set, is 3"];
        assert_eq!(ledger.changes("round-1/train", &now), expected);
        ledger.keep_only(&[]).unwrap();
        assert_eq!(ledger.status("round-1/train"), Status::New);
    }

    #[test]
    fn a_damaged_ledger_is_an_error_with_a_way_out() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("stages.json");
        fs_err::write(&path, "{").unwrap();
        assert!(Ledger::open(path).unwrap_err().to_string().contains("--overwrite"));
    }
}
