//! The container: header, metadata, tensor table, and the bytes of each tensor.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::{BlockType, GgufError};

/// Arrays may hold arrays; nobody nests deeper, and a damaged file must not overflow the stack.
const MAX_NESTING: usize = 4;
/// Alignment of tensor data when `general.alignment` is absent.
const DEFAULT_ALIGNMENT: u64 = 32;
/// llama.cpp's own limit.
const MAX_DIMENSIONS: u32 = 4;

/// One metadata value.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "named after the types of the format")]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(String),
    Array(Vec<Value>),
    U64(u64),
    I64(i64),
    F64(f64),
}

impl Value {
    /// The value as a count or id, when it is an integer and not negative.
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Self::U8(v) => Some(v.into()),
            Self::U16(v) => Some(v.into()),
            Self::U32(v) => Some(v.into()),
            Self::U64(v) => Some(v),
            Self::I8(v) => v.try_into().ok(),
            Self::I16(v) => v.try_into().ok(),
            Self::I32(v) => v.try_into().ok(),
            Self::I64(v) => v.try_into().ok(),
            _ => None,
        }
    }

    /// The value when it is a text.
    pub fn as_str(&self) -> Option<&str> {
        if let Self::String(text) = self { Some(text) } else { None }
    }

    /// The elements when it is an array.
    pub fn as_array(&self) -> Option<&[Value]> {
        if let Self::Array(values) = self { Some(values) } else { None }
    }
}

/// A tensor's place in the file.
#[derive(Clone, Debug)]
pub struct TensorInfo {
    /// Its name in the file.
    pub name: String,
    /// Its shape, rows first (the file has it the other way round).
    pub shape: Vec<usize>,
    /// How it is stored.
    pub kind: BlockType,
    range: Range<usize>,
}

/// A GGUF file in memory, checked whole: every tensor lies inside the file.
#[derive(Debug)]
pub struct GgufFile {
    path: PathBuf,
    bytes: Vec<u8>,
    metadata: BTreeMap<String, Value>,
    tensors: Vec<TensorInfo>,
}

impl GgufFile {
    /// Reads `path` and checks that it is complete.
    ///
    /// # Errors
    /// An unreadable file; another format or version; truncation; an unsupported tensor type, by name.
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        let bytes = fs_err::read(path)?;
        Self::parse(path, bytes)
    }

    /// Reads a file already in memory; `path` is for messages.
    pub(super) fn parse(path: &Path, bytes: Vec<u8>) -> Result<Self, GgufError> {
        let mut cursor = Cursor { path, bytes: &bytes, at: 0 };
        let (tensor_count, metadata_count) = cursor.header()?;
        let metadata = cursor.metadata(metadata_count)?;
        let alignment = match metadata.get("general.alignment") {
            None => DEFAULT_ALIGNMENT,
            Some(value) => value.as_u64().filter(|a| a.is_power_of_two()).ok_or_else(|| {
                GgufError::malformed(path, format!("general.alignment = {value:?} is no power of two"))
            })?,
        };
        let tensors = cursor.tensors(tensor_count, alignment)?;
        Ok(Self { path: path.to_path_buf(), metadata, tensors, bytes })
    }

    /// The file that was read.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All metadata.
    pub fn metadata(&self) -> &BTreeMap<String, Value> {
        &self.metadata
    }

    /// All tensors, in file order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The values of `tensor`, row-major.
    pub fn dequantize(&self, tensor: &TensorInfo) -> Vec<f32> {
        tensor.kind.dequantize(&self.bytes[tensor.range.clone()])
    }
}

