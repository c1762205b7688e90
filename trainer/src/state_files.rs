//! Files of master weights and moments, one per rank. Each tensor holds consecutive elements of a parameter,
//! and its name has the index of the first one. So any number of ranks can read the files of any other number
//! of ranks, and each rank reads only the bytes that it needs.

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

/// Writes the state of `optimizer` that rank `rank` of `ranks` is responsible for: all of it if each rank holds
/// only its share (`holds_part`), else an equal part of it, since each rank holds the same.
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
    /// Extents by `PART.NAME`, ascending.
    extents: BTreeMap<String, Vec<Extent>>,
}

/// Consecutive elements of a parameter in a file.
struct Extent {
    file: usize,
    /// Byte offset in the file.
    offset: u64,
    /// Index of the first element within the parameter.
    start: i64,
    length: i64,
    dtype: Dtype,
}

impl StateFiles {
    /// Opens the files of `ranks` ranks in `dir`.
    pub(crate) fn open(dir: &Path, ranks: usize) -> Result<Self, TrainError> {
        let mut all = Self { files: Vec::new(), extents: BTreeMap::new() };
        for rank in 0..ranks {
            all.add(dir.join(file_name(rank)))?;
        }
        all.extents.values_mut().for_each(|extents| extents.sort_by_key(|extent| extent.start));
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
                .ok_or_else(|| bad(format!("tensor `{name}` has no `@FIRST_ELEMENT` in its name")))?;
            if data + info.data_offsets.1 as u64 > size {
                return Err(bad("it is cut short".to_owned()));
            }
            let extent = Extent {
                file: self.files.len(),
                offset: data + info.data_offsets.0 as u64,
                start,
                length: info.shape.iter().product::<usize>() as i64,
                dtype: info.dtype,
            };
            self.extents.entry(key).or_default().push(extent);
        }
        self.files.push((path, file));
        Ok(())
    }

    /// Copies the stored elements into `part`.
    pub(crate) fn fill(&self, part: &mut StatePart) -> Result<(), TrainError> {
        let key = format!("{}.{}", part.part, part.name);
        let (start, length) = (part.start, part.tensor.numel() as i64);
        let mut at = start;
        for extent in self.extents.get(&key).map_or(&[][..], Vec::as_slice) {
            let end = (extent.start + extent.length).min(start + length);
            if extent.start <= at && at < end {
                let stored = self.read(extent, at - extent.start, end - at)?;
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

    fn read(&self, extent: &Extent, from: i64, length: i64) -> Result<Tensor, TrainError> {
        let kind = if extent.dtype == Dtype::BF16 { Kind::BFloat16 } else { Kind::Float };
        let size = kind.elt_size_in_bytes();
        let mut bytes = vec![0; length as usize * size];
        self.files[extent.file].1.read_exact_at(&mut bytes, extent.offset + from as u64 * size as u64)?;
        Ok(Tensor::from_data_size(&bytes, &[length], kind))
    }
}

#[cfg(test)]
mod tests;
