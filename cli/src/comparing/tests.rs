//! Tests of `comparing.rs`.

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
fn only_models_decoders_and_seeds_may_differ() {
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
            "machine.cpu is a in a and b in b",
            "machine.cpu is a in a and not set in c",
            "c has no record of its settings"
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
    let labels = |runs: &[MeasuredRun]| training_of(runs).into_iter().map(|c| c.label).collect::<Vec<_>>();
    assert_eq!(labels(&runs), ["a round-1", "b round-1"]);
    assert_eq!(labels(&runs[..1]), ["round-1"]);
}

#[test]
fn a_run_is_named_by_the_last_specific_part_of_its_path() {
    let rows =
        [("runs/a/report", "a"), ("runs/a/", "a"), ("report", "report"), ("/tmp/x/report/", "x"), (".", ".")];
    for (path, expected) in rows {
        assert_eq!(short_name(Path::new(path)), expected, "{path}");
    }
}
