//! The state of an evaluation in its report directory: its settings, the samples so far, whether it is finished.

use std::path::{Path, PathBuf};

use jacobi_datasets::schema::eval_row::{EvalSample, Results};
use jacobi_datasets::{Difference, Differences, RecordedSettings};
use jacobi_eval::read_samples;

use crate::exit::UsageError;
use crate::ledger::{Ledger, Status};
use crate::stages::read_results;

/// The name of an evaluation in its ledger.
const NAME: &str = "eval";
const SAMPLES: &str = "samples.jsonl";
const LEDGER: &str = "eval.json";

/// Which earlier evaluations are removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replace {
    /// Nothing.
    Nothing,
    /// Those with other settings.
    Others,
    /// All.
    Everything,
}

/// An evaluation in its report directory.
pub struct KeptEval {
    report: PathBuf,
    settings: RecordedSettings,
    ledger: Ledger,
}

impl KeptEval {
    /// Opens the evaluation in `report`. An earlier one is removed first if `replace` asks for it.
    ///
    /// # Errors
    /// [`UsageError`] when it has other settings and `replace` keeps it.
    pub fn open(report: &Path, settings: RecordedSettings, replace: Replace) -> anyhow::Result<Self> {
        let open = || -> anyhow::Result<Self> {
            let ledger = Ledger::open(report.join(LEDGER))?;
            Ok(Self { report: report.to_owned(), settings: settings.clone(), ledger })
        };
        if replace == Replace::Everything {
            remove(report)?;
        }
        let kept = open()?;
        let changes = kept.changes();
        if changes.is_empty() {
            return Ok(kept);
        }
        if replace == Replace::Others {
            remove(report)?;
            return open();
        }
        Err(UsageError(format!(
            "{} holds an evaluation with other settings:{changes}\ngive another --output, or --overwrite to measure again",
            report.display()
        ))
        .into())
    }

    /// The settings that differ from those of the existing samples.
    fn changes(&self) -> Differences {
        match self.ledger.status(NAME) {
            _ if !self.samples().exists() => Differences::default(),
            Status::New => Differences(vec![Difference {
                key: "settings".to_owned(),
                was: "not recorded (an earlier version of jacobi)".to_owned(),
                is: "recorded".to_owned(),
            }]),
            Status::Started | Status::Finished => self.ledger.changes(NAME, &self.settings),
        }
    }

    /// The results, if the evaluation is finished and no sample failed. Failed samples are tried again.
    ///
    /// # Errors
    /// When an existing file cannot be read.
    pub fn finished(&self) -> anyhow::Result<Option<(Results, Vec<EvalSample>)>> {
        if self.ledger.status(NAME) != Status::Finished || !self.report.join("results.json").exists() {
            return Ok(None);
        }
        let results = read_results(&self.report)?;
        let samples = read_samples(&self.samples())?;
        let failed = samples.iter().any(|sample| sample.error.is_some());
        Ok((!failed).then_some((results, samples)))
    }

    /// The file of samples.
    pub fn samples(&self) -> PathBuf {
        self.report.join(SAMPLES)
    }

    /// The settings that decide the samples.
    pub fn settings(&self) -> &RecordedSettings {
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

    /// Records that the report is written.
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
    fn an_existing_evaluation_is_continued_refused_or_removed() {
        let dir = tempfile::tempdir().unwrap();
        let open = |seed: u64, replace| {
            let mut settings = RecordedSettings::default();
            settings.set("seed", seed);
            KeptEval::open(dir.path(), settings, replace)
        };
        let mut first = open(1, Replace::Nothing).unwrap();
        first.start().unwrap();
        fs_err::write(first.samples(), "").unwrap();
        assert!(open(1, Replace::Nothing).unwrap().finished().unwrap().is_none());
        let message = open(2, Replace::Nothing).err().unwrap().to_string();
        assert!(message.contains("seed: was 1, is 2") && message.contains("--overwrite"), "{message}");
        open(1, Replace::Others).unwrap();
        assert!(first.samples().exists());
        open(2, Replace::Others).unwrap().start().unwrap();
        assert!(!first.samples().exists());
        open(2, Replace::Nothing).unwrap();

        // Samples without a record of their settings.
        fs_err::write(first.samples(), "").unwrap();
        fs_err::remove_file(dir.path().join(LEDGER)).unwrap();
        assert!(open(2, Replace::Nothing).err().unwrap().to_string().contains("settings: was not recorded"));
        open(2, Replace::Everything).unwrap();
    }
}
