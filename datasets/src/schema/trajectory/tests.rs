//! Shards: what goes in comes out, and every kind of bad file is told from the others.

use std::path::PathBuf;
use std::sync::Arc;

use arrow_array::{ArrayRef, Int32Array, RecordBatch, StringArray};
use proptest::prelude::*;
use tempfile::TempDir;

use super::check::MAX_ID;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::*;
use crate::schema::trajectory::columns::schema;

fn metadata() -> TrajectoryMetadata {
    TrajectoryMetadata {
        base_model: "org/model".to_owned(),
        base_revision: "main".to_owned(),
        weight_hash: "w".to_owned(),
        tokenizer_hash: "t".to_owned(),
        block_size: 4,
        decoding: BTreeMap::from([("max_new_tokens".to_owned(), "64".to_owned())]),
        seed: u64::MAX,
        tool_version: "0.1.0".to_owned(),
    }
}

fn state(block: u32, iteration: u32, converged: u32, tail: &[u32]) -> State {
    State { block, iteration, converged, tail: tail.to_vec() }
}

fn rows() -> Vec<Trajectory> {
    let states =
        vec![state(0, 0, 1, &[7, 8, 9]), state(0, 1, 4, &[]), state(1, 0, 1, &[5]), state(1, 1, 2, &[])];
    vec![
        Trajectory {
            sample_id: "ä/1".to_owned(),
            prompt_tokens: vec![1, 2, 3],
            response_tokens: vec![10, 11, 12, 13, 14, MAX_ID],
            finish_reason: FinishReason::Eos,
            states,
        },
        Trajectory {
            sample_id: String::new(),
            prompt_tokens: vec![],
            response_tokens: vec![],
            finish_reason: FinishReason::Length,
            states: vec![],
        },
    ]
}

fn scratch() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("shard.parquet");
    (dir, path)
}

#[test]
fn a_shard_is_read_as_it_was_written() {
    for rows in [rows(), vec![]] {
        let (_dir, path) = scratch();
        let digest = write_shard(&path, &metadata(), &rows).unwrap();
        let bytes = fs_err::read(&path).unwrap();
        assert_eq!(digest.rows, rows.len());
        assert_eq!(digest.bytes, bytes.len() as u64);
        assert_eq!(digest.blake3, blake3::hash(&bytes).to_hex().to_string());
        assert_eq!(read_shard(&path).unwrap(), (metadata(), rows));
    }
}

#[test]
fn the_same_rows_give_the_same_bytes() {
    let (_dir, path) = scratch();
    let first = write_shard(&path, &metadata(), &rows()).unwrap();
    assert_eq!(write_shard(&path, &metadata(), &rows()).unwrap(), first);
}

#[test]
fn columns_are_those_of_the_contract() {
    let (_dir, path) = scratch();
    write_shard(&path, &metadata(), &rows()).unwrap();
    let file = fs_err::File::open(&path).unwrap().into_parts().0;
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    let mut text = Vec::new();
    parquet::schema::printer::print_schema(&mut text, builder.parquet_schema().root_schema());
    let expected = "\
message arrow_schema {
  REQUIRED BYTE_ARRAY sample_id (STRING);
  REQUIRED group prompt_tokens (LIST) {
    REPEATED group list {
      REQUIRED INT32 item;
    }
  }
  REQUIRED group response_tokens (LIST) {
    REPEATED group list {
      REQUIRED INT32 item;
    }
  }
  REQUIRED BYTE_ARRAY finish_reason (STRING);
  REQUIRED group states (LIST) {
    REPEATED group list {
      REQUIRED group item {
        REQUIRED INT32 block;
        REQUIRED INT32 iteration;
        REQUIRED INT32 converged;
        REQUIRED group tail (LIST) {
          REPEATED group list {
            REQUIRED INT32 item;
          }
        }
      }
    }
  }
}
";
    assert_eq!(String::from_utf8(text).unwrap(), expected);
}

#[test]
fn a_file_cut_anywhere_is_refused_by_name() {
    let (_dir, path) = scratch();
    write_shard(&path, &metadata(), &rows()).unwrap();
    let bytes = fs_err::read(&path).unwrap();
    for len in 0..bytes.len() {
        fs_err::write(&path, &bytes[..len]).unwrap();
        let err = read_shard(&path).unwrap_err();
        assert!(matches!(err, DatasetError::Parquet { .. }), "{len}: {err}");
        assert!(err.to_string().contains("shard.parquet"), "{err}");
    }
}

