//! What a report directory has of an evaluation: under which settings it was begun, its samples so far, whether it is
//! finished.

use std::path::{Path, PathBuf};

use jacobi_datasets::schema::eval_row::{EvalSample, Results};
use jacobi_eval::read_samples;

use crate::exit::UsageError;
use crate::ledger::{Ledger, Settings, Status};
use crate::stages::read_results;

/// The name of an evaluation in its ledger.
const NAME: &str = "eval";
const SAMPLES: &str = "samples.jsonl";
const LEDGER: &str = "eval.json";

/// What of an earlier evaluation is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replace {
    /// Nothing.
    Nothing,
    /// What was measured under other settings.
    Others,
    /// Whatever there is.
    Everything,
}

/// An evaluation in its report directory.
pub struct KeptEval {
    report: PathBuf,
    settings: Settings,
    ledger: Ledger,
}

impl KeptEval {
    /// Looks at what is in `report`, and removes of it what `replace` says.
    ///
    /// # Errors
    /// [`UsageError`] when other settings have measured what is there and it may not be removed.
    pub fn open(report: &Path, settings: Settings, replace: Replace) -> anyhow::Result<Self> {
        let look = || -> anyhow::Result<Self> {
            let ledger = Ledger::open(report.join(LEDGER))?;
            Ok(Self { report: report.to_owned(), settings: settings.clone(), ledger })
        };
        if replace == Replace::Everything {
            remove(report)?;
        }
        let kept = look()?;
        let Some(changes) = kept.changes() else { return Ok(kept) };
        if replace == Replace::Others {
            remove(report)?;
            return look();
        }
        Err(UsageError(format!(
            "{} holds an evaluation under other settings:\n  {}\ngive another --output, or --overwrite to measure again",
            report.display(),
            changes.join("\n  ")
        ))
        .into())
    }

    /// How what is there was made otherwise; none if it was not, or nothing is there.
    fn changes(&self) -> Option<Vec<String>> {
        if !self.samples().exists() {
            return None;
        }
        let changes = match self.ledger.status(NAME) {
            Status::New => vec!["eval: by a version that kept no record of them".to_owned()],
            Status::Started | Status::Finished => self.ledger.changes(NAME, &self.settings),
        };
        Some(changes).filter(|changes| !changes.is_empty())
    }

    /// What was measured, if all of it was and nothing failed: what failed is tried again.
    ///
    /// # Errors
    /// When a file that is there cannot be read.
    pub fn finished(&self) -> anyhow::Result<Option<(Results, Vec<EvalSample>)>> {
        if self.ledger.status(NAME) != Status::Finished || !self.report.join("results.json").exists() {
            return Ok(None);
        }
        let results = read_results(&self.report)?;
        let samples = read_samples(&self.samples())?;
        let failed = samples.iter().any(|sample| sample.error.is_some());
        Ok((!failed).then_some((results, samples)))
    }

    /// Where samples are kept.
    pub fn samples(&self) -> PathBuf {
        self.report.join(SAMPLES)
    }

    /// Everything that decides them.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Records that measuring begins.
    ///
    /// # Errors
    /// When the record cannot be written.
    pub fn start(&mut self) -> anyhow::Result<()> {
        fs_err::create_dir_all(&self.report)?;
        self.ledger.start(NAME, &self.settings)
    }

    /// Records that the report is there.
    ///
    /// # Errors
    /// As [`KeptEval::start`].
    pub fn finish(&mut self) -> anyhow::Result<()> {
        self.ledger.finish(NAME)
    }
}

fn remove(report: &Path) -> anyhow::Result<()> {
    for file in [LEDGER, "results.json", SAMPLES] {
        if report.join(file).exists() {
            fs_err::remove_file(report.join(file))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_continued_refused_or_removed() {
        let dir = tempfile::tempdir().unwrap();
        let settings = |seed: &str| Settings::from([("seed".to_owned(), seed.to_owned())]);
        let open = |seed, replace| KeptEval::open(dir.path(), settings(seed), replace);
        let mut first = open("1", Replace::Nothing).unwrap();
        first.start().unwrap();
        fs_err::write(first.samples(), "").unwrap();
        assert!(open("1", Replace::Nothing).unwrap().finished().unwrap().is_none());
        let message = open("2", Replace::Nothing).err().unwrap().to_string();
        assert!(message.contains("seed: was 1, is 2") && message.contains("--overwrite"), "{message}");
        open("1", Replace::Others).unwrap();
        assert!(first.samples().exists());
        open("2", Replace::Others).unwrap().start().unwrap();
        assert!(!first.samples().exists());
        open("2", Replace::Nothing).unwrap();

        // Samples of which nobody knows how they were made.
        fs_err::write(first.samples(), "").unwrap();
        fs_err::remove_file(dir.path().join(LEDGER)).unwrap();
        assert!(open("2", Replace::Nothing).err().unwrap().to_string().contains("no record"));
        open("2", Replace::Everything).unwrap();
    }
}
