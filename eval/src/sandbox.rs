//! Runs generated programs isolated from the machine.
//!
//! A warden (`sandbox/warden.py`, in the interpreter that the programs need anyway) forks a process, isolates
//! it from everything but the interpreter's own files, makes it an unprivileged user, sets limits, and starts
//! the program in it. The warden itself stays outside, watches time, memory and output, and kills all that the
//! program started. The sandbox tries each [`Isolation`], strongest first, and uses the first that works.

use std::fmt;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

const WARDEN: &str = concat!(include_str!("sandbox/kernel.py"), include_str!("sandbox/warden.py"));

/// Processes and threads of a program at a time.
const PROCESSES: u32 = 32;
/// Open files of a process.
const FILES: u32 = 64;
/// Bytes of the temporary directory, and of any one file.
const DISK: u64 = 64 << 20;
/// Bytes a program may write to its output.
const OUTPUT: u64 = 64 << 10;
/// Bytes at the end of the output that are kept.
const TAIL: usize = 4096;
/// Extra time for the warden, beyond the program's limit.
const GRACE: Duration = Duration::from_secs(10);

/// `[eval.sandbox]`: the interpreter and the limits of generated programs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SandboxConfig {
    /// The Python interpreter, 3.8 or later: a name or a path.
    pub python: PathBuf,
    /// Seconds that a program may take, both of wall-clock time and of one core.
    pub seconds: u64,
    /// Megabytes that a program may use, all its processes together.
    pub memory_mb: u64,
    /// Run programs with only resource limits if no isolation is available; the same as `--allow-unsafe-execution`.
    pub allow_unsafe_execution: bool,
}

impl Default for SandboxConfig {
    fn default() -> Self {
        Self { python: "python3".into(), seconds: 10, memory_mb: 1024, allow_unsafe_execution: false }
    }
}

/// How a program is isolated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// Namespaces for processes, mounts, network and the rest, and a filter of system calls.
    Namespaces,
    /// The same, set up by `bwrap`.
    Bubblewrap,
    /// Landlock and a filter of system calls: one process without network, which reads the interpreter's files
    /// and writes none.
    Landlock,
    /// Resource limits only.
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
pub enum ProgramEnd {
    /// With exit code 0.
    Success {
        /// The end of its output.
        output: String,
    },
    /// In any other way.
    Failure {
        /// Why, in one line.
        why: String,
    },
}

/// Why a program could not be run.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The interpreter does not start.
    #[error("cannot run {}, which generated programs need: install Python 3.8 or later, or set eval.sandbox.python", python.display())]
    NoPython {
        /// The interpreter.
        python: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The interpreter is too old, or is not Python.
    #[error("{} is not Python 3.8 or later with ctypes, which generated programs need: set eval.sandbox.python to one", python.display())]
    BadPython {
        /// The interpreter.
        python: PathBuf,
    },
    /// No isolation works on this machine.
    #[error(
        "generated programs cannot be isolated here ({reasons}). Run as a user who may make namespaces, install bubblewrap, \
         or use Linux 5.13 or later with Landlock; on a disposable machine, --allow-unsafe-execution runs them with \
         limits alone"
    )]
    NoIsolation {
        /// Why each kind failed.
        reasons: String,
    },
    /// The warden did not start, or failed.
    #[error("the sandbox failed: {reason}")]
    Warden {
        /// Why.
        reason: String,
    },
}

/// Runs programs under one kind of isolation.
#[derive(Debug)]
pub struct Sandbox {
    python: PathBuf,
    bwrap: Option<PathBuf>,
    isolation: Isolation,
    limits: SandboxConfig,
}

impl Sandbox {
    /// A sandbox with the strongest isolation that works here.
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

    /// A sandbox with this isolation.
    ///
    /// # Errors
    /// As [`Sandbox::open`]; [`SandboxError::Warden`] if it does not work here.
    pub fn with(isolation: Isolation, limits: &SandboxConfig) -> Result<Self, SandboxError> {
        let bwrap = (isolation == Isolation::Bubblewrap).then(|| find_program("bwrap")).flatten();
        if isolation == Isolation::Bubblewrap && bwrap.is_none() {
            return Err(SandboxError::Warden { reason: "bwrap is not installed".to_owned() });
        }
        let sandbox = Self { python: interpreter(&limits.python)?, bwrap, isolation, limits: limits.clone() };
        match sandbox.run("print('ready')")? {
            ProgramEnd::Success { output } if output.trim() == "ready" => Ok(sandbox),
            ProgramEnd::Success { output } => {
                Err(SandboxError::Warden { reason: format!("unexpected output {output:?}") })
            }
            ProgramEnd::Failure { why } => Err(SandboxError::Warden { reason: why }),
        }
    }

    /// The isolation in force.
    pub fn isolation(&self) -> Isolation {
        self.isolation
    }

    /// Runs a program and returns how it ended.
    ///
    /// # Errors
    /// [`SandboxError::Warden`] if the sandbox failed, not the program.
    pub fn run(&self, program: &str) -> Result<ProgramEnd, SandboxError> {
        let failed = |reason: String| SandboxError::Warden { reason };
        let scratch = tempfile::tempdir().map_err(|error| failed(error.to_string()))?;
        let settings = json!({
            "level": self.isolation.as_str(), "seconds": self.limits.seconds, "memory": self.limits.memory_mb << 20,
            "processes": PROCESSES, "files": FILES, "disk": DISK, "output": OUTPUT, "tail": TAIL,
            "scratch": scratch.path(), "bwrap": self.bwrap,
        });
        let mut command = Command::new(&self.python);
        command.args(["-I", "-S", "-c", WARDEN]).arg(settings.to_string()).current_dir("/").process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut warden = command.spawn().map_err(|error| failed(error.to_string()))?;
        let answer = self.answer(&mut warden, program);
        // Killing the warden also kills what it started.
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
            return Err(failed("the warden has no pipes"));
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

    fn ended(&self, answer: Answer) -> Result<ProgramEnd, SandboxError> {
        let why = match answer {
            Answer::Setup { detail } => return Err(SandboxError::Warden { reason: detail }),
            Answer::Exited { code: 0, tail } => return Ok(ProgramEnd::Success { output: tail }),
            Answer::Exited { code, tail } => match tail.lines().rev().find(|line| !line.trim().is_empty()) {
                Some(line) => line.trim().chars().take(200).collect(),
                None => format!("exit code {code}"),
            },
            Answer::Signal { number } => format!("killed by signal {number}"),
            Answer::Time {} => format!("took longer than {} s", self.limits.seconds),
            Answer::Memory {} => format!("needed more than {} MB", self.limits.memory_mb),
            Answer::Output {} => format!("wrote more than {} kB", OUTPUT >> 10),
        };
        Ok(ProgramEnd::Failure { why })
    }
}

/// The warden's answer.
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

/// The real path of the interpreter: `python` may be a version manager's shim, which is slow to start.
fn interpreter(python: &Path) -> Result<PathBuf, SandboxError> {
    let script = "import sys, ctypes, os; print(sys.executable if sys.version_info >= (3, 8) else '')";
    let output = Command::new(python).args(["-I", "-S", "-c", script]).stdin(Stdio::null()).output();
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
