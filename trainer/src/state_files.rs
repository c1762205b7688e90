//! Masters and moments in files, one written by each rank: every tensor is a run of a parameter's elements and says so in its
//! name, so that any number of ranks reads what any other number has written, each only the bytes it needs.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use fs_err::os::unix::fs::FileExt;
use jacobi_model::save_tensors;
use safetensors::{Dtype, tensor::Metadata};
use tch::{Kind, Tensor};

use crate::{
    TrainError,
    adamw::{AdamW, StatePart},
};

/// The file of a rank.
pub(crate) fn file_name(rank: usize) -> String {
    format!("optimizer-rank-{rank}.safetensors")
}

/// Writes the part of `optimizer` that rank `rank` of `ranks` is to write. Where each holds a part, `holds_part`, that is all
/// of it; else as many elements as the others write.
pub(crate) fn write(
    path: &Path,
    optimizer: &AdamW,
    (rank, ranks): (usize, usize),
    holds_part: bool,
) -> Result<(), TrainError> {
    let state = optimizer.state();
    let all: usize = state.iter().map(|part| part.tensor.numel()).sum();
    let mut before = 0;
    let mut own = Vec::new();
    for part in state {
        let writer = before * ranks / all.max(1);
        before += part.tensor.numel();
        if holds_part || writer == rank {
            own.push((format!("{}.{}@{}", part.part, part.name, part.start), part.tensor));
        }
    }
    Ok(save_tensors(path, &own, None)?)
}

/// All files of a checkpoint, open.
pub(crate) struct StateFiles {
    files: Vec<(PathBuf, fs_err::File)>,
    /// Runs of elements by `PART.NAME`, ascending.
    runs: BTreeMap<String, Vec<Run>>,
}

/// Consecutive elements of a parameter in a file.
struct Run {
    file: usize,
    /// Where in the file the first lies.
    offset: u64,
    start: i64,
    length: i64,
    dtype: Dtype,
}

impl StateFiles {
    /// Opens what `ranks` ranks wrote in `dir`.
    pub(crate) fn open(dir: &Path, ranks: usize) -> Result<Self, TrainError> {
        let mut all = Self { files: Vec::new(), runs: BTreeMap::new() };
        for rank in 0..ranks {
            all.add(dir.join(file_name(rank)))?;
        }
        all.runs.values_mut().for_each(|runs| runs.sort_by_key(|run| run.start));
        Ok(all)
    }

    fn add(&mut self, path: PathBuf) -> Result<(), TrainError> {
        let file = fs_err::File::open(&path)?;
        let bad = |reason: String| TrainError::BadCheckpoint { path: path.clone(), reason };
        let size = file.metadata()?.len();
        let mut prefix = [0; 8];
        file.read_exact_at(&mut prefix, 0)?;
        let header = u64::from_le_bytes(prefix);
        if header > size.saturating_sub(8) {
            return Err(bad("it is cut short".to_owned()));
        }
        let mut bytes = vec![0; header as usize];
        file.read_exact_at(&mut bytes, 8)?;
        let metadata: Metadata = serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?;
        let data = 8 + header;
        for (name, info) in metadata.tensors() {
            let (key, start) = name
                .rsplit_once('@')
                .and_then(|(key, start)| Some((key.to_owned(), start.parse().ok()?)))
                .ok_or_else(|| bad(format!("tensor `{name}` does not say where it starts")))?;
            if data + info.data_offsets.1 as u64 > size {
                return Err(bad("it is cut short".to_owned()));
            }
            let run = Run {
                file: self.files.len(),
                offset: data + info.data_offsets.0 as u64,
                start,
                length: info.shape.iter().product::<usize>() as i64,
                dtype: info.dtype,
            };
            self.runs.entry(key).or_default().push(run);
        }
        self.files.push((path, file));
        Ok(())
    }

    /// Puts what is stored into `part`.
    pub(crate) fn fill(&self, part: &mut StatePart) -> Result<(), TrainError> {
        let key = format!("{}.{}", part.part, part.name);
        let (start, length) = (part.start, part.tensor.numel() as i64);
        let mut at = start;
        for run in self.runs.get(&key).map_or(&[][..], Vec::as_slice) {
            let end = (run.start + run.length).min(start + length);
            if run.start <= at && at < end {
                let stored = self.read(run, at - run.start, end - at)?;
                tch::no_grad(|| part.tensor.narrow(0, at - start, end - at).copy_(&stored));
                at = end;
            }
        }
        if at == start + length {
            return Ok(());
        }
        let path = self.files.first().map(|(path, _)| path.clone()).unwrap_or_default();
        Err(TrainError::BadCheckpoint {
            path,
            reason: format!("tensor `{key}` is missing from element {at} on"),
        })
    }

    fn read(&self, run: &Run, from: i64, length: i64) -> Result<Tensor, TrainError> {
        let kind = if run.dtype == Dtype::BF16 { Kind::BFloat16 } else { Kind::Float };
        let size = kind.elt_size_in_bytes();
        let mut bytes = vec![0; length as usize * size];
        self.files[run.file].1.read_exact_at(&mut bytes, run.offset + from as u64 * size as u64)?;
        Ok(Tensor::from_data_size(&bytes, &[length], kind))
    }
}

#[cfg(test)]
mod tests {
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
        let config = AdamWConfig {
            beta1: 0.9,
            beta2: 0.9,
            eps: 1e-8,
            weight_decay: 0.0,
            moments: MomentsDtype::Float32,
        };
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
}
