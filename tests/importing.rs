//! Published trajectories of the reference implementation: imported, read, refused for a reason.

use std::path::{Path, PathBuf};

use jacobi_datasets::{Manifest, PackConfig, pack, read_all};
use jacobi_trajectory_gen::{GenerateError, ImportJob, import};
use serde_json::json;

use crate::support::{root, scratch};

fn run(files: &[PathBuf], output: &Path, overwrite: bool) -> Result<Manifest, GenerateError> {
    let model_dir = root().join("datasets/default/model");
    import(&ImportJob { files, model_dir: &model_dir, output, overwrite })
}

/// One recorded sample of two blocks and one packed sample, of blocks of four.
fn files(dir: &Path) -> [PathBuf; 2] {
    let block = |index: usize, prefix: &[u32], states: &[[u32; 4]]| {
        json!({
            "diffusion_itr_id": format!("itr_{index}"),
            "data_id": "bucket_0_data_0",
            "prompt_ids": [prefix],
            "answer_trajectory_ids": states,
            "teacher_output_ids": [5, 6, 10, 11, 12, 13, 14, 15, 16, 17],
        })
    };
    let recorded = json!([
        block(0, &[5, 6], &[[10, 11, 12, 13], [10, 90, 91, 92], [10, 11, 12, 13]]),
        block(1, &[5, 6, 10, 11, 12, 13], &[[14, 15, 16, 17], [14, 15, 93, 94], [14, 15, 16, 17]]),
    ]);
    let packed = json!({
        "data_id": "data_1", "prompt_ids": [5], "prompt_ids_len": 1, "traj_position_indices": [1],
        "complete_training_sequence_ids": [5, 20, 95, 22, 96, 20, 21, 22, 23],
    });
    let paths = [dir.join("recorded.json"), dir.join("packed.jsonl")];
    fs_err::write(&paths[0], recorded.to_string()).unwrap();
    let mut foreign = packed.clone();
    (foreign["data_id"], foreign["complete_training_sequence_ids"][1]) = ("foreign".into(), 50_000.into());
    let lines = format!("{packed}\n{{\"data_id\": \"broken\"}}\n{foreign}\n");
    fs_err::write(&paths[1], lines).unwrap();
    paths
}

#[test]
fn reference_files_of_both_forms_become_shards_to_train_on() {
    let dir = scratch();
    let output = dir.path().join("t");
    let manifest = run(&files(dir.path()), &output, false).unwrap();
    assert_eq!((manifest.input, manifest.written, manifest.failed, manifest.complete), (4, 2, 2, true));
    let (metadata, rows) = read_all(&output).unwrap();
    assert_eq!((metadata.block_size, metadata.base_revision.as_str()), (4, "imported"));
    let names: Vec<&str> = rows.iter().map(|row| row.sample_id.as_str()).collect();
    assert_eq!(names, ["bucket_0_data_0", "data_1"]);
    for row in &rows {
        let packed = pack(row, 4, &PackConfig { window_size: 2, ..PackConfig::default() }, 0).unwrap();
        assert!(!packed.ar.is_empty() && packed.layout.with_noise, "{}", row.sample_id);
    }
    let errors = fs_err::read_to_string(output.join("errors.jsonl")).unwrap();
    assert!(errors.contains("broken") && errors.contains("missing field"), "{errors}");
    assert!(errors.contains("token id 50000 is not in the vocabulary"), "{errors}");
}

#[test]
fn an_import_does_not_mix_with_existing_shards() {
    let dir = scratch();
    let output = dir.path().join("t");
    let files = files(dir.path());
    run(&files[..1], &output, false).unwrap();
    let error = run(&files, &output, false).unwrap_err();
    assert!(error.is_usage() && error.to_string().contains("--overwrite"), "{error}");
    assert_eq!(run(&files, &output, true).unwrap().written, 2);
    // Killed half-way: the same import starts over, another one does not.
    let half = |manifest: Manifest| {
        Manifest { complete: false, ..manifest }.save(&output).unwrap();
    };
    half(Manifest::load(&output).unwrap().unwrap());
    assert!(run(&files[..1], &output, false).unwrap_err().is_usage());
    let manifest = run(&files, &output, false).unwrap();
    assert_eq!((manifest.written, manifest.failed, manifest.complete), (2, 2, true));
    let errors = fs_err::read_to_string(output.join("errors.jsonl")).unwrap();
    assert_eq!(errors.lines().count(), 2, "{errors}");
    fs_err::write(&files[0], "[]").unwrap();
    let message = run(&files[..1], &dir.path().join("empty"), false).unwrap_err().to_string();
    assert!(message.contains("none of 0"), "{message}");
}
