//! Tests of `pipeline.rs`.

use super::*;
use jacobi_datasets::RecordedSettings;

fn stage(name: &str, value: &str, output: PathBuf) -> Stage {
    let mut settings = RecordedSettings::default();
    settings.set("key", value);
    Stage { work: Work::Export, name: name.into(), settings, outputs: vec![output], summary: String::new() }
}

#[test]
fn a_change_voids_its_stage_and_those_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let outputs = ["a", "b", "c"].map(|name| dir.path().join(name));
    for output in &outputs {
        fs_err::create_dir(output).unwrap();
    }
    let plan = |values: [&str; 3]| -> Vec<Stage> {
        let stages = ["a", "b", "c"].into_iter().zip(values).zip(&outputs);
        stages.map(|((name, value), output)| stage(name, value, output.clone())).collect()
    };
    let mut ledger = Ledger::open(dir.path().join("stages.json")).unwrap();
    for stage in &plan(["1", "1", "1"]) {
        ledger.start(&stage.name, &stage.settings).unwrap();
        ledger.finish(&stage.name).unwrap();
    }
    assert_eq!(first_changed(&plan(["1", "1", "1"]), &ledger), None);
    let now = plan(["1", "2", "1"]);
    let (first, changes) = first_changed(&now, &ledger).unwrap();
    assert_eq!((first, changes.to_string()), (1, "\n  key: was 1, is 2".to_owned()));
    discard(&now[first..], &now[..first], &mut ledger).unwrap();
    assert_eq!(outputs.map(|output| output.exists()), [true, false, false]);
    assert!(is_done(&now[0], &ledger) && !is_done(&now[1], &ledger) && !is_done(&now[2], &ledger));
}

#[test]
fn a_finished_stage_with_a_missing_output_runs_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::open(dir.path().join("stages.json")).unwrap();
    let stage = stage("a", "1", dir.path().join("gone"));
    ledger.start("a", &stage.settings).unwrap();
    ledger.finish("a").unwrap();
    assert!(!is_done(&stage, &ledger));
}

#[test]
fn tuning_is_repeated_when_its_file_is_of_another_model_or_no_result_of_tuning() {
    let dir = tempfile::tempdir().unwrap();
    let (export, report) = (dir.path().join("export"), dir.path().join("tune"));
    fs_err::create_dir(&export).unwrap();
    fs_err::create_dir(&report).unwrap();
    fs_err::write(export.join("config.json"), "{}").unwrap();
    let file = export.join(TUNED_FILE);
    let mut ledger = Ledger::open(dir.path().join("stages.json")).unwrap();
    let stage =
        Stage { work: Work::Tune, outputs: vec![report, file.clone()], ..stage("tune", "1", export.clone()) };
    ledger.start("tune", &stage.settings).unwrap();
    ledger.finish("tune").unwrap();
    let is_done = |model_files: &str, widths: &str| {
        let text = format!(
            "{{\"schema\": \"jacobi-tune/1\", \"decoder\": {{\"name\": \"jacobi\"}}, \"is_default\": false, \"prompts\": 2, \
             \"tokens\": 9, \"forwards\": 3, \"rows\": 30, \"decode_seconds\": 0.5, \"objective\": \"tps\", \"dtype\": \"\", \
             \"latency\": {{\"cached\": 1, \"knee\": 1, \"widths\": [{widths}]}}, \"model_files\": \"{model_files}\", \
             \"command\": \"\", \"environment\": {{}}}}"
        );
        fs_err::write(&file, text).unwrap();
        super::is_done(&stage, &ledger)
    };
    let (files, widths) = (jacobi_model::digest_of_model(&export).unwrap(), r#"{"rows": 1, "seconds": 0.5}"#);
    assert!(is_done(&files, widths));
    assert!(!is_done("another", widths));
    assert!(!is_done(&files, ""));
}
