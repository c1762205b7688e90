//! The file operations of a save, as a trait: tests replace them to make a save fail between or within operations.

use std::path::Path;

use crate::TrainError;

/// File operations of a save.
pub(crate) trait Disk {
    /// Creates a directory and its parents.
    fn create_dir(&self, dir: &Path) -> Result<(), TrainError>;
    /// Writes the file `path` by `write` and syncs it.
    fn write(&self, path: &Path, write: &dyn Fn(&Path) -> Result<(), TrainError>) -> Result<(), TrainError>;
    /// Renames and syncs the directory.
    fn rename(&self, from: &Path, to: &Path) -> Result<(), TrainError>;
    /// Creates a symbolic link.
    fn link(&self, target: &Path, link: &Path) -> Result<(), TrainError>;
    /// Removes a directory and its contents.
    fn remove_dir(&self, dir: &Path) -> Result<(), TrainError>;
}

/// The file system.
pub(crate) struct RealDisk;

impl Disk for RealDisk {
    fn create_dir(&self, dir: &Path) -> Result<(), TrainError> {
        Ok(fs_err::create_dir_all(dir)?)
    }

    fn write(&self, path: &Path, write: &dyn Fn(&Path) -> Result<(), TrainError>) -> Result<(), TrainError> {
        write(path)?;
        Ok(fs_err::File::open(path)?.sync_all()?)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), TrainError> {
        fs_err::rename(from, to)?;
        let parent = to.parent().expect("a renamed path has a parent");
        Ok(fs_err::File::open(parent)?.sync_all()?)
    }

    fn link(&self, target: &Path, link: &Path) -> Result<(), TrainError> {
        Ok(fs_err::os::unix::fs::symlink(target, link)?)
    }

    fn remove_dir(&self, dir: &Path) -> Result<(), TrainError> {
        Ok(fs_err::remove_dir_all(dir)?)
    }
}
