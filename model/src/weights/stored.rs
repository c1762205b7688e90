//! Tensors in safetensors files, read in pieces to their place: besides the model, loading needs the memory of one piece.

use std::{
    io::{self, Read, Seek, SeekFrom},
    ops::Range,
    path::{Path, PathBuf},
};

use safetensors::{SafeTensorError, tensor::Metadata};
use tch::{Kind, Tensor};

use super::files::kind_of;
use crate::{ModelError, precision::to_kind};

/// Elements of a piece.
const PIECE: usize = 1 << 18;

/// Bytes of the length at the start of a file.
const LENGTH_BYTES: u64 = 8;

/// The longest header that the format allows.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// A tensor that has not been read.
pub(super) struct StoredTensor {
    pub(super) path: PathBuf,
    name: String,
    kind: Kind,
    pub(super) shape: Vec<i64>,
    /// Bytes of the file.
    place: Range<u64>,
}

/// The tensors of the safetensors file at `path`, by its header.
pub(super) fn read_header(path: &Path) -> Result<Vec<(String, StoredTensor)>, ModelError> {
    let damaged = |source| ModelError::Safetensors { path: path.to_path_buf(), source };
    let mut file = fs_err::File::open(path)?;
    let file_bytes = file.metadata()?.len();
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
    let tensor = |(info, name): (safetensors::tensor::TensorInfo, String)| {
        let kind = kind_of(path, &name, info.dtype)?;
        let (from, to) = info.data_offsets;
        let place = start + from as u64..start + to as u64;
        let shape = info.shape.iter().map(|&size| size as i64).collect();
        Ok((name.clone(), StoredTensor { path: path.to_path_buf(), name, kind, shape, place }))
    };
    infos.into_iter().map(tensor).collect()
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
        let (mut one, mut two) = (self.pieces()?, other.pieces()?);
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
        let (mut pieces, mut at) = (self.pieces()?, 0);
        while let Some(bytes) = pieces.next_bytes()? {
            let count = (bytes.len() / size) as i64;
            let piece = Tensor::f_from_data_size(bytes, &[count], self.kind).map_err(|error| {
                ModelError::tensor(&self.path, &self.name, format!("is refused by libtorch: {error}"))
            })?;
            if !see(at, &piece)? {
                return Ok(false);
            }
            at += count;
        }
        Ok(true)
    }

    fn pieces(&self) -> io::Result<Pieces> {
        let mut file = fs_err::File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.place.start))?;
        let bytes = self.place.end - self.place.start;
        let most = bytes.min((PIECE * self.kind.elt_size_in_bytes()) as u64);
        Ok(Pieces { file, bytes, buffer: vec![0; most as usize] })
    }
}

/// Reads a part of a file piece by piece.
struct Pieces {
    file: fs_err::File,
    /// Bytes that have not been read.
    bytes: u64,
    buffer: Vec<u8>,
}

impl Pieces {
    fn next_bytes(&mut self) -> io::Result<Option<&[u8]>> {
        let count = self.bytes.min(self.buffer.len() as u64);
        if count == 0 {
            return Ok(None);
        }
        let piece = &mut self.buffer[..count as usize];
        self.file.read_exact(piece)?;
        self.bytes -= count;
        Ok(Some(piece))
    }
}
