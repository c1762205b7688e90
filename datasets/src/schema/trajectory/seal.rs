//! A digest inside the shard, checked before the parquet crate reads the file: that crate writes no checksums of pages
//! and footer, and its reader panics on some damaged pages.
//!
//! The 32 bytes of the BLAKE3 are between the last page and the footer, which Parquet readers skip:
//! `PAR1 | pages | digest | footer | footer length | PAR1`. It covers every other byte of the file.

use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use parquet::errors::ParquetError;

use super::read::{open_shard, other_schema};
use crate::error::DatasetError;

const DIGEST_LEN: u64 = blake3::OUT_LEN as u64;
/// Footer length and closing magic.
const TRAILER_LEN: u64 = 8;
const MAGIC: &[u8] = b"PAR1";
/// The first entry of our metadata, which the footer holds as it is.
const SCHEMA_KEY: &[u8] = b"jacobi.schema";

/// Puts the digest of a finished Parquet file into it.
///
/// # Panics
/// When `bytes` are not a Parquet file.
pub fn seal(mut bytes: Vec<u8>) -> Vec<u8> {
    let trailer = bytes.last_chunk().expect("a Parquet file has a trailer");
    let at =
        footer_start(bytes.len() as u64, trailer).expect("a Parquet writer closes its file with a footer");
    let digest = *blake3::hash(&bytes).as_bytes();
    bytes.splice(at as usize..at as usize, digest);
    bytes
}

/// Compares the digest in the file with its bytes, which are read once.
///
/// # Errors
/// `Digest`; `Parquet` for a file that is cut or of another format; `Unusable` for a Parquet file of another program;
/// `Missing`, `Io`.
pub(super) fn check(path: &Path) -> Result<(), DatasetError> {
    let mut file = open_shard(path)?;
    match digests(&mut file).map_err(DatasetError::io("read", path))? {
        Digests::Both { expected, found } if expected == found => Ok(()),
        Digests::Both { expected, found } => {
            let (expected, found) = (expected.to_string(), found.to_string());
            Err(DatasetError::Digest { path: path.to_path_buf(), expected, found })
        }
        Digests::NoFooter => {
            let problem = "it is cut or of another format: it does not end with a footer";
            Err(DatasetError::shard(path)(ParquetError::General(problem.to_owned())))
        }
        Digests::Foreign => Err(other_schema(path, "none")),
    }
}

enum Digests {
    Both {
        expected: blake3::Hash,
        found: blake3::Hash,
    },
    NoFooter,
    /// A Parquet file without our metadata.
    Foreign,
}

fn digests(file: &mut fs_err::File) -> io::Result<Digests> {
    let len = file.metadata()?.len();
    let Some(trailer_start) = len.checked_sub(TRAILER_LEN) else { return Ok(Digests::NoFooter) };
    let mut trailer = [0; TRAILER_LEN as usize];
    file.seek(SeekFrom::Start(trailer_start))?;
    file.read_exact(&mut trailer)?;
    let footer_start = footer_start(len, &trailer).filter(|_| trailer.ends_with(MAGIC));
    let Some(footer_start) = footer_start else { return Ok(Digests::NoFooter) };
    let mut footer = Vec::new();
    file.seek(SeekFrom::Start(footer_start))?;
    file.read_to_end(&mut footer)?;
    if !footer.windows(SCHEMA_KEY.len()).any(|bytes| bytes == SCHEMA_KEY) {
        return Ok(Digests::Foreign);
    }
    let Some(pages_len) = footer_start.checked_sub(DIGEST_LEN) else { return Ok(Digests::NoFooter) };
    file.seek(SeekFrom::Start(0))?;
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(file.by_ref().take(pages_len))?;
    let mut expected = [0; blake3::OUT_LEN];
    file.read_exact(&mut expected)?;
    hasher.update(&footer);
    Ok(Digests::Both { expected: blake3::Hash::from_bytes(expected), found: hasher.finalize() })
}

fn footer_start(file_len: u64, trailer: &[u8; TRAILER_LEN as usize]) -> Option<u64> {
    let [a, b, c, d, ..] = *trailer;
    file_len.checked_sub(TRAILER_LEN)?.checked_sub(u64::from(u32::from_le_bytes([a, b, c, d])))
}
