//! Finished evaluations as one: whether they may be held against each other, and their rows under the names of their runs.

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
    /// What its rows are called in a comparison.
    pub label: String,
    /// Its report directory.
    pub report: PathBuf,
    /// What it measured.
    pub results: Results,
    /// Every sample.
    pub samples: Vec<EvalSample>,
    /// How its model was trained, if it lies in the run that did.
    pub training: Vec<TrainingCurve>,
}

impl MeasuredRun {
    /// The evaluations in `dirs`, report directories or run directories, each under a name of its own.
    ///
    /// # Errors
    /// When one has no report, or one that cannot be read.
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

    /// What a model of this run is called beside those of others: by the run, unless it has several of one role.
    fn model_name(&self, model: &str) -> String {
        let rows = &self.results.rows;
        let shares_its_role = |row: &EvalRow| {
            row.model == model
                && rows.iter().any(|other| other.model_role == row.model_role && other.model != model)
        };
        if rows.iter().any(shares_its_role) { format!("{} {model}", self.label) } else { self.label.clone() }
    }
}

/// What directories of training alone logged, under names that tell them apart: of each what training wrote into it, or of
/// a run its rounds.
///
/// # Errors
/// When there is nothing, or it cannot be read.
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
            "{} has no checkpoint yet: training is drawn from its first one on",
            dir.display()
        );
    }
    Ok(curves)
}

/// A short name for each of `dirs`; their paths where short ones would be alike.
fn labels(dirs: &[PathBuf]) -> Vec<String> {
    let names: Vec<String> = dirs.iter().map(|dir| short_name(dir)).collect();
    let are_distinct = names.iter().collect::<BTreeSet<_>>().len() == names.len();
    let label = |(dir, name): (&PathBuf, String)| if are_distinct { name } else { dir.display().to_string() };
    dirs.iter().zip(names).map(label).collect()
}

/// The last part of a path that says something.
fn short_name(dir: &Path) -> String {
    let parts = dir.components().filter_map(|part| match part {
        std::path::Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
        _ => None,
    });
    let parts: Vec<String> = parts.collect();
    let said = parts.iter().rev().find(|part| *part != "report").or(parts.last());
    said.cloned().unwrap_or_else(|| dir.display().to_string())
}

/// Keys, by their beginnings, that may differ between evaluations that are compared: those that are compared, and those
/// that decide no figure.
const MAY_DIFFER: [&str; 7] =
    ["seed", "jacobi", "eval.decoders", "eval.tuned", "eval.rank_prompts", "eval.warmup", "models."];

/// The settings by which figures of `runs` cannot be compared with those of the first run, a line each.
pub fn differences(runs: &[MeasuredRun]) -> Vec<String> {
    let Some((first, others)) = runs.split_first() else { return Vec::new() };
    let matters = |key: &str| !MAY_DIFFER.iter().any(|free| key.starts_with(free)) && !key.ends_with(".path");
    let mut found = Vec::new();
    for run in others {
        let Differences(differences) = run.results.settings.differences(&first.results.settings);
        for Difference { key, was, is } in differences.into_iter().filter(|found| matters(&found.key)) {
            found.push(format!("{key} is {was} in {} and {is} in {}", first.label, run.label));
        }
    }
    let unknown = runs.iter().filter(|run| run.results.settings.is_empty());
    found.extend(
        unknown.map(|run| format!("{} does not say under which settings it was measured", run.label)),
    );
    found
}

/// How the models of `runs` were trained, under the names of their runs where there are several.
pub fn training_of(runs: &[MeasuredRun]) -> Vec<TrainingCurve> {
    let named = |run: &MeasuredRun, curve: &TrainingCurve| match runs.len() {
        1 => curve.clone(),
        _ => TrainingCurve { label: format!("{} {}", run.label, curve.label), ..curve.clone() },
    };
    runs.iter().flat_map(|run| run.training.iter().map(move |curve| named(run, curve))).collect()
}

