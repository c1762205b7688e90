//! Rows by index against the rows of the shards, and what is refused.

use std::collections::BTreeMap;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::rng::Rng;
use crate::schema::trajectory::{State, read_shard};
use crate::{RecordedSettings, ShardWriter, Tally};

const BLOCK_SIZE: usize = 4;

fn metadata() -> TrajectoryMetadata {
    TrajectoryMetadata {
        base_model: "m".to_owned(),
        base_revision: String::new(),
        weight_hash: "w".to_owned(),
        tokenizer_hash: "t".to_owned(),
        block_size: BLOCK_SIZE,
        decoding: BTreeMap::new(),
        seed: 0,
        tool_version: "0".to_owned(),
    }
}

/// A row whose tokens follow from `number`.
fn row(sample_id: &str, number: u32, has_states: bool) -> Trajectory {
    let response_tokens: Vec<u32> = (0..1 + number % 11).map(|at| 7 * number + at).collect();
    let states = response_tokens.chunks(BLOCK_SIZE).enumerate().flat_map(|(block, clean)| {
        (0..=clean.len() as u32).map(move |converged| State {
            block: block as u32,
            iteration: converged,
            converged,
            tail: vec![number; clean.len() - converged as usize],
        })
    });
    Trajectory {
        sample_id: sample_id.to_owned(),
        prompt_tokens: vec![number; 1 + number as usize % 3],
        states: states.filter(|_| has_states).collect(),
        response_tokens,
        finish_reason: if number.is_multiple_of(2) { FinishReason::Eos } else { FinishReason::Length },
    }
}

/// A finished directory with a row group for every `per_group` rows and a shard for every `per_shard` groups.
fn directory(rows: &[Trajectory], per_group: usize, per_shard: usize) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let manifest = Manifest::new(RecordedSettings::default(), rows.len());
    for (at, shard) in rows.chunks(per_group * per_shard).enumerate() {
        let mut writer = ShardWriter::open(dir.path(), metadata(), manifest.clone(), u64::MAX).unwrap();
        shard.chunks(per_group).for_each(|group| writer.append(group, &Tally::default()).unwrap());
        let failed = rows.len().saturating_sub((at + 1) * per_group * per_shard);
        writer.finish(&Tally { failed, ..Tally::default() }).unwrap();
    }
    dir
}

/// All rows of the shards, sorted in memory.
fn sorted(dir: &Path) -> Vec<Trajectory> {
    let manifest = Manifest::of_finished(dir).unwrap();
    let mut rows: Vec<Trajectory> =
        manifest.shards.iter().flat_map(|shard| read_shard(&dir.join(&shard.file)).unwrap().1).collect();
    rows.sort_by_key(|row| (row.sample_id.clone(), RowSummary::of(row).digest));
    rows
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Few names, so that several rows have the same one.
    #[test]
    fn rows_by_index_are_those_of_the_shards_in_their_order(
        rows in proptest::collection::vec(("[a-c]{1,2}", 0_u32..40, any::<bool>()), 1..60),
        per_group in 1_usize..9,
        per_shard in 1_usize..4,
        seed in any::<u64>(),
    ) {
        let rows: Vec<Trajectory> = rows.iter().map(|(name, number, states)| row(name, *number, *states)).collect();
        let dir = directory(&rows, per_group, per_shard);
        let expected = sorted(dir.path());
        let index = ShardIndex::open(dir.path()).unwrap();
        prop_assert_eq!(index.rows(), expected.iter().map(RowSummary::of).collect::<Vec<_>>());
        let mut wanted: Vec<usize> = (0..expected.len()).collect();
        Rng::new(&[seed]).shuffle(&mut wanted);
        wanted.truncate(1 + expected.len() / 2);
        let chosen: Vec<Trajectory> = wanted.iter().map(|&at| expected[at].clone()).collect();
        prop_assert_eq!(index.read(&wanted, true).unwrap(), chosen.clone());
        let bare: Vec<Trajectory> = chosen.into_iter().map(|row| Trajectory { states: vec![], ..row }).collect();
        prop_assert_eq!(index.read(&wanted, false).unwrap(), bare);
        prop_assert_eq!(read_all(dir.path()).unwrap(), (metadata(), expected));
    }
}

#[test]
fn every_row_is_checked_when_the_index_is_opened() {
    let rows: Vec<Trajectory> = (0..9).map(|number| row(&number.to_string(), number, true)).collect();
    let dir = directory(&rows, 3, 1);
    assert_eq!(ShardIndex::open(dir.path()).unwrap().rows().len(), 9);
    let shard = dir.path().join(Manifest::of_finished(dir.path()).unwrap().shards[1].file.clone());
    let good = fs_err::read(&shard).unwrap();
    for at in (0..good.len()).step_by(97).chain(good.len() - 8..good.len()) {
        let mut bytes = good.clone();
        bytes[at] ^= 0x5a;
        fs_err::write(&shard, bytes).unwrap();
        let error = ShardIndex::open(dir.path()).unwrap_err();
        assert!(matches!(error, DatasetError::Digest { .. }), "byte {at}: {error}");
        assert!(error.to_string().contains("00001-of-00003"), "{error}");
    }
}

#[test]
fn a_shard_that_is_removed_after_it_was_indexed_is_named() {
    let rows: Vec<Trajectory> = (0..4).map(|number| row(&number.to_string(), number, true)).collect();
    let dir = directory(&rows, 2, 1);
    let index = ShardIndex::open(dir.path()).unwrap();
    fs_err::remove_file(dir.path().join("trajectories-00001-of-00002.parquet")).unwrap();
    assert_eq!(index.read(&[1, 0], true).unwrap(), [rows[1].clone(), rows[0].clone()]);
    let message = index.read(&[0, 3], true).unwrap_err().to_string();
    assert!(message.contains("trajectories-00001-of-00002.parquet does not exist"), "{message}");
}

#[test]
fn a_shard_that_is_replaced_after_it_was_indexed_is_named() {
    let rows: Vec<Trajectory> = (0..4).map(|number| row(&number.to_string(), number, true)).collect();
    let dir = directory(&rows, 2, 1);
    let index = ShardIndex::open(dir.path()).unwrap();
    // The same bytes in another file, as another run with other bytes of this length would leave them.
    let shard = dir.path().join("trajectories-00001-of-00002.parquet");
    fs_err::copy(&shard, dir.path().join("copy")).unwrap();
    fs_err::rename(dir.path().join("copy"), &shard).unwrap();
    assert_eq!(index.read(&[1, 0], true).unwrap(), [rows[1].clone(), rows[0].clone()]);
    let message = index.read(&[3], true).unwrap_err().to_string();
    let expected = "trajectories-00001-of-00002.parquet has changed since it was checked";
    assert!(message.contains(expected), "{message}");
    assert_eq!(ShardIndex::open(dir.path()).unwrap().read(&[3], true).unwrap(), [rows[3].clone()]);
}

#[test]
fn rows_of_one_id_have_one_order_in_any_shards() {
    // Two responses to each prompt.
    let row = |at: u32| Trajectory { prompt_tokens: vec![at / 2], ..row("a", at, false) };
    let rows: Vec<Trajectory> = (0..60).map(row).collect();
    let other: Vec<Trajectory> = rows.iter().rev().cloned().collect();
    let [one, two] = [directory(&rows, 4, 3), directory(&other, 7, 2)];
    assert_eq!(read_all(one.path()).unwrap(), read_all(two.path()).unwrap());
}
