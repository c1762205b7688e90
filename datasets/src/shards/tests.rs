//! Directories of shards: rolled, resumed, damaged, and died upon at every step.

use tempfile::TempDir;

use super::*;
use crate::schema::trajectory::{FinishReason, read_shard};
use crate::{RecordedSettings, read_all};

fn metadata() -> TrajectoryMetadata {
    TrajectoryMetadata {
        base_model: "m".to_owned(),
        base_revision: String::new(),
        weight_hash: "w".to_owned(),
        tokenizer_hash: "t".to_owned(),
        block_size: 4,
        decoding: BTreeMap::new(),
        seed: 0,
        tool_version: "0".to_owned(),
    }
}

fn row(index: usize) -> Trajectory {
    Trajectory {
        sample_id: format!("{index:04}"),
        prompt_tokens: vec![index as u32],
        response_tokens: vec![2, 3],
        finish_reason: FinishReason::Eos,
        states: vec![],
    }
}

fn rows(range: std::ops::Range<usize>) -> Vec<Trajectory> {
    range.map(row).collect()
}

fn open(dir: &Path, input: usize, shard_bytes: u64) -> ShardWriter {
    ShardWriter::open(dir, metadata(), Manifest::new(RecordedSettings::default(), input), shard_bytes)
        .unwrap()
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs_err::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Twelve rows in groups of three, a shard for every two groups.
fn filled() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = open(dir.path(), 12, u64::MAX);
    let group = 3;
    for start in (0..12).step_by(group) {
        writer.shard_bytes = writer.parts().map(|part| part.bytes).sum::<u64>() + 1;
        if start / group % 2 == 0 {
            writer.shard_bytes = u64::MAX;
        }
        writer.append(&rows(start..start + group), &Tally::default()).unwrap();
    }
    writer.finish(&Tally::default()).unwrap();
    dir
}

#[test]
fn shards_roll_by_size_keep_their_row_groups_and_get_their_count_in_the_end() {
    let dir = filled();
    let shards = ["trajectories-00000-of-00002.parquet", "trajectories-00001-of-00002.parquet"];
    assert_eq!(names(dir.path()), [MANIFEST_FILE, shards[0], shards[1]]);
    assert_eq!(read_all(dir.path()).unwrap().1, rows(0..12));
    assert_eq!(read_shard(&dir.path().join(shards[1])).unwrap().1, rows(6..12));
    let file = fs_err::File::open(dir.path().join(shards[0])).unwrap().into_parts().0;
    let reader = parquet::file::reader::SerializedFileReader::new(file).unwrap();
    assert_eq!(parquet::file::reader::FileReader::num_row_groups(&reader), 2);
}

#[test]
fn a_finished_row_group_survives_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = open(dir.path(), 6, u64::MAX);
    writer.append(&rows(0..3), &Tally::default()).unwrap();
    drop(writer);
    // What a death between two steps leaves: a part that nobody named, and half a file.
    fs_err::write(dir.path().join("part-00001.parquet"), "PAR1").unwrap();
    fs_err::write(dir.path().join(".part-00002.parquet.x.tmp"), "PA").unwrap();
    let mut writer = open(dir.path(), 6, u64::MAX);
    let kept: Vec<_> = writer
        .manifest()
        .shards
        .iter()
        .flat_map(|shard| read_shard(&dir.path().join(&shard.file)).unwrap().1)
        .collect();
    assert_eq!(kept, rows(0..3));
    writer.append(&rows(3..6), &Tally::default()).unwrap();
    writer.finish(&Tally::default()).unwrap();
    assert_eq!(names(dir.path()), [MANIFEST_FILE, "trajectories-00000-of-00001.parquet"]);
    assert_eq!(read_all(dir.path()).unwrap().1, rows(0..6));
}