/// The unread part of the file.
struct Cursor<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn header(&mut self) -> Result<(u64, u64), GgufError> {
        let magic = &self.bytes[..self.bytes.len().min(4)];
        if magic != b"GGUF" {
            let found = String::from_utf8_lossy(magic).into_owned();
            return Err(GgufError::BadMagic { path: self.path.to_path_buf(), found });
        }
        self.at = 4;
        let version = self.u32("the version")?;
        if !(2..=3).contains(&version) {
            return Err(GgufError::UnsupportedVersion { path: self.path.to_path_buf(), found: version });
        }
        Ok((self.u64("the number of tensors")?, self.u64("the number of metadata entries")?))
    }

    fn metadata(&mut self, count: u64) -> Result<BTreeMap<String, Value>, GgufError> {
        let mut metadata = BTreeMap::new();
        for _ in 0..count {
            let key = self.string("a metadata key")?;
            let kind = self.u32(&key)?;
            let value = self.value(&key, kind, 0)?;
            if metadata.insert(key.clone(), value).is_some() {
                return Err(GgufError::malformed(self.path, format!("metadata `{key}` is given twice")));
            }
        }
        Ok(metadata)
    }

    fn value(&mut self, key: &str, kind: u32, depth: usize) -> Result<Value, GgufError> {
        Ok(match kind {
            0 => Value::U8(self.array(key).map(u8::from_le_bytes)?),
            1 => Value::I8(self.array(key).map(i8::from_le_bytes)?),
            2 => Value::U16(self.array(key).map(u16::from_le_bytes)?),
            3 => Value::I16(self.array(key).map(i16::from_le_bytes)?),
            4 => Value::U32(self.u32(key)?),
            5 => Value::I32(self.array(key).map(i32::from_le_bytes)?),
            6 => Value::F32(self.array(key).map(f32::from_le_bytes)?),
            7 => match self.array::<1>(key)?[0] {
                byte @ (0 | 1) => Value::Bool(byte == 1),
                byte => {
                    return Err(GgufError::malformed(
                        self.path,
                        format!("`{key}` is a bool of value {byte}"),
                    ));
                }
            },
            8 => Value::String(self.string(key)?),
            9 if depth < MAX_NESTING => {
                let (kind, len) = (self.u32(key)?, self.u64(key)?);
                // Grown as read: a false length must end at the end of the file, not in an allocation.
                let mut values = Vec::new();
                for _ in 0..len {
                    values.push(self.value(key, kind, depth + 1)?);
                }
                Value::Array(values)
            }
            10 => Value::U64(self.u64(key)?),
            11 => Value::I64(self.array(key).map(i64::from_le_bytes)?),
            12 => Value::F64(self.array(key).map(f64::from_le_bytes)?),
            _ => {
                return Err(GgufError::malformed(
                    self.path,
                    format!("`{key}` has value type {kind} at depth {depth}"),
                ));
            }
        })
    }

    fn tensors(&mut self, count: u64, alignment: u64) -> Result<Vec<TensorInfo>, GgufError> {
        let mut entries = Vec::new();
        for _ in 0..count {
            entries.push(self.tensor_entry()?);
        }
        let data = (self.at as u64).next_multiple_of(alignment);
        entries.into_iter().map(|entry| self.place(entry, data, alignment)).collect()
    }

    fn tensor_entry(&mut self) -> Result<TensorEntry, GgufError> {
        let name = self.string("a tensor name")?;
        let dimensions = self.u32(&name)?;
        if dimensions > MAX_DIMENSIONS {
            return Err(GgufError::malformed(
                self.path,
                format!("tensor `{name}` has {dimensions} dimensions"),
            ));
        }
        let mut shape = Vec::new();
        for _ in 0..dimensions {
            shape.push(self.u64(&name)?);
        }
        shape.reverse();
        let kind =
            BlockType::from_id(self.u32(&name)?).map_err(|found| GgufError::UnsupportedTensorType {
                path: self.path.to_path_buf(),
                tensor: name.clone(),
                found,
                supported: BlockType::supported(),
            })?;
        Ok(TensorEntry { offset: self.u64(&name)?, name, shape, kind })
    }

    /// Where in the file the tensor lies, given the start of the data.
    fn place(&self, entry: TensorEntry, data: u64, alignment: u64) -> Result<TensorInfo, GgufError> {
        let TensorEntry { name, shape, kind, offset } = entry;
        let malformed = |what: &str| {
            let place = format!("tensor `{name}` {shape:?} ({}) at {offset}: {what}", kind.name());
            GgufError::malformed(self.path, place)
        };
        if offset % alignment != 0 {
            return Err(malformed("its offset is not aligned"));
        }
        let block_len = kind.block_len() as u64;
        if shape.last().unwrap_or(&1) % block_len != 0 {
            return Err(malformed("its rows are no whole blocks"));
        }
        let values = shape.iter().try_fold(1u64, |n, dim| n.checked_mul(*dim));
        let need = values.and_then(|n| (n / block_len).checked_mul(kind.block_bytes() as u64));
        let need = need.ok_or_else(|| malformed("its size overflows"))?;
        let start = data.checked_add(offset).ok_or_else(|| malformed("its offset overflows"))?;
        let range = self
            .range(start, need)
            .ok_or_else(|| self.truncated(&format!("tensor `{name}`"), start, need))?;
        let shape = shape.iter().map(|&dim| usize::try_from(dim)).collect::<Result<_, _>>();
        let shape = shape.map_err(|_| malformed("a dimension overflows"))?;
        Ok(TensorInfo { shape, kind, range, name })
    }

    fn u32(&mut self, what: &str) -> Result<u32, GgufError> {
        self.array(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &str) -> Result<u64, GgufError> {
        self.array(what).map(u64::from_le_bytes)
    }

    fn string(&mut self, what: &str) -> Result<String, GgufError> {
        let len = self.u64(what)?;
        let bytes = self.take(what, len)?;
        let text = std::str::from_utf8(bytes)
            .map_err(|error| GgufError::malformed(self.path, format!("{what} is not UTF-8: {error}")))?;
        Ok(text.to_owned())
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], GgufError> {
        let bytes = self.take(what, N as u64)?;
        Ok(bytes.try_into().expect("take gives exactly what was asked"))
    }

    fn take(&mut self, what: &str, need: u64) -> Result<&'a [u8], GgufError> {
        let range =
            self.range(self.at as u64, need).ok_or_else(|| self.truncated(what, self.at as u64, need))?;
        self.at = range.end;
        Ok(&self.bytes[range])
    }

    /// `need` bytes from `start`, when the file has them.
    fn range(&self, start: u64, need: u64) -> Option<Range<usize>> {
        let end = start.checked_add(need).filter(|end| *end <= self.bytes.len() as u64)?;
        Some(usize::try_from(start).ok()?..usize::try_from(end).ok()?)
    }

    fn truncated(&self, what: &str, offset: u64, need: u64) -> GgufError {
        GgufError::Truncated {
            path: self.path.to_path_buf(),
            what: what.to_owned(),
            offset,
            need,
            size: self.bytes.len() as u64,
        }
    }
}

/// A tensor as the table states it, not yet checked.
struct TensorEntry {
    name: String,
    shape: Vec<u64>,
    kind: BlockType,
    offset: u64,
}
