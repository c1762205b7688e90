//! Any number of ranks reads what any other wrote; damage is named.

use tch::Device;

use super::*;
use crate::{AdamWConfig, MomentsDtype, Piece};

/// An optimizer of `ranks`'s part `rank` of two parameters with 7 and 12 elements, its moments numbered.
fn optimizer(rank: usize, ranks: usize, fresh: bool) -> AdamW {
    let flat = Tensor::arange(19, (Kind::Float, Device::Cpu)) * if fresh { 0.0 } else { 1.0 };
    let (from, to) = (19 * rank / ranks, 19 * (rank + 1) / ranks);
    let pieces = [("a", 0, 7), ("b", 7, 19)].into_iter().filter_map(|(name, start, end)| {
        let (low, high) = (start.max(from), end.min(to));
        (low < high).then(|| Piece {
            name: name.to_owned(),
            start: (low - start) as i64,
            parameter: flat.narrow(0, low as i64, (high - low) as i64).copy(),
            gradient: flat.narrow(0, low as i64, (high - low) as i64).copy(),
            is_matrix: true,
        })
    });
    let config =
        AdamWConfig { beta1: 0.9, beta2: 0.9, eps: 1e-8, weight_decay: 0.0, moments: MomentsDtype::Float32 };
    let mut optimizer = AdamW::new(pieces.collect(), config);
    if !fresh {
        optimizer.update(1e-3, 1.0);
    }
    optimizer
}

fn values(optimizers: &[AdamW]) -> Vec<(String, Vec<f32>)> {
    let mut values = BTreeMap::<String, Vec<f32>>::new();
    for part in optimizers.iter().flat_map(AdamW::state) {
        let tensor: Vec<f32> = Vec::try_from(&part.tensor).unwrap();
        values.entry(format!("{}.{}", part.part, part.name)).or_default().extend(tensor);
    }
    values.into_iter().collect()
}

#[test]
fn any_number_of_ranks_reads_what_any_other_wrote() {
    let expected = values(&[optimizer(0, 1, false)]);
    for (writers, readers, is_shared) in
        [(1, 3, true), (3, 1, true), (2, 4, true), (4, 3, true), (3, 2, false)]
    {
        let dir = tempfile::tempdir().unwrap();
        for rank in 0..writers {
            let held = if is_shared { optimizer(rank, writers, false) } else { optimizer(0, 1, false) };
            write(&dir.path().join(file_name(rank)), &held, (rank, writers), is_shared).unwrap();
        }
        let files = StateFiles::open(dir.path(), writers).unwrap();
        let read = |rank| {
            let mut found = optimizer(rank, readers, true);
            found.restore(1, &mut |part| files.fill(part)).unwrap();
            found
        };
        let found: Vec<AdamW> = (0..readers).map(read).collect();
        assert_eq!(values(&found), expected, "{writers} wrote, {readers} read");
    }
}

#[test]
fn what_is_missing_or_cut_short_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(file_name(0));
    write(&path, &optimizer(0, 2, false), (0, 2), true).unwrap();
    let files = StateFiles::open(dir.path(), 1).unwrap();
    let error = optimizer(0, 1, true).restore(1, &mut |part| files.fill(part)).unwrap_err().to_string();
    assert!(error.contains("optimizer-rank-0") && error.contains("missing from element"), "{error}");
    let whole = fs_err::read(&path).unwrap();
    for length in [whole.len() - 1, 20] {
        fs_err::write(&path, &whole[..length]).unwrap();
        let error = StateFiles::open(dir.path(), 1).err().unwrap().to_string();
        assert!(error.contains("cut short"), "{length}: {error}");
    }
}
