//! A digest inside the shard, checked before the pages are decoded: the parquet crate writes no checksums of pages and
//! footer, and its reader panics on some damaged pages.
//!
//! The 32 bytes of the BLAKE3 are between the last page and the footer, which Parquet readers skip:
//! `PAR1 | pages | digest | footer | footer length | PAR1`. It covers every other byte of the file.

use std::path::Path;

use crate::error::DatasetError;

const DIGEST_LEN: usize = blake3::OUT_LEN;
/// Footer length and closing magic.
const TRAILER_LEN: usize = 8;

/// Puts the digest of a finished Parquet file into it.
///
/// # Panics
/// When `bytes` are not a Parquet file.
pub(super) fn seal(mut bytes: Vec<u8>) -> Vec<u8> {
    let at = footer_start(&bytes).expect("a Parquet writer closes its file with a footer");
    let digest = *blake3::hash(&bytes).as_bytes();
    bytes.splice(at..at, digest);
    bytes
}

/// Compares the digest in the file with its bytes.
pub(super) fn check(path: &Path, bytes: &[u8]) -> Result<(), DatasetError> {
    let split = footer_start(bytes).and_then(|footer| {
        let (before, footer) = bytes.split_at_checked(footer)?;
        let (pages, digest) = before.split_last_chunk::<DIGEST_LEN>()?;
        Some((pages, blake3::Hash::from_bytes(*digest), footer))
    });
    let (expected, found) = match split {
        Some((pages, digest, footer)) => {
            let found = blake3::Hasher::new().update(pages).update(footer).finalize();
            (digest.to_string(), found.to_string())
        }
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