/// Parquet guards none of its pages here: without the digest a flipped bit would be a wrong token, or a panic.
#[test]
fn a_flipped_byte_anywhere_is_refused_by_name() {
    let (_dir, path) = scratch();
    write_shard(&path, &metadata(), &rows()).unwrap();
    let good = fs_err::read(&path).unwrap();
    for (at, flip) in (0..good.len()).step_by(3).zip([0x01, 0x80, 0xff].into_iter().cycle()) {
        let mut bytes = good.clone();
        bytes[at] ^= flip;
        fs_err::write(&path, &bytes).unwrap();
        let err = read_shard(&path).unwrap_err();
        assert!(err.to_string().contains("shard.parquet"), "byte {at} ^ {flip:#x}: {err}");
    }
}

/// Writes `batch` with these `jacobi.*` entries, sealed, as an older or broken program of ours would.
fn write_foreign(path: &Path, batch: &RecordBatch, entries: Vec<KeyValue>) {
    let properties = WriterProperties::builder().set_key_value_metadata(Some(entries)).build();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).unwrap();
    writer.write(batch).unwrap();
    fs_err::write(path, seal::seal(writer.into_inner().unwrap())).unwrap();
}

/// Our entries, with `key` replaced, or left out for `None`.
fn entries_with(key: &str, value: Option<&str>) -> Vec<KeyValue> {
    let mut entries = key_values(&metadata());
    let at = entries.iter().position(|entry| entry.key == format!("jacobi.{key}")).unwrap();
    match value {
        Some(value) => entries[at].value = Some(value.to_owned()),
        None => drop(entries.remove(at)),
    }
    entries
}

#[test]
fn other_schemas_versions_and_metadata_are_refused_by_name() {
    let (_dir, path) = scratch();
    let (rows, batch) = (rows(), to_batch(&rows()).unwrap());
    for (key, value, expected) in [
        ("schema", Some("jacobi-eval"), "is of schema jacobi-eval/1, this program reads jacobi-trajectory/1"),
        ("schema", None, "is of schema none"),
        ("schema_version", Some("2"), "is of schema jacobi-trajectory/2"),
        ("schema_version", None, "is of schema jacobi-trajectory/?"),
        ("block_size", None, "metadata `jacobi.block_size` is missing"),
        ("block_size", Some("many"), "metadata `jacobi.block_size` is `many`"),
        ("seed", Some("-1"), "metadata `jacobi.seed` is `-1`"),
        ("decoding", Some("{"), "metadata `jacobi.decoding` is `{`"),
        ("weight_hash", None, "metadata `jacobi.weight_hash` is missing"),
    ] {
        write_foreign(&path, &batch, entries_with(key, value));
        let message = read_shard(&path).unwrap_err().to_string();
        assert!(message.contains(expected), "{key}: {message}");
        assert!(message.contains("shard.parquet"), "{key}: {message}");
    }
    write_foreign(&path, &batch, key_values(&metadata()));
    assert_eq!(read_shard(&path).unwrap().1, rows);
}

#[test]
fn other_columns_are_refused_with_both_lists() {
    let (_dir, path) = scratch();
    let text: ArrayRef = Arc::new(StringArray::from(vec!["x"]));
    let number: ArrayRef = Arc::new(Int32Array::from(vec![1]));
    let batch = RecordBatch::try_from_iter([("sample_id", text), ("score", number)]).unwrap();
    write_foreign(&path, &batch, key_values(&metadata()));
    let message = read_shard(&path).unwrap_err().to_string();
    assert!(
        message.contains("has columns sample_id: utf8, score: i32, its schema says sample_id: utf8, "),
        "{message}"
    );
    let states = "states: list<struct{block: i32, iteration: i32, converged: i32, tail: list<i32>}>";
    assert!(message.contains(states), "{message}");
}

#[test]
fn a_word_or_number_out_of_range_is_refused_with_its_row() {
    let (_dir, path) = scratch();
    let good = to_batch(&rows()).unwrap();
    let words: ArrayRef = Arc::new(StringArray::from(vec!["eos", "tired"]));
    let mut columns = good.columns().to_vec();
    columns[3] = words;
    let batch = RecordBatch::try_new(Arc::new(schema()), columns).unwrap();
    write_foreign(&path, &batch, key_values(&metadata()));
    let message = read_shard(&path).unwrap_err().to_string();
    assert!(message.contains("row 2: finish_reason `tired`"), "{message}");

    // Beyond i32 the cast wraps to a negative number, as a foreign writer could have written.
    let mut negative = rows();
    negative[0].prompt_tokens[0] = u32::MAX;
    write_foreign(&path, &to_batch(&negative).unwrap(), key_values(&metadata()));
    let message = read_shard(&path).unwrap_err().to_string();
    assert!(message.contains("row 1: negative number -1"), "{message}");
}