/// All rows and samples under the names of their runs, tested against each other. The environment says where each was
/// measured and in what they differ.
pub fn merge(runs: &[MeasuredRun], command: String, unlike: &[String]) -> (Results, Vec<EvalSample>) {
    let mut environment = serde_json::Map::new();
    let (mut rows, mut samples) = (Vec::new(), Vec::new());
    for run in runs {
        environment.insert(format!("{}: command", run.label), run.results.command.as_str().into());
        environment.insert(format!("{}: environment", run.label), run.results.environment.clone().into());
        rows.extend(run.results.rows.iter().cloned().map(|mut row| {
            row.model = run.model_name(&row.model);
            row
        }));
        samples.extend(run.samples.iter().cloned().map(|mut sample| {
            sample.model = run.model_name(&sample.model);
            sample
        }));
    }
    if !unlike.is_empty() {
        environment.insert("compared although".to_owned(), unlike.join("; ").into());
    }
    let settings = runs.first().map(|run| run.results.settings.clone()).unwrap_or_default();
    let results = Results {
        paired_tests: paired_tests(&samples),
        settings,
        ..Results::new(command, environment, rows)
    };
    (results, samples)
}

#[cfg(test)]
mod tests {
    use super::*;
    use jacobi_datasets::schema::eval_row::ModelRole;

    fn run(label: &str, settings: &[(&str, &str)], models: &[&str]) -> MeasuredRun {
        let row = |model: &&str| EvalRow {
            model: (*model).to_owned(),
            model_role: ModelRole::Trained,
            task: "gsm8k".to_owned(),
            decoder: "ar".to_owned(),
            ..EvalRow::default()
        };
        let sample = |model: &&str| EvalSample {
            model: (*model).to_owned(),
            model_role: ModelRole::Trained,
            task: "gsm8k".to_owned(),
            decoder: "ar".to_owned(),
            sample_id: "q".to_owned(),
            correct: Some(label == "a"),
            ..EvalSample::default()
        };
        let mut results =
            Results::new("jacobi eval".to_owned(), serde_json::Map::new(), models.iter().map(row).collect());
        for (key, value) in settings {
            results.settings.set(key, value);
        }
        MeasuredRun {
            label: label.to_owned(),
            report: "r".into(),
            results,
            samples: models.iter().map(sample).collect(),
            training: vec![TrainingCurve {
                label: "round-1".to_owned(),
                samples_per_step: 4,
                points: Vec::new(),
                evaluations: Vec::new(),
                seconds: None,
            }],
        }
    }

    #[test]
    fn what_is_compared_may_differ_and_nothing_else() {
        let settings = [
            ("seed", "1"),
            ("models.1.name", "x"),
            ("machine.cpu", "a"),
            ("eval.prompts.path", "p"),
            ("jacobi", "1"),
        ];
        let mut other = settings;
        (other[0].1, other[1].1, other[3].1, other[4].1) = ("2", "y", "q", "2");
        let like = [run("a", &settings, &["m"]), run("b", &other, &["m"])];
        assert!(differences(&like).is_empty());
        other[2].1 = "b";
        let unlike = [run("a", &settings, &["m"]), run("b", &other[..3], &["m"]), run("c", &[], &["m"])];
        assert_eq!(
            differences(&unlike),
            [
                "machine.cpu is \"a\" in a and \"b\" in b",
                "machine.cpu is \"a\" in a and not set in c",
                "c does not say under which settings it was measured"
            ]
        );
    }

    #[test]
    fn rows_and_samples_go_by_their_run_and_are_tested() {
        let runs = [run("a", &[("x", "1")], &["m"]), run("b", &[("x", "1")], &["m", "n"])];
        let (results, samples) = merge(&runs, "jacobi report a b".to_owned(), &[]);
        let names: Vec<&str> = results.rows.iter().map(|row| row.model.as_str()).collect();
        assert_eq!(names, ["a", "b m", "b n"]);
        assert_eq!(samples.iter().map(|s| s.model.as_str()).collect::<Vec<_>>(), names);
        assert_eq!((results.paired_tests.len(), results.paired_tests[0].only_a), (2, 1));
    }

    #[test]
    fn training_goes_by_its_run_where_there_are_several() {
        let runs = [run("a", &[], &["m"]), run("b", &[], &["m"])];
        let labels =
            |runs: &[MeasuredRun]| training_of(runs).into_iter().map(|c| c.label).collect::<Vec<_>>();
        assert_eq!(labels(&runs), ["a round-1", "b round-1"]);
        assert_eq!(labels(&runs[..1]), ["round-1"]);
    }

    #[test]
    fn a_run_is_called_by_the_part_of_its_path_that_says_something() {
        let rows = [
            ("runs/a/report", "a"),
            ("runs/a/", "a"),
            ("report", "report"),
            ("/tmp/x/report/", "x"),
            (".", "."),
        ];
        for (path, expected) in rows {
            assert_eq!(short_name(Path::new(path)), expected, "{path}");
        }
    }
}
