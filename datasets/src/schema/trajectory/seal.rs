//! A digest inside the shard, because Parquet notices few flipped bytes, and its reader panics on some.
//!
//! The 32 bytes of a BLAKE3 stand between the last page and the footer, a place that Parquet readers never look at:
//! `PAR1 | pages | digest | footer | footer length | PAR1`. It covers every byte of the file but its own.

use std::path::Path;

use crate::error::DatasetError;

const DIGEST_LEN: usize = 32;
/// Footer length and closing magic.
const TRAILER_LEN: usize = 8;

/// Puts the digest of a finished Parquet file into it.
///
/// # Panics
/// When `bytes` are no Parquet file.
pub(super) fn seal(mut bytes: Vec<u8>) -> Vec<u8> {
    let at = footer_start(&bytes).expect("a Parquet writer closes its file with a footer");
    let digest = *blake3::hash(&bytes).as_bytes();
    bytes.splice(at..at, digest);
    bytes
}

/// Compares the digest in the file with its bytes.
pub(super) fn check(path: &Path, bytes: &[u8]) -> Result<(), DatasetError> {
    let found = |at: usize| {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&bytes[..at]).update(&bytes[at + DIGEST_LEN..]);
        hasher.finalize().to_hex().to_string()
    };
    let seal_start = footer_start(bytes).and_then(|footer| footer.checked_sub(DIGEST_LEN));
    let (expected, found) = match seal_start {
        Some(at) => (hex(&bytes[at..at + DIGEST_LEN]), found(at)),
        None => ("inside the file".to_owned(), "none".to_owned()),
    };
    if expected == found {
        return Ok(());
    }
    Err(DatasetError::Digest { path: path.to_path_buf(), expected, found })
}

fn footer_start(bytes: &[u8]) -> Option<usize> {
    let trailer = bytes.len().checked_sub(TRAILER_LEN)?;
    let length: [u8; 4] = bytes[trailer..trailer + 4].try_into().ok()?;
    trailer.checked_sub(u32::from_le_bytes(length) as usize)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
