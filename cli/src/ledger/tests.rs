//! A record of stages over the life of several processes.

use super::*;

fn settings(batch_size: usize) -> RecordedSettings {
    let mut settings = RecordedSettings::default();
    settings.set("train.batch_size", batch_size);
    settings
}

#[test]
fn a_ledger_survives_its_process_and_names_changes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("stages.json");
    let mut ledger = Ledger::open(path.clone()).unwrap();
    assert_eq!(ledger.status("round-1/train"), Status::New);
    ledger.start("round-1/train", &settings(4)).unwrap();
    let mut ledger = Ledger::open(path.clone()).unwrap();
    assert_eq!(ledger.status("round-1/train"), Status::Started);
    ledger.finish("round-1/train").unwrap();
    let mut ledger = Ledger::open(path).unwrap();
    assert_eq!(ledger.status("round-1/train"), Status::Finished);
    assert!(ledger.changes("round-1/train", &settings(4)).is_empty());
    let changes = ledger.changes("round-1/train", &settings(8)).to_string();
    assert_eq!(changes, "\n  train.batch_size: was 4, is 8");
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
