//! The state of a file, by which another file or content under its name is noticed.

use std::{fs::Metadata, io, path::Path, time::SystemTime};

/// Device, number, length and time of modification of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileState {
    identity: [u64; 2],
    pub(crate) bytes: u64,
    modified: Option<SystemTime>,
}

impl FileState {
    pub(crate) fn of(metadata: &Metadata) -> Self {
        Self { identity: identity(metadata), bytes: metadata.len(), modified: metadata.modified().ok() }
    }

    /// The state of the file that has the name `path` now.
    pub(crate) fn at(path: &Path) -> io::Result<Self> {
        Ok(Self::of(&fs_err::metadata(path)?))
    }
}

#[cfg(unix)]
fn identity(metadata: &Metadata) -> [u64; 2] {
    use std::os::unix::fs::MetadataExt;
    [metadata.dev(), metadata.ino()]
}

#[cfg(not(unix))]
fn identity(_: &Metadata) -> [u64; 2] {
    [0; 2]
}
