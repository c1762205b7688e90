//! The files of a report.

use super::*;
use crate::fixtures::{results, samples};

#[test]
fn every_file_is_there_and_the_data_reads_back() {
    let dir = tempfile::tempdir().unwrap();
    let report = dir.path().join("run").join("report");
    write_report(&report, &results(), &samples(), &[]).unwrap();
    let mut names: Vec<String> = fs_err::read_dir(&report)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let expected = [
        "acceptance.svg",
        "frontier.svg",
        "iterations.svg",
        "positions.svg",
        "ranks.svg",
        "report.html",
        "report.md",
        "results.json",
        "samples.jsonl",
        "speed.svg",
        "tpf.svg",
        "widths.svg",
    ];
    assert_eq!(names, expected);
    let text = fs_err::read_to_string(report.join("results.json")).unwrap();
    assert_eq!(serde_json::from_str::<Results>(&text).unwrap(), results());
    assert!(text.contains("\n  \"results\": {\n    \"jacobi_gsm8k\": {\n"), "{text}");
    let text = fs_err::read_to_string(report.join("samples.jsonl")).unwrap();
    let read: Vec<EvalSample> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(read, samples());
}

#[test]
fn a_directory_that_cannot_be_made_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs_err::write(&file, "").unwrap();
    let message = write_report(&file.join("report"), &results(), &[], &[]).unwrap_err().to_string();
    assert!(message.contains("file/report"), "{message}");
}
