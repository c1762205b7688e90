//! Replaces a directory by a finished one, so that at every moment one of the two is whole under its name.
//!
//! On Linux and macOS the two directories exchange their names in one step. On a file system that cannot do that, and on
//! other systems, the former directory is renamed to `NAME.former` before the new one gets its name. A process that dies
//! between these two renames leaves no directory `NAME`; [`recover`] then gives the former one its name back.

use std::path::{Path, PathBuf};

use anyhow::Context;

/// Gives the directory `new` the name `target`, and removes the directory that had it. Both are in one directory.
///
/// # Errors
/// A directory that cannot be renamed or removed.
pub fn replace_dir(new: &Path, target: &Path) -> anyhow::Result<()> {
    recover(target)?;
    if !target.exists() {
        fs_err::rename(new, target)?;
    } else if exchange(new, target) {
        remove(new)?;
    } else {
        replace_in_two_steps(new, target)?;
    }
    sync(target)
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

/// The path with `.SUFFIX` added to its name.
pub fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{suffix}"));
    path.with_file_name(name)
}

fn former(target: &Path) -> PathBuf {
    with_suffix(target, "former")
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
    fs_err::rename(new, target)?;
    remove(&former)
}

/// Makes the renames durable.
fn sync(target: &Path) -> anyhow::Result<()> {
    let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    #[cfg(unix)]
    fs_err::File::open(parent)?.sync_all()?;
    #[cfg(not(unix))]
    let _ = parent;
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
                while !ended.load(Ordering::Relaxed) {
                    assert!(!can_exchange || target.join("config.json").exists(), "no export at all");
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
        assert_eq!(content(&target), ["new", "new"]);
        assert!(!new.exists() && !old_name.exists());
    }
}
