//! Atomic writes: under a temporary name, synced, then renamed.

use std::io::{self, BufWriter, Write};
use std::path::Path;

use crate::error::DatasetError;

/// Replaces `path` by what `write` writes. After a crash at any moment, and for every reader, `path` is the
/// former file or the whole new one. A crash before the rename can leave a hidden `.NAME.*.tmp` in the directory.
///
/// # Errors
/// `Io` or `DiskFull` if the directory is missing, not writable or full, or if `write` fails; `path` is then
/// unchanged.
pub fn write_atomic(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), DatasetError> {
    // A bare file name has the empty path as parent.
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    replace(path, dir, write).map_err(DatasetError::io("write", path))
}

fn replace(path: &Path, dir: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let name = path.file_name().ok_or_else(|| io::Error::other("the path has no file name"))?;
    let mut builder = tempfile::Builder::new();
    let prefix = format!(".{}.", name.to_string_lossy());
    builder.prefix(&prefix).suffix(".tmp");
    #[cfg(unix)]
    {
        // The usual mode under the user's umask: with tempfile's 0600 other users could not read the file.
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    let mut file = builder.tempfile_in(dir)?;
    let mut buffered = BufWriter::new(file.as_file_mut());
    write(&mut buffered)?;
    buffered.flush()?;
    drop(buffered);
    file.as_file().sync_all()?;
    file.persist(path).map_err(|err| err.error)?;
    // Syncs the rename.
    fs_err::File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests;
