//! Manifests: saved, loaded, verified, and refused for a reason.

use std::collections::BTreeMap;

use tempfile::TempDir;

use super::*;
use crate::read_all;
use crate::schema::trajectory::{FinishReason, Trajectory, TrajectoryMetadata, read_shard, write_shard};

fn metadata(seed: u64) -> TrajectoryMetadata {
    TrajectoryMetadata {
        base_model: "m".to_owned(),
        base_revision: String::new(),
        weight_hash: "w".to_owned(),
        tokenizer_hash: "t".to_owned(),
        block_size: 4,
        decoding: BTreeMap::new(),
        seed,
        tool_version: "0".to_owned(),
    }
}

fn row(id: &str) -> Trajectory {
    Trajectory {
        sample_id: id.to_owned(),
        prompt_tokens: vec![1],
        response_tokens: vec![2, 3],
        finish_reason: FinishReason::Eos,
        states: vec![],
    }
}

/// A finished directory of two shards with two rows and one row.
fn finished() -> (TempDir, Manifest) {
    let dir = tempfile::tempdir().unwrap();
    let write = |index, rows: &[Trajectory]| {
        let file = shard_file_name(index, 2);
        let digest = write_shard(&dir.path().join(&file), &metadata(0), rows).unwrap();
        ShardEntry { file, rows: digest.rows, bytes: digest.bytes, blake3: digest.blake3 }
    };
    let manifest = Manifest {
        written: 3,
        skipped: 1,
        failed: 2,
        complete: true,
        shards: vec![write(0, &[row("a"), row("c")]), write(1, &[row("b")])],
        ..Manifest::new(RecordedSettings::default(), 6)
    };
    manifest.save(dir.path()).unwrap();
    (dir, manifest)
}

#[test]
fn a_finished_directory_is_read_in_the_order_of_its_samples() {
    let (dir, manifest) = finished();
    assert_eq!(Manifest::load(dir.path()).unwrap(), Some(manifest));
    let (read, rows) = read_all(dir.path()).unwrap();
    assert_eq!(read, metadata(0));
    assert_eq!(rows, ["a", "b", "c"].map(row));
}

#[test]
fn shard_names_are_those_of_the_contract() {
    assert_eq!(shard_file_name(0, 8), "trajectories-00000-of-00008.parquet");
    assert_eq!(shard_file_name(123_456, 200_000), "trajectories-123456-of-200000.parquet");
}

#[test]
fn no_manifest_is_not_an_error_until_rows_are_wanted() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(Manifest::load(dir.path()).unwrap(), None);
    let err = read_all(dir.path()).unwrap_err();
    assert!(matches!(err, DatasetError::Missing { .. }), "{err}");
    assert!(err.to_string().contains("jacobi generate"), "{err}");
}

#[test]
fn an_unfinished_directory_says_how_far_it_is() {
    let (dir, mut manifest) = finished();
    (manifest.complete, manifest.input) = (false, 10);
    manifest.save(dir.path()).unwrap();
    let message = read_all(dir.path()).unwrap_err().to_string();
    assert!(message.contains("6 of 10 prompts"), "{message}");
}

#[test]
fn a_changed_or_missing_shard_is_named() {
    let (dir, manifest) = finished();
    let second = dir.path().join(&manifest.shards[1].file);
    let bytes = fs_err::read(&second).unwrap();
    fs_err::write(&second, [&bytes[..], b"x"].concat()).unwrap();
    let err = read_all(dir.path()).unwrap_err();
    assert!(matches!(err, DatasetError::Digest { .. }), "{err}");
    assert!(err.to_string().contains("trajectories-00001-of-00002.parquet"), "{err}");
    fs_err::remove_file(&second).unwrap();
    let message = manifest.verify(dir.path()).unwrap_err().to_string();
    assert!(message.contains("trajectories-00001-of-00002.parquet"), "{message}");
}

#[test]
fn bad_manifests_are_refused_for_their_reason() {
    let (dir, manifest) = finished();
    let path = dir.path().join(MANIFEST_FILE);
    let good = fs_err::read_to_string(&path).unwrap();
    for (from, to, expected) in [
        ("jacobi-manifest/2", "jacobi-manifest/1", "is of schema jacobi-manifest/1"),
        ("\"schema\"", "\"scheme\"", "is of schema none"),
        ("\"input\": 6", "\"input\": 7", "3 written + 1 skipped + 2 failed is not 7 input"),
        ("\"rows\": 1", "\"rows\": 2", "its shards hold 4 rows, not the 3 written"),
        ("\"written\": 3", "\"written\": 18446744073709551615", "18446744073709551615 written + 1 skipped"),
        ("\"input\": 6", "\"input\": \"6\"", "is not valid JSON, or not a shard manifest"),
        ("{", "", "is not valid JSON, or not a shard manifest"),
        (
            "trajectories-00001",
            "/etc/shard",
            "lists the shard \"/etc/shard-of-00002.parquet\", which is no file name",
        ),
        ("trajectories-00001", "../00001", "is no file name"),
        ("trajectories-00001", "d/00001", "is no file name"),
        ("trajectories-00001-of-00002.parquet", "..", "is no file name"),
        ("trajectories-00001-of-00002.parquet", "", "is no file name"),
        ("trajectories-00001", "C:00001", "is no file name"),
        ("trajectories-00001", "d\\\\00001", "is no file name"),
    ] {
        fs_err::write(&path, good.replacen(from, to, 1)).unwrap();
        let message = Manifest::load(dir.path()).unwrap_err().to_string();
        assert!(message.contains(expected) && message.contains(MANIFEST_FILE), "{from}: {message}");
    }
    // Row counts that add up but are not those of the files.
    let mut swapped = manifest;
    (swapped.shards[0].rows, swapped.shards[1].rows) = (1, 2);
    swapped.save(dir.path()).unwrap();
    assert!(read_all(dir.path()).unwrap_err().to_string().contains("it says 1 rows"));
}

#[test]
fn shards_of_two_runs_do_not_mix() {
    let (dir, mut manifest) = finished();
    let path = dir.path().join(&manifest.shards[1].file);
    manifest.shards[1].blake3 = write_shard(&path, &metadata(1), &[row("b")]).unwrap().blake3;
    manifest.save(dir.path()).unwrap();
    let err = read_all(dir.path()).unwrap_err();
    assert!(matches!(err, DatasetError::Unusable { .. }), "{err}");
}

#[test]
fn a_run_goes_on_where_the_model_has_moved_and_the_program_is_newer() {
    let (dir, mut manifest) = finished();
    let path = dir.path().join(&manifest.shards[1].file);
    let (moved, rows) = read_shard(&path).unwrap();
    let moved = TrajectoryMetadata {
        base_model: "/elsewhere".into(),
        base_revision: "main".into(),
        tool_version: "99.0.0".into(),
        ..moved
    };
    manifest.shards[1].blake3 = write_shard(&path, &moved, &rows).unwrap().blake3;
    manifest.save(dir.path()).unwrap();
    assert_eq!(read_all(dir.path()).unwrap().1.len(), manifest.written);
}

#[test]
fn a_directory_where_every_prompt_failed_is_empty() {
    let (dir, mut manifest) = finished();
    (manifest.written, manifest.failed, manifest.shards) = (0, 5, vec![]);
    manifest.save(dir.path()).unwrap();
    let message = read_all(dir.path()).unwrap_err().to_string();
    assert!(message.contains("0 of 6 prompts") && message.contains("errors.jsonl"), "{message}");
}
