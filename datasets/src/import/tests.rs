//! Small files in exactly the reference's forms.

use serde_json::json;
use tempfile::TempDir;

use super::*;

const EOS: u32 = 2;

fn read(text: &str) -> Vec<Result<Imported, BadImport>> {
    let dir: TempDir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f.json");
    fs_err::write(&path, text).unwrap();
    let mut all = Vec::new();
    read_reference(&path, &[EOS], &mut |sample| {
        all.push(sample);
        Ok(())
    })
    .unwrap();
    all
}

/// A block as their generation script writes it.
fn block(sample: usize, index: usize, prefix: &[u32], states: &[&[u32]], teacher: &[u32]) -> Value {
    json!({
        "diffusion_itr_id": format!("itr_{index}"),
        "data_id": format!("bucket_0000_data_{sample}"),
        "prompt_ids": [prefix],
        "answer_trajectory_ids": states,
        "teacher_output_ids": teacher,
    })
}

fn state(block: u32, iteration: u32, converged: u32, tail: &[u32]) -> State {
    State { block, iteration, converged, tail: tail.to_vec() }
}

#[test]
fn recorded_blocks_become_samples_that_end_with_their_end() {
    let teacher = [1, 5, 10, 11, 12, 13, 14, EOS, 77, 78];
    // The first state of a block is its fixed point, as the reference's in-place update leaves it.
    let blocks = json!([
        block(
            0,
            0,
            &[1, 5],
            &[&[10, 11, 12, 13], &[10, 90, 12, 91], &[10, 11, 12, 92], &[10, 11, 12, 13]],
            &teacher
        ),
        block(
            0,
            1,
            &[1, 5, 10, 11, 12, 13],
            &[&[14, EOS, 77, 78], &[14, 93, 77, 78], &[14, EOS, 95, 78], &[14, EOS, 77, 78]],
            &teacher
        ),
        block(1, 0, &[1], &[&[20, 21, 22, 23]], &[1, 20, 21, 22, 23]),
    ]);
    let samples = read(&blocks.to_string());
    let first = samples[0].as_ref().unwrap();
    assert_eq!((samples.len(), first.block_size), (2, 4));
    let expected = Trajectory {
        sample_id: "bucket_0000_data_0".to_owned(),
        prompt_tokens: vec![1, 5],
        response_tokens: vec![10, 11, 12, 13, 14, EOS],
        finish_reason: FinishReason::Eos,
        states: vec![
            state(0, 1, 1, &[90, 12, 91]),
            state(0, 2, 3, &[92]),
            state(0, 3, 4, &[]),
            state(1, 1, 1, &[93]),
            // What comes behind the end does not matter.
            state(1, 2, 2, &[]),
        ],
    };
    assert_eq!(first.trajectory, expected);
    let second = &samples[1].as_ref().unwrap().trajectory;
    assert_eq!(
        (second.finish_reason, second.states.as_slice()),
        (FinishReason::Length, &[state(0, 0, 4, &[])][..])
    );
}

#[test]
fn packed_records_become_samples_with_one_state_per_block() {
    let line = json!({
        "data_id": "data_7",
        "prompt_ids": [1, 5],
        "complete_training_sequence_ids": [1, 5, 10, 90, 10, 11, 12, 91, 12, EOS, 95, 96, 97, 98],
        "prompt_ids_len": 2,
        "traj_position_indices": [3, 1, 0],
    });
    let samples = read(&format!("{line}\n{line}\n"));
    assert_eq!(samples.len(), 2);
    let sample = samples[0].as_ref().unwrap();
    assert_eq!(sample.block_size, 2);
    assert_eq!(sample.trajectory.response_tokens, [10, 11, 12, EOS]);
    assert_eq!(sample.trajectory.finish_reason, FinishReason::Eos);
    assert_eq!(sample.trajectory.states, [state(0, 3, 1, &[90]), state(1, 1, 1, &[91])]);
}

#[test]
fn inconsistent_samples_are_reported_and_skipped() {
    let teacher = [1, 10, 11, 12, 13];
    let good = block(9, 0, &[1], &[&[10, 11]], &[1, 10, 11]);
    let rows = [
        (
            json!([
                block(0, 0, &[1], &[&[10, 11]], &teacher),
                block(0, 2, &[1, 10, 11], &[&[12, 13]], &teacher)
            ]),
            "block 1 is missing",
        ),
        (
            json!([
                block(0, 0, &[1], &[&[10, 11]], &teacher),
                block(0, 1, &[1, 10, 9], &[&[12, 13]], &teacher)
            ]),
            "block 1 does not continue",
        ),
        (json!([block(0, 0, &[1], &[&[10], &[10, 11]], &teacher)]), "a state of block 0 is not of 2 tokens"),
        (json!([block(0, 0, &[1], &[&[10, 12]], &teacher)]), "teacher_output_ids are not"),
        (json!([{"data_id": "x"}]), "missing field"),
        (
            json!([{"data_id": "x", "prompt_ids": [1], "prompt_ids_len": 1, "complete_training_sequence_ids": [1, 2, 3, 4], "traj_position_indices": [0]}]),
            "3 tokens behind the prompt",
        ),
        (
            json!([{"data_id": "x", "prompt_ids": [1], "prompt_ids_len": 1, "complete_training_sequence_ids": [2, 2, 3], "traj_position_indices": [0]}]),
            "does not begin with the prompt",
        ),
    ];
    for (mut array, expected) in rows {
        array.as_array_mut().unwrap().push(good.clone());
        let samples = read(&array.to_string());
        let reason = &samples[0].as_ref().unwrap_err().reason;
        assert!(reason.contains(expected), "{expected}: {reason}");
        assert_eq!(samples.last().unwrap().as_ref().unwrap().trajectory.sample_id, "bucket_0000_data_9");
    }
}

#[test]
fn a_file_that_is_not_json_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    for text in ["[{]", "PAR1", "[1, 2"] {
        let path = dir.path().join("f.json");
        fs_err::write(&path, text).unwrap();
        let error = read_reference(&path, &[EOS], &mut |_| Ok(())).unwrap_err();
        assert!(matches!(error, DatasetError::Json { .. }), "{text}: {error}");
    }
}
