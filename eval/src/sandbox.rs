//! Generated programs, run where they can do no harm.
//!
//! A warden (`sandbox/warden.py`, in the interpreter that the programs need anyway) forks a cell, shuts it off from
//! everything but the interpreter's own files, becomes an unprivileged user, sets limits, and starts the program. It
//! stays outside, watches time, memory and output, and kills whatever is left. What shuts the cell off is found out by
//! trying, the strongest first: [`Isolation`].

use std::fmt;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;

use crate::config::SandboxConfig;

const WARDEN: &str = concat!(include_str!("sandbox/kernel.py"), include_str!("sandbox/warden.py"));

/// Processes and threads at a time.
const PROCESSES: u32 = 32;
/// Open files of a process.
const FILES: u32 = 64;
/// Bytes of the temporary directory, and of any one file.
const DISK: u64 = 64 << 20;
/// Bytes a program may write to its output.
const OUTPUT: u64 = 64 << 10;
/// How much of their end is kept.
const TAIL: usize = 4096;
/// How long the warden itself may take beyond the program's time.
const GRACE: Duration = Duration::from_secs(10);

/// What shuts a program off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// Namespaces of its own for processes, mounts, network and the rest, and a list of refused system calls.
    Namespaces,
    /// The same, made by `bwrap`.
    Bubblewrap,
    /// One process that can read the interpreter's files, write none, and reach nobody: Landlock and refused system calls.
    Landlock,
    /// Limits alone.
    None,
}

impl Isolation {
    fn as_str(self) -> &'static str {
        match self {
            Self::Namespaces => "namespaces",
            Self::Bubblewrap => "bubblewrap",
            Self::Landlock => "landlock",
            Self::None => "none",
        }
    }
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How a program ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with exit code 0.
    Well {
        /// The end of what it wrote.
        output: String,
    },
    /// Otherwise.
    Badly {
        /// Why, in a line.
        why: String,
    },
}

/// Why a program could not be run at all.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// There is no interpreter.
    #[error("cannot run {}, which generated programs need: install Python 3.8 or later, or set eval.sandbox.python", python.display())]
    NoPython {
        /// What was tried.
        python: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// It does not work.
    #[error("{} is no Python 3.8 or later with ctypes, which generated programs need: set eval.sandbox.python to one", python.display())]
    BadPython {
        /// What was tried.
        python: PathBuf,
    },
    /// This machine isolates nothing.
    #[error(
        "generated programs cannot be isolated here ({reasons}). Run as a user who may make namespaces, install bubblewrap, \
         or use Linux 5.13 or later with Landlock; on a machine that may be harmed, --allow-unsafe-execution runs them with \
         limits alone"
    )]
    NoIsolation {
        /// What each kind failed at.
        reasons: String,
    },
    /// The warden could not be started or broke.
    #[error("the sandbox failed: {reason}")]
    Warden {
        /// At what.
        reason: String,
    },
}

/// A place to run programs in.
#[derive(Debug)]
pub struct Sandbox {
    python: PathBuf,
    bwrap: Option<PathBuf>,
    isolation: Isolation,
    limits: SandboxConfig,
}

impl Sandbox {
    /// Finds the strongest isolation there is by trying.
    ///
    /// # Errors
    /// [`SandboxError::NoPython`], [`SandboxError::BadPython`]; [`SandboxError::NoIsolation`] unless
    /// `allow_unsafe_execution` is set.
    pub fn open(limits: &SandboxConfig) -> Result<Self, SandboxError> {
        let mut reasons = Vec::new();
        let possible = [Isolation::Namespaces, Isolation::Bubblewrap, Isolation::Landlock];
        let last = limits.allow_unsafe_execution.then_some(Isolation::None);
        for isolation in possible.into_iter().chain(last) {
            match Self::with(isolation, limits) {
                Ok(sandbox) => return Ok(sandbox),
                Err(SandboxError::Warden { reason }) => reasons.push(format!("{isolation}: {reason}")),
                Err(error) => return Err(error),
            }
        }
        Err(SandboxError::NoIsolation { reasons: reasons.join("; ") })
    }

    /// The same with this isolation and no other.
    ///
    /// # Errors
    /// As [`Sandbox::open`]; [`SandboxError::Warden`] where it cannot be had.
    pub fn with(isolation: Isolation, limits: &SandboxConfig) -> Result<Self, SandboxError> {
        let bwrap = (isolation == Isolation::Bubblewrap).then(|| find_program("bwrap")).flatten();
        if isolation == Isolation::Bubblewrap && bwrap.is_none() {
            return Err(SandboxError::Warden { reason: "there is no bwrap".to_owned() });
        }
        let sandbox = Self { python: interpreter(&limits.python)?, bwrap, isolation, limits: limits.clone() };
        match sandbox.run("print('ready')")? {
            Ended::Well { output } if output.trim() == "ready" => Ok(sandbox),
            Ended::Well { output } => Err(SandboxError::Warden { reason: format!("it said {output:?}") }),
            Ended::Badly { why } => Err(SandboxError::Warden { reason: why }),
        }
    }