#[test]
fn rows_that_contradict_themselves_are_neither_written_nor_read() {
    let (_dir, path) = scratch();
    type Break = fn(&mut Trajectory);
    let cases: [(Break, &str); 6] = [
        (
            |row| row.states[0].tail.push(1),
            "state 0 of block 0: 1 converged and 4 more tokens in a block of 4",
        ),
        (
            |row| row.states[3].converged = 4,
            "state 1 of block 1: 4 converged and 0 more tokens in a block of 2",
        ),
        (|row| row.states[2].block = 2, "state of block 2 but only 2 blocks"),
        (|row| row.prompt_tokens[0] = MAX_ID + 1, "token id 2147483648 is beyond"),
        (|row| row.states[0].tail[0] = u32::MAX, "token id 4294967295 is beyond"),
        (
            |row| (row.response_tokens, row.states) = Default::default(),
            "ends in EOS but has no response token",
        ),
    ];
    for (index, (break_row, expected)) in cases.into_iter().enumerate() {
        let mut rows = rows();
        break_row(&mut rows[0]);
        let message = write_shard(&path, &metadata(), &rows).unwrap_err().to_string();
        assert!(message.contains(expected) && message.contains("row 1"), "{message}");
        assert!(!path.exists());
        if index < 3 {
            let foreign = path.with_extension("foreign");
            write_foreign(&foreign, &to_batch(&rows).unwrap(), key_values(&metadata()));
            let message = read_shard(&foreign).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }
    let no_blocks = TrajectoryMetadata { block_size: 0, ..metadata() };
    assert!(write_shard(&path, &no_blocks, &rows()).unwrap_err().to_string().contains("block size is 0"));
}

#[test]
fn a_missing_shard_is_named() {
    let (_dir, path) = scratch();
    let err = read_shard(&path).unwrap_err();
    assert!(matches!(err, DatasetError::Missing { .. }), "{err}");
    assert!(err.to_string().contains("shard.parquet does not exist: `jacobi generate` makes"), "{err}");
}

#[test]
fn a_shard_rewritten_by_another_tool_is_refused() {
    let (_dir, path) = scratch();
    let batch = to_batch(&rows()).unwrap();
    let properties =
        WriterProperties::builder().set_key_value_metadata(Some(key_values(&metadata()))).build();
    let file = fs_err::File::create(&path).unwrap().into_parts().0;
    let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    let err = read_shard(&path).unwrap_err();
    assert!(matches!(err, DatasetError::Digest { .. }), "{err}");
}

#[test]
fn finish_reasons_have_one_spelling() {
    for reason in [FinishReason::Eos, FinishReason::Length] {
        assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
        assert_eq!(FinishReason::from_name(reason.as_str()), Some(reason));
    }
    assert_eq!(FinishReason::from_name("EOS"), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn any_rows_come_back(
        samples in proptest::collection::vec((".{0,8}", proptest::collection::vec(0..=MAX_ID, 0..12), 0_u32..4), 0..6)
    ) {
        let rows: Vec<Trajectory> = samples.into_iter().map(|(sample_id, response_tokens, converged)| {
            let blocks = response_tokens.chunks(4).enumerate();
            let states = blocks.map(|(block, clean)| {
                let converged = converged.min(clean.len() as u32);
                state(block as u32, 0, converged, &clean[converged as usize..])
            }).collect();
            let prompt_tokens = response_tokens.iter().rev().copied().collect();
            Trajectory { sample_id, prompt_tokens, response_tokens, finish_reason: FinishReason::Length, states }
        }).collect();
        let (_dir, path) = scratch();
        write_shard(&path, &metadata(), &rows).unwrap();
        prop_assert_eq!(read_shard(&path).unwrap(), (metadata(), rows));
    }
}

#[test]
fn passes_are_counted_from_the_last_noisy_state() {
    let state = |iteration, converged: u32, len: u32| State {
        block: 0,
        iteration,
        converged,
        tail: vec![9; (len - converged) as usize],
    };
    // Of blocks of 4: (iteration, converged) of the states, and passes within the response and at its end.
    let rows = [
        (&[(0, 1), (1, 3), (2, 4)][..], Some(3), Some(2)),
        (&[(0, 1), (1, 2), (2, 4)], Some(3), Some(3)),
        // As older shards number it: the verifying pass is an iteration.
        (&[(0, 1), (1, 3), (3, 4)], Some(3), Some(2)),
        // As imports have it: the random start is not recorded.
        (&[(1, 2), (2, 4)], Some(3), Some(3)),
        (&[(1, 4)], Some(2), Some(2)),
        (&[(0, 4)], Some(1), Some(1)),
        (&[(0, 1), (1, 3)], None, None),
        (&[], None, None),
    ];
    for (states, within, at_end) in rows {
        let states: Vec<State> = states.iter().map(|&(i, c)| state(i, c, 4)).collect();
        assert_eq!(jacobi_passes(&states, 4, false), within, "{states:?}");
        assert_eq!(jacobi_passes(&states, 4, true), at_end, "{states:?}");
    }
    assert_eq!(jacobi_passes(&[state(0, 1, 1)], 1, true), Some(0));
}
