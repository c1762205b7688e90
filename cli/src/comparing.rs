//! Comparison of finished evaluations: whether they are comparable, and their rows under the names of their runs.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use jacobi_datasets::schema::eval_row::{EvalRow, EvalSample, Results};
use jacobi_datasets::{Difference, Differences};
use jacobi_eval::{paired_tests, read_samples};
use jacobi_report::TrainingCurve;

use crate::pipeline::{training_curve, training_curves};
use crate::run_dir::RunDir;
use crate::stages::read_results;

/// A finished evaluation.
#[derive(Clone, Debug)]
pub struct MeasuredRun {
    /// Its name in the comparison.
    pub label: String,
    /// Its report directory.
    pub report: PathBuf,
    /// Its results.
    pub results: Results,
    /// Every sample.
    pub samples: Vec<EvalSample>,
    /// The training curves, if the report is in the directory of a run.
    pub training: Vec<TrainingCurve>,
}

impl MeasuredRun {
    /// Reads the evaluations in `dirs` (report or run directories) and gives each a unique name.
    ///
    /// # Errors
    /// When a directory has no report or an unreadable one.
    pub fn read_all(dirs: &[PathBuf]) -> anyhow::Result<Vec<Self>> {
        dirs.iter().zip(labels(dirs)).map(|(dir, label)| Self::read(dir, label)).collect()
    }

    fn read(dir: &Path, label: String) -> anyhow::Result<Self> {
        let inner = RunDir::new(dir).report();
        let (run, report) = match inner.join("results.json").is_file() {
            true => (dir, inner),
            false => (dir.parent().unwrap_or(dir), dir.to_owned()),
        };
        let results = read_results(&report).with_context(|| {
            format!("{} has no finished evaluation: run `jacobi eval` first", dir.display())
        })?;
        let samples = read_samples(&report.join("samples.jsonl"))?;
        let training = training_curves(&RunDir::new(run))?;
        Ok(Self { label, report, results, samples, training })
    }

    /// The name of a model in a comparison: the run's name, unless the run has several models of this role.
    fn model_name(&self, model: &str) -> String {
        let rows = &self.results.rows;
        let shares_role = |row: &EvalRow| {
            row.model == model
                && rows.iter().any(|other| other.model_role == row.model_role && other.model != model)
        };
        if rows.iter().any(shares_role) { format!("{} {model}", self.label) } else { self.label.clone() }
    }
}

/// The training curves of directories without an evaluation, under unique names: of a training directory, or of a
/// run's rounds.
///
/// # Errors
/// When there is no curve, or it cannot be read.
pub fn training_in(dirs: &[PathBuf]) -> anyhow::Result<Vec<TrainingCurve>> {
    let mut curves = Vec::new();
    for (dir, label) in dirs.iter().zip(labels(dirs)) {
        let rounds = training_curves(&RunDir::new(dir))?;
        let named = |curve: TrainingCurve| match dirs.len() {
            1 => curve,
            _ => TrainingCurve { label: format!("{label} {}", curve.label), ..curve },
        };
        let before = curves.len();
        curves.extend(training_curve(dir, &label)?.into_iter().chain(rounds.into_iter().map(named)));
        ensure!(
            curves.len() > before,
            "{} has no checkpoint yet, so it has no training curve",
            dir.display()
        );
    }
    Ok(curves)
}

/// A short name for each of `dirs`, or its path where short names are not unique.
fn labels(dirs: &[PathBuf]) -> Vec<String> {
    let names: Vec<String> = dirs.iter().map(|dir| short_name(dir)).collect();
    let are_distinct = names.iter().collect::<BTreeSet<_>>().len() == names.len();
    let label = |(dir, name): (&PathBuf, String)| if are_distinct { name } else { dir.display().to_string() };
    dirs.iter().zip(names).map(label).collect()
}

/// The last component of a path that is not `report`.
fn short_name(dir: &Path) -> String {
    let parts = dir.components().filter_map(|part| match part {
        std::path::Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
        _ => None,
    });
    let parts: Vec<String> = parts.collect();
    let name = parts.iter().rev().find(|part| *part != "report").or(parts.last());
    name.cloned().unwrap_or_else(|| dir.display().to_string())
}

/// Prefixes of settings that may differ between compared evaluations.
const MAY_DIFFER: [&str; 8] = [
    "seed",
    "jacobi",
    "eval.base_decoders",
    "eval.decoders",
    "eval.tuned",
    "eval.rank_prompts",
    "eval.warmup",
    "models.",
];

/// The differences from the first run that make figures incomparable, a line each.
pub fn differences(runs: &[MeasuredRun]) -> Vec<String> {
    let Some((first, others)) = runs.split_first() else { return Vec::new() };
    let matters =
        |key: &str| !MAY_DIFFER.iter().any(|prefix| key.starts_with(prefix)) && !key.ends_with(".path");
    let mut found = Vec::new();
    for run in others {
        let Differences(differences) = run.results.settings.differences(&first.results.settings);
        for Difference { key, was, is } in differences.into_iter().filter(|found| matters(&found.key)) {
            found.push(format!("{key} is {was} in {} and {is} in {}", first.label, run.label));
        }
    }
    let unknown = runs.iter().filter(|run| run.results.settings.is_empty());
    found.extend(unknown.map(|run| format!("{} has no record of its settings", run.label)));
    found
}

/// The training curves of `runs`, with the run's name if there are several.
pub fn training_of(runs: &[MeasuredRun]) -> Vec<TrainingCurve> {
    let named = |run: &MeasuredRun, curve: &TrainingCurve| match runs.len() {
        1 => curve.clone(),
        _ => TrainingCurve { label: format!("{} {}", run.label, curve.label), ..curve.clone() },
    };
    runs.iter().flat_map(|run| run.training.iter().map(move |curve| named(run, curve))).collect()
}

/// All rows and samples under the names of their runs, with paired tests. The environment lists where each run was
/// measured and how the runs differ.
pub fn merge(runs: &[MeasuredRun], command: String, differences: &[String]) -> (Results, Vec<EvalSample>) {
    let mut environment = serde_json::Map::new();
    let (mut rows, mut samples, mut tuned_models) = (Vec::new(), Vec::new(), Vec::new());
    for run in runs {
        environment.insert(format!("{}: command", run.label), run.results.command.as_str().into());
        environment.insert(format!("{}: environment", run.label), run.results.environment.clone().into());
        rows.extend(run.results.rows.iter().cloned().map(|mut row| {
            row.model = run.model_name(&row.model);
            row
        }));
        tuned_models.extend(run.results.tuned_models.iter().cloned().map(|mut tuned| {
            tuned.model = run.model_name(&tuned.model);
            tuned
        }));
        samples.extend(run.samples.iter().cloned().map(|mut sample| {
            sample.model = run.model_name(&sample.model);
            sample
        }));
    }
    if !differences.is_empty() {
        environment.insert("compared despite".to_owned(), differences.join("; ").into());
    }
    let settings = runs.first().map(|run| run.results.settings.clone()).unwrap_or_default();
    let results = Results {
        paired_tests: paired_tests(&samples),
        tuned_models,
        settings,
        ..Results::new(command, environment, rows)
    };
    (results, samples)
}

#[cfg(test)]
mod tests;
