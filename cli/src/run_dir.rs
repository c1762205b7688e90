//! The run directory: its paths, its lock, and the record of how it was made.

use std::fs::{File, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use jacobi_datasets::write_atomic;

/// The paths inside a run directory.
#[derive(Clone, Debug)]
pub struct RunDir {
    root: PathBuf,
}

impl RunDir {
    /// The run directory at `root`. Touches no file.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_path_buf() }
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The resolved recipe.
    pub fn config(&self) -> PathBuf {
        self.root.join("config.toml")
    }

    /// The command lines of this run.
    pub fn command(&self) -> PathBuf {
        self.root.join("command.txt")
    }

    /// Versions, devices, threads.
    pub fn environment(&self) -> PathBuf {
        self.root.join("env.json")
    }

    /// Which stages have been started and finished, under which settings.
    pub fn ledger(&self) -> PathBuf {
        self.root.join("stages.json")
    }

    /// The directory of round `round` (from 1).
    pub fn round(&self, round: usize) -> PathBuf {
        self.root.join(format!("round-{round}"))
    }

    /// The trajectory shards of round `round`.
    pub fn trajectories(&self, round: usize) -> PathBuf {
        self.round(round).join("trajectories")
    }

    /// The exported model.
    pub fn export(&self) -> PathBuf {
        self.root.join("export")
    }

    /// The report.
    pub fn report(&self) -> PathBuf {
        self.root.join("report")
    }

    /// The report on training without an evaluation.
    pub fn training(&self) -> PathBuf {
        self.root.join("training")
    }

    /// The results of tuning the exported model.
    pub fn tune(&self) -> PathBuf {
        self.root.join("tune")
    }

    /// Whether the directory can be made or written into, as far as that can be told without writing.
    ///
    /// # Errors
    /// A file in its place or above it, or a directory that is read-only.
    pub fn check_writable(&self) -> anyhow::Result<()> {
        let there = self.root.ancestors().find(|path| path.exists());
        let is_writable =
            |path: &Path| path.metadata().is_ok_and(|it| it.is_dir() && !it.permissions().readonly());
        // The ancestors of a relative path end with the empty path: the working directory.
        anyhow::ensure!(there.is_none_or(is_writable), not_writable(&self.root));
        Ok(())
    }

    /// Writes `config.toml`, `env.json` and a line of `command.txt`.
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub fn record(&self, config: &str, command: &str) -> anyhow::Result<()> {
        let environment = serde_json::to_string_pretty(&crate::environment::describe())?;
        write_text(&self.config(), config)?;
        write_text(&self.environment(), &(environment + "\n"))?;
        let path = self.command();
        let former = if path.is_file() { fs_err::read_to_string(&path)? } else { String::new() };
        if former.lines().next_back() != Some(command) {
            write_text(&path, &format!("{former}{command}\n"))?;
        }
        Ok(())
    }
}

fn not_writable(dir: &Path) -> String {
    format!("cannot write into {}: set output_dir to a directory that you may write to", dir.display())
}

/// Writes a text file atomically.
///
/// # Errors
/// When its directory cannot be written.
pub fn write_text(path: &Path, text: &str) -> anyhow::Result<()> {
    Ok(write_atomic(path, |out| out.write_all(text.as_bytes()))?)
}

/// An exclusive lock on a directory. It ends when dropped or when the process ends in any way.
#[derive(Debug)]
pub struct DirLock {
    path: PathBuf,
    /// Locked.
    _file: File,
}

impl DirLock {
    /// Creates `dir` if it is missing and locks it.
    ///
    /// # Errors
    /// When the directory cannot be created or written, or another process holds the lock.
    pub fn take(dir: &Path) -> anyhow::Result<Self> {
        let refused = || not_writable(dir);
        fs_err::create_dir_all(dir).with_context(refused)?;
        let path = dir.join(".lock");
        loop {
            let file = Self::lock(dir, &path, &refused)?;
            // The former holder may have removed the file in the meantime: then this lock is void, and we try again.
            let is_there = fs_err::metadata(&path).is_ok_and(|there| {
                file.metadata().is_ok_and(|held| (held.dev(), held.ino()) == (there.dev(), there.ino()))
            });
            if is_there {
                return Ok(Self { path, _file: file });
            }
        }
    }

    fn lock(dir: &Path, path: &Path, refused: &dyn Fn() -> String) -> anyhow::Result<File> {
        let mut options = fs_err::OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(path);
        let (mut file, _) = file.with_context(refused)?.into_parts();
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                file.read_to_string(&mut holder).with_context(refused)?;
                let (dir, holder) = (dir.display(), holder.trim());
                return Err(anyhow!(
                    "{dir} is in use by process {holder}: wait for it, or set another output_dir"
                ));
            }
            Err(TryLockError::Error(error)) => return Err(error).with_context(refused),
        }
        file.set_len(0).with_context(refused)?;
        writeln!(file, "{}", std::process::id()).with_context(refused)?;
        Ok(file)
    }
}

impl Drop for DirLock {
    fn drop(&mut self) {
        // A lock file that stays does no harm.
        let _ = fs_err::remove_file(&self.path);
    }
}

/// This process's command line, quoted for a shell.
pub fn command_line() -> String {
    let quote = |argument: String| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
        if !argument.is_empty() && argument.chars().all(plain) {
            argument
        } else {
            format!("'{}'", argument.replace('\'', r"'\''"))
        }
    };
    let mut words: Vec<String> =
        std::env::args_os().map(|word| quote(word.to_string_lossy().into_owned())).collect();
    // The bare name, whatever path started the program: this is what the user would type again.
    if let Some(program) = words.first_mut() {
        *program = "jacobi".into();
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_one_writer_at_a_time() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("runs").join("a");
        let first = DirLock::take(&dir).unwrap();
        let message = DirLock::take(&dir).unwrap_err().to_string();
        assert!(message.contains(&format!("in use by process {}", std::process::id())), "{message}");
        drop(first);
        drop(DirLock::take(&dir).unwrap());
        assert_eq!(fs_err::read_dir(&dir).unwrap().count(), 0);
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_named() {
        let parent = tempfile::tempdir().unwrap();
        let file = parent.path().join("file");
        fs_err::write(&file, "").unwrap();
        let message = DirLock::take(&file.join("run")).unwrap_err().to_string();
        assert!(message.contains("file/run") && message.contains("output_dir"), "{message}");
    }

    #[test]
    fn each_new_command_is_recorded_once() {
        let parent = tempfile::tempdir().unwrap();
        let dir = RunDir::new(parent.path());
        for command in ["jacobi run -c a", "jacobi run -c a", "jacobi run -c b"] {
            dir.record("seed = 1\n", command).unwrap();
        }
        assert_eq!(fs_err::read_to_string(dir.command()).unwrap(), "jacobi run -c a\njacobi run -c b\n");
        assert_eq!(fs_err::read_to_string(dir.config()).unwrap(), "seed = 1\n");
        assert!(fs_err::read_to_string(dir.environment()).unwrap().contains("libtorch"));
    }
}
