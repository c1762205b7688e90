//! Replaces a directory by a finished one, so that at every moment one of the two is whole under its name where the file
//! system can exchange names.
//!
//! On Linux and macOS the two directories exchange their names in one step. On a file system that cannot do that, and on
//! other systems, the former directory is renamed to `.NAME.jacobi-former` before the new one gets its name. A process that
//! dies between these two renames leaves no directory `NAME`; [`recover`] then gives the former one its name back.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::Context;

/// Gives the directory `new` the name `target`, and removes the directory that had it. Both are in one directory. The former
/// one is removed when the new one and its name are on the disk.
///
/// # Errors
/// A directory that cannot be synced, renamed or removed.
pub fn replace_dir(new: &Path, target: &Path) -> anyhow::Result<()> {
    recover(target)?;
    sync_all(new)?;
    let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !target.exists() {
        fs_err::rename(new, target)?;
        sync(parent)
    } else if exchange(new, target) {
        sync(parent)?;
        remove(new)
    } else {
        replace_in_two_steps(new, target)?;
        sync(parent)?;
        remove(&former(target))
    }
}

/// Completes what a killed process has left: the directory `target` is whole if there is one.
///
/// # Errors
/// A directory that cannot be renamed or removed.
pub fn recover(target: &Path) -> anyhow::Result<()> {
    let former = former(target);
    match (former.exists(), target.exists()) {
        (true, false) => Ok(fs_err::rename(&former, target)?),
        (true, true) => remove(&former),
        (false, _) => Ok(()),
    }
}

/// Removes a directory, if there is one.
///
/// # Errors
/// A directory that cannot be removed.
pub fn remove(dir: &Path) -> anyhow::Result<()> {
    if dir.exists() {
        fs_err::remove_dir_all(dir).with_context(|| format!("cannot replace {}", dir.display()))?;
    }
    Ok(())
}

/// The path of `.NAME.jacobi-PURPOSE` in the directory of `target`, whose name is NAME: no user chooses such a name.
pub fn sibling(target: &Path, purpose: &str) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(target.file_name().unwrap_or_default());
    name.push(format!(".jacobi-{purpose}"));
    target.with_file_name(name)
}

fn former(target: &Path) -> PathBuf {
    sibling(target, "former")
}

/// Exchanges the names of two directories; false where that is not possible.
#[cfg(any(target_os = "linux", target_os = "macos"))]
fn exchange(a: &Path, b: &Path) -> bool {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE).is_ok()
}

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
fn exchange(_: &Path, _: &Path) -> bool {
    false
}

fn replace_in_two_steps(new: &Path, target: &Path) -> anyhow::Result<()> {
    let former = former(target);
    fs_err::rename(target, &former).with_context(|| format!("cannot replace {}", target.display()))?;
    Ok(fs_err::rename(new, target)?)
}

/// Makes the files of `dir` and of the directories in it durable, with their names.
fn sync_all(dir: &Path) -> anyhow::Result<()> {
    for entry in fs_err::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() { sync_all(&path)? } else { sync(&path)? }
    }
    sync(dir)
}

/// Makes the content of a file durable, or the names in a directory.
fn sync(path: &Path) -> anyhow::Result<()> {
    #[cfg(unix)]
    fs_err::File::open(path)?.sync_all()?;
    #[cfg(not(unix))]
    let _ = path;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    fn filled(dir: &Path, text: &str) {
        fs_err::create_dir_all(dir).unwrap();
        for name in ["config.json", "model.safetensors"] {
            fs_err::write(dir.join(name), text).unwrap();
        }
    }

    fn content(dir: &Path) -> Vec<String> {
        let mut files: Vec<_> = fs_err::read_dir(dir).unwrap().flatten().map(|entry| entry.path()).collect();
        files.sort();
        files.iter().map(|file| fs_err::read_to_string(file).unwrap()).collect()
    }

    /// Whether the files that one opened directory has are equal; none if they were removed meanwhile.
    #[cfg(any(target_os = "linux", target_os = "macos"))]
    fn is_of_one_export(dir: &Path) -> Option<bool> {
        use rustix::fs::{Mode, OFlags, openat};
        let opened = fs_err::File::open(dir).expect("there is always an export");
        let read = |name| {
            let file = openat(opened.file(), name, OFlags::RDONLY, Mode::empty()).ok()?;
            Some(std::io::read_to_string(std::fs::File::from(file)).unwrap())
        };
        let (config, weights) = (read("config.json")?, read("model.safetensors")?);
        Some(config == weights && !config.is_empty())
    }

    #[cfg(not(any(target_os = "linux", target_os = "macos")))]
    fn is_of_one_export(_: &Path) -> Option<bool> {
        None
    }

    #[test]
    fn a_directory_is_whole_at_every_moment_while_it_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let (target, new) = (dir.path().join("export"), dir.path().join("export.partial"));
        filled(&target, "0");
        filled(&new, "0");
        // Elsewhere only the result is checked.
        let can_exchange = exchange(&new, &target);
        remove(&new).unwrap();
        let ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                while can_exchange && !ended.load(Ordering::Relaxed) {
                    assert_ne!(is_of_one_export(&target), Some(false), "files of two exports");
                }
            });
            for round in 1..300 {
                filled(&new, &round.to_string());
                replace_dir(&new, &target).unwrap();
                assert_eq!(content(&target), [round.to_string(), round.to_string()]);
                assert!(!new.exists());
            }
            ended.store(true, Ordering::Relaxed);
            reader.join().unwrap();
        });
    }

    #[test]
    fn a_process_that_dies_between_two_renames_leaves_a_directory_to_recover() {
        let dir = tempfile::tempdir().unwrap();
        let (target, new) = (dir.path().join("export"), dir.path().join("export.partial"));
        let old_name = former(&target);
        // Died after the first rename, and after the second.
        for has_new_name in [false, true] {
            filled(&old_name, "old");
            if has_new_name {
                filled(&target, "new");
            }
            recover(&target).unwrap();
            let expected = if has_new_name { "new" } else { "old" };
            assert_eq!(content(&target), [expected, expected]);
            assert!(!old_name.exists());
            remove(&target).unwrap();
        }
        filled(&target, "old");
        filled(&new, "new");
        replace_in_two_steps(&new, &target).unwrap();
        assert_eq!(
            (content(&target), content(&old_name)),
            (vec!["new".to_owned(); 2], vec!["old".to_owned(); 2])
        );
        assert!(!new.exists());
    }

    #[test]
    fn a_directory_that_a_user_has_named_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (target, new, backup) =
            (dir.path().join("export"), dir.path().join("export.partial"), dir.path().join("export.former"));
        filled(&target, "old");
        filled(&new, "new");
        filled(&backup, "backup");
        replace_dir(&new, &target).unwrap();
        assert_eq!(content(&target), ["new", "new"]);
        assert_eq!(content(&backup), ["backup", "backup"]);
    }
}
