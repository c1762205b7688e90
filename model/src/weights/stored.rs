//! Tensors in safetensors files, read in pieces to their place: besides the model, loading needs the memory of one piece.

use std::{
    io::{self, Read},
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use safetensors::{SafeTensorError, tensor::Metadata};
use tch::{Kind, Tensor};

use super::files::kind_of;
use crate::{ModelError, file_state::FileState, precision::to_kind};

/// Elements of a piece.
const PIECE: usize = 1 << 18;

/// Bytes of the length at the start of a file.
const LENGTH_BYTES: u64 = 8;

/// The longest header that the format allows.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// A weight file. It stays open until its tensors are read, so that all of them are of the same file, also when another
/// one gets its name meanwhile.
pub(super) struct WeightFile {
    pub(super) path: PathBuf,
    file: fs_err::File,
    pub(super) state: FileState,
}

/// A tensor that has not been read.
pub(super) struct StoredTensor {
    pub(super) file: Arc<WeightFile>,
    name: String,
    kind: Kind,
    pub(super) shape: Vec<i64>,
    /// Bytes of the file.
    place: Range<u64>,
}

pub(super) type NamedTensors = Vec<(String, StoredTensor)>;

/// Opens the safetensors file at `path`; its tensors, by its header.
pub(super) fn read_header(path: &Path) -> Result<(Arc<WeightFile>, NamedTensors), ModelError> {
    let damaged = |source| ModelError::Safetensors { path: path.to_path_buf(), source };
    let mut file = fs_err::File::open(path)?;
    let state = FileState::of(&file.metadata()?);
    let file_bytes = state.bytes;
    let mut length = [0; LENGTH_BYTES as usize];
    if file_bytes < LENGTH_BYTES {
        return Err(damaged(SafeTensorError::HeaderTooSmall));
    }
    file.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER_BYTES {
        return Err(damaged(SafeTensorError::HeaderTooLarge));
    }
    let start = LENGTH_BYTES + length;
    if start > file_bytes {
        return Err(damaged(SafeTensorError::InvalidHeaderLength));
    }
    let mut header = vec![0; length as usize];
    file.read_exact(&mut header)?;
    let header: Metadata = serde_json::from_slice(&header)
        .map_err(|error| damaged(SafeTensorError::InvalidHeaderDeserialization(error)))?;
    let names = header.offset_keys();
    let infos: Vec<_> =
        names.into_iter().filter_map(|name| Some((header.info(&name)?.clone(), name))).collect();
    // Checks that the tensors lie one behind the other and have the sizes of their shapes.
    let listed = infos.iter().map(|(info, name)| (name.clone(), info.clone())).collect();
    let checked = Metadata::new(None, listed).map_err(damaged)?;
    if start + checked.data_len() as u64 != file_bytes {
        return Err(damaged(SafeTensorError::MetadataIncompleteBuffer));
    }
    let file = Arc::new(WeightFile { path: path.to_path_buf(), file, state });
    let tensor = |(info, name): (safetensors::tensor::TensorInfo, String)| {
        let kind = kind_of(path, &name, info.dtype)?;
        let (from, to) = info.data_offsets;
        let place = start + from as u64..start + to as u64;
        let shape = info.shape.iter().map(|&size| size as i64).collect();
        Ok((name.clone(), StoredTensor { file: Arc::clone(&file), name, kind, shape, place }))
    };
    let tensors = infos.into_iter().map(tensor).collect::<Result<_, ModelError>>()?;
    Ok((file, tensors))
}

impl WeightFile {
    #[cfg(unix)]
    fn read_exact_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        use std::os::unix::fs::FileExt;
        let failed = |error: io::Error| {
            io::Error::new(error.kind(), format!("failed to read {}: {error}", self.path.display()))
        };
        self.file.file().read_exact_at(buffer, at).map_err(failed)
    }

    #[cfg(not(unix))]
    fn read_exact_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        use std::io::{Seek, SeekFrom};
        (&self.file).seek(SeekFrom::Start(at))?;
        (&self.file).read_exact(buffer)
    }
}

impl StoredTensor {
    /// Reads the tensor into `target`, which has its shape and is contiguous, in the dtype and on the device of `target`. A
    /// value that is not finite is an error about the model in `dir`.
    pub(super) fn read_into(&self, dir: &Path, target: &Tensor) -> Result<(), ModelError> {
        let target = target.view([-1]);
        self.each_piece(|at, piece| {
            super::require_finite(dir, &self.name, piece)?;
            target.narrow(0, at, piece.size()[0]).copy_(piece);
            Ok(true)
        })?;
        Ok(())
    }

    /// Whether `tensor` has its values, once they are converted to the dtype of `tensor`.
    pub(super) fn is_converted_to(&self, tensor: &Tensor) -> Result<bool, ModelError> {
        if tensor.size() != self.shape {
            return Ok(false);
        }
        let tensor = tensor.view([-1]);
        self.each_piece(|at, piece| {
            let piece = to_kind(piece, tensor.kind()).to_device(tensor.device());
            Ok(piece.equal(&tensor.narrow(0, at, piece.size()[0])))
        })
    }

    /// Whether both have the same dtype, shape and bytes.
    pub(super) fn equals(&self, other: &Self) -> Result<bool, ModelError> {
        if (self.kind, &self.shape) != (other.kind, &other.shape) {
            return Ok(false);
        }
        let (mut one, mut two) = (self.pieces(), other.pieces());
        loop {
            match (one.next_bytes()?, two.next_bytes()?) {
                (None, None) => return Ok(true),
                (a, b) if a != b => return Ok(false),
                _ => {}
            }
        }
    }

    /// Calls `see` with the elements of each piece, flat, and the index of the first, until it returns false; whether it
    /// never did.
    fn each_piece(
        &self,
        mut see: impl FnMut(i64, &Tensor) -> Result<bool, ModelError>,
    ) -> Result<bool, ModelError> {
        let size = self.kind.elt_size_in_bytes();
        let (mut pieces, mut at) = (self.pieces(), 0);
        while let Some(bytes) = pieces.next_bytes()? {
            let count = (bytes.len() / size) as i64;
            let piece = Tensor::f_from_data_size(bytes, &[count], self.kind).map_err(|error| {
                ModelError::tensor(&self.file.path, &self.name, format!("is refused by libtorch: {error}"))
            })?;
            if !see(at, &piece)? {
                return Ok(false);
            }
            at += count;
        }
        Ok(true)
    }

    fn pieces(&self) -> Pieces<'_> {
        let most = (self.place.end - self.place.start).min((PIECE * self.kind.elt_size_in_bytes()) as u64);
        Pieces { file: &self.file, rest: self.place.clone(), buffer: vec![0; most as usize] }
    }
}

/// Reads a part of a file piece by piece.
struct Pieces<'a> {
    file: &'a WeightFile,
    /// The bytes of the file that have not been read.
    rest: Range<u64>,
    buffer: Vec<u8>,
}

impl Pieces<'_> {
    fn next_bytes(&mut self) -> io::Result<Option<&[u8]>> {
        let count = (self.rest.end - self.rest.start).min(self.buffer.len() as u64);
        if count == 0 {
            return Ok(None);
        }
        let piece = &mut self.buffer[..count as usize];
        self.file.read_exact_at(piece, self.rest.start)?;
        self.rest.start += count;
        Ok(Some(piece))
    }
}