    /// What is in force.
    pub fn isolation(&self) -> Isolation {
        self.isolation
    }

    /// Runs a program to its end. Whatever it does comes back as how it ended.
    ///
    /// # Errors
    /// [`SandboxError::Warden`]: nothing about the program, but of the machine.
    pub fn run(&self, program: &str) -> Result<Ended, SandboxError> {
        let failed = |reason: String| SandboxError::Warden { reason };
        let scratch = tempfile::tempdir().map_err(|error| failed(error.to_string()))?;
        let ask = json!({
            "level": self.isolation.as_str(), "seconds": self.limits.seconds, "memory": self.limits.memory_mb << 20,
            "processes": PROCESSES, "files": FILES, "disk": DISK, "output": OUTPUT, "tail": TAIL,
            "scratch": scratch.path(), "bwrap": self.bwrap,
        });
        let mut command = Command::new(&self.python);
        command.args(["-I", "-S", "-c", WARDEN]).arg(ask.to_string()).current_dir("/").process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut warden = command.spawn().map_err(|error| failed(error.to_string()))?;
        let answer = self.answer(&mut warden, program);
        // It has ended or is to blame; its cells die with it.
        let _ = warden.kill();
        let _ = warden.wait();
        let answer = answer?;
        let answer: Answer =
            serde_json::from_str(&answer).map_err(|error| failed(format!("{error}: {answer:?}")))?;
        self.ended(answer)
    }

    fn answer(&self, warden: &mut Child, program: &str) -> Result<String, SandboxError> {
        let failed = |reason: &str| SandboxError::Warden { reason: reason.to_owned() };
        let (Some(mut stdin), Some(mut stdout)) = (warden.stdin.take(), warden.stdout.take()) else {
            return Err(failed("it has no pipes"));
        };
        stdin.write_all(program.as_bytes()).map_err(|error| failed(&error.to_string()))?;
        drop(stdin);
        let (send, receive) = mpsc::channel();
        std::thread::spawn(move || {
            let mut text = String::new();
            let read = stdout.read_to_string(&mut text);
            let _ = send.send(read.map(|_| text));
        });
        match receive.recv_timeout(Duration::from_secs(self.limits.seconds) + GRACE) {
            Ok(Ok(text)) => Ok(text),
            Ok(Err(error)) => Err(failed(&error.to_string())),
            Err(_) => Err(failed("the warden does not answer")),
        }
    }

    fn ended(&self, answer: Answer) -> Result<Ended, SandboxError> {
        let why = match answer {
            Answer::Setup { detail } => return Err(SandboxError::Warden { reason: detail }),
            Answer::Exited { code: 0, tail } => return Ok(Ended::Well { output: tail }),
            Answer::Exited { code, tail } => match tail.lines().rev().find(|line| !line.trim().is_empty()) {
                Some(line) => line.trim().chars().take(200).collect(),
                None => format!("exit code {code}"),
            },
            Answer::Signal { number } => format!("killed by signal {number}"),
            Answer::Time {} => format!("took longer than {} s", self.limits.seconds),
            Answer::Memory {} => format!("needed more than {} MB", self.limits.memory_mb),
            Answer::Output {} => format!("wrote more than {} kB", OUTPUT >> 10),
        };
        Ok(Ended::Badly { why })
    }
}

/// What the warden says.
#[derive(Debug, Deserialize)]
#[serde(tag = "how", rename_all = "lowercase")]
enum Answer {
    Setup { detail: String },
    Exited { code: i32, tail: String },
    Signal { number: i32 },
    Time {},
    Memory {},
    Output {},
}

/// The interpreter behind a name: a shim would otherwise be asked each time.
fn interpreter(python: &Path) -> Result<PathBuf, SandboxError> {
    let asked = "import sys, ctypes, os; print(sys.executable if sys.version_info >= (3, 8) else '')";
    let output = Command::new(python).args(["-I", "-S", "-c", asked]).stdin(Stdio::null()).output();
    let output = output.map_err(|source| SandboxError::NoPython { python: python.to_owned(), source })?;
    let path = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    if path.is_file() { Ok(path) } else { Err(SandboxError::BadPython { python: python.to_owned() }) }
}

fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}

#[cfg(test)]
mod tests;
