//! What a save does to the disk, one method per operation: tests put a disk in its place that fails between any two
//! operations and within each.

use std::path::Path;

use crate::TrainError;

/// Operations of a save, in the order in which a checkpoint needs them.
pub(crate) trait Disk {
    /// Makes a directory and those above it.
    fn create_dir(&self, dir: &Path) -> Result<(), TrainError>;
    /// Has `write` put a whole file at `path`; it is on the disk afterwards.
    fn write(&self, path: &Path, write: &dyn Fn(&Path) -> Result<(), TrainError>) -> Result<(), TrainError>;
    /// Renames, and has the directory remember it.
    fn rename(&self, from: &Path, to: &Path) -> Result<(), TrainError>;
    /// Makes a symbolic link where nothing is yet.
    fn link(&self, target: &Path, link: &Path) -> Result<(), TrainError>;
    /// Removes a directory with all that is in it.
    fn remove_dir(&self, dir: &Path) -> Result<(), TrainError>;
}

/// The disk there is.
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
        let parent = to.parent().expect("what is renamed lies in a directory");
        Ok(fs_err::File::open(parent)?.sync_all()?)
    }

    fn link(&self, target: &Path, link: &Path) -> Result<(), TrainError> {
        Ok(fs_err::os::unix::fs::symlink(target, link)?)
    }

    fn remove_dir(&self, dir: &Path) -> Result<(), TrainError> {
        Ok(fs_err::remove_dir_all(dir)?)
    }
}