/// Each step makes files, replaces the manifest, removes files: a death before and after the replacement.
#[test]
fn a_crash_while_shards_are_joined_or_named_loses_nothing() {
    let whole = filled();
    let manifest = Manifest::load(whole.path()).unwrap().unwrap();
    let unnamed = |index: usize| format!("{JOINED}{index:05}.parquet");
    let mut before = manifest.clone();
    before.complete = false;
    for (index, shard) in before.shards.iter_mut().enumerate() {
        fs_err::hard_link(whole.path().join(&shard.file), whole.path().join(unnamed(index))).unwrap();
        shard.file = unnamed(index);
    }
    for saved in [&before, &manifest] {
        saved.save(whole.path()).unwrap();
        let mut writer = open(whole.path(), 12, u64::MAX);
        writer.finish(&Tally::default()).unwrap();
        assert_eq!(names(whole.path()).len(), 3);
        assert_eq!(read_all(whole.path()).unwrap().1, rows(0..12));
        for (index, shard) in manifest.shards.iter().enumerate() {
            fs_err::hard_link(whole.path().join(&shard.file), whole.path().join(unnamed(index))).unwrap();
        }
    }
}

#[test]
fn a_shard_that_was_deleted_is_made_again_and_the_others_keep_their_rows() {
    let dir = filled();
    fs_err::remove_file(dir.path().join("trajectories-00000-of-00002.parquet")).unwrap();
    let mut writer = open(dir.path(), 12, u64::MAX);
    assert_eq!(writer.manifest().shards.len(), 1);
    writer.append(&rows(0..6), &Tally::default()).unwrap();
    writer.finish(&Tally::default()).unwrap();
    assert_eq!(read_all(dir.path()).unwrap().1, rows(0..12));
    assert_eq!(names(dir.path()).len(), 3);
}

#[test]
fn a_flipped_byte_and_a_cut_shard_are_named_and_nothing_is_touched() {
    type Damage = fn(Vec<u8>) -> Vec<u8>;
    let damages: [Damage; 2] = [
        |mut bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            bytes
        },
        |bytes| bytes[..bytes.len() / 2].to_vec(),
    ];
    for damage in damages {
        let dir = filled();
        let path = dir.path().join("trajectories-00001-of-00002.parquet");
        fs_err::write(&path, damage(fs_err::read(&path).unwrap())).unwrap();
        let before = names(dir.path());
        let manifest = Manifest::new(RecordedSettings::default(), 12);
        let error = ShardWriter::open(dir.path(), metadata(), manifest, 1).unwrap_err();
        assert!(matches!(error, DatasetError::Digest { .. }), "{error}");
        let message = error.to_string();
        assert!(
            message.contains("trajectories-00001-of-00002") && message.contains("delete it"),
            "{message}"
        );
        assert_eq!(names(dir.path()), before);
    }
}

#[test]
fn books_that_do_not_add_up_are_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = open(dir.path(), 5, u64::MAX);
    writer.append(&rows(0..3), &Tally::default()).unwrap();
    let tally = Tally { failed: 1, ..Tally::default() };
    let message = writer.finish(&tally).unwrap_err().to_string();
    assert!(message.contains("3 written + 0 skipped + 1 failed is not 5 input"), "{message}");
    let skipped_by = BTreeMap::from([("duplicate".to_owned(), 1)]);
    writer.finish(&Tally { skipped_by, ..tally }).unwrap();
    let manifest = Manifest::load(dir.path()).unwrap().unwrap();
    assert_eq!((manifest.written, manifest.skipped, manifest.failed, manifest.complete), (3, 1, 1, true));
}

#[test]
fn shards_without_a_manifest_are_left_alone_until_discarded() {
    let dir = filled();
    fs_err::remove_file(dir.path().join(MANIFEST_FILE)).unwrap();
    // Names that other programs give to their parts, and editors to their files.
    let foreign = [".notes.txt.tmp", "notes.txt", "part-00000-0d4c.snappy.parquet", "part-1.parquet"];
    for name in foreign {
        fs_err::write(dir.path().join(name), "mine").unwrap();
    }
    let error = ShardWriter::open(dir.path(), metadata(), Manifest::new(RecordedSettings::default(), 12), 1)
        .unwrap_err();
    assert!(error.to_string().contains("--overwrite"), "{error}");
    ShardWriter::discard(dir.path()).unwrap();
    assert_eq!(names(dir.path()), foreign);
}

#[cfg(unix)]
#[test]
fn a_directory_that_cannot_be_made_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs_err::write(&file, "").unwrap();
    let manifest = Manifest::new(RecordedSettings::default(), 1);
    let error = ShardWriter::open(&file.join("t"), metadata(), manifest, 1).unwrap_err();
    assert!(error.to_string().contains("file/t"), "{error}");
}
