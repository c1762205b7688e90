//! Ranks as processes. `jacobi run` and `jacobi train` with `--nproc N` start the same command N times on this machine, give
//! the processes a store for their rendezvous, and end them together. They set torchrun's environment variables, so a rank
//! connects in the same way under torchrun, Slurm and this launcher.

use std::ffi::OsString;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use jacobi_datasets::Membership;
use jacobi_model::DeviceChoice;
use jacobi_trainer::{Peers, RankFailure, Rendezvous};

use crate::exit::{self, RanksEnded, UsageError, signal_name};
use crate::output;
use crate::signals::Stop;

/// Once a rank has failed, the others are killed after this time.
const GRACE: Duration = Duration::from_secs(10);

/// Set for the processes started here: they stop when their standard input closes.
const LAUNCHED: &str = "JACOBI_LAUNCHED";

/// Connects to the ranks that the environment describes; without a launcher, to none.
///
/// # Errors
/// [`jacobi_datasets::RankError`] for an incomplete environment; ranks that do not connect within `timeout`;
/// [`UsageError`] for one GPU that all ranks would share.
pub fn connect(choice: DeviceChoice, timeout: Duration) -> anyhow::Result<Peers> {
    let Some(member) = membership()? else { return Ok(Peers::alone()) };
    if matches!(choice, DeviceChoice::NumberedGpu(_)) && member.rank.world_size > 1 {
        let text = format!(
            "model.device = \"{choice}\" is one GPU for {} ranks: \"cuda\" or \"auto\" gives each rank its own",
            member.rank.world_size
        );
        return Err(UsageError(text).into());
    }
    Ok(Peers::connect(&member, timeout, Box::new(abandon))?)
}

fn membership() -> anyhow::Result<Option<Membership>> {
    Ok(Membership::from_environment(|name| std::env::var(name).ok())?)
}

/// Ends this process after another rank has failed and this one is stuck in a collective.
#[expect(clippy::exit, reason = "the thread that should end the process is stuck")]
fn abandon(failure: &RankFailure) {
    output::error(&anyhow::Error::new(failure.clone()));
    std::process::exit(1);
}

/// Listens for signals, for the launcher's request to stop, and for requests to other ranks.
///
/// # Errors
/// When the system refuses a handler.
pub fn listen(peers: &Peers) -> std::io::Result<Stop> {
    let stop = if peers.is_first() { Stop::listen()? } else { Stop::quietly()? };
    if std::env::var_os(LAUNCHED).is_some() {
        stop.follow_launcher();
    }
    if peers.world_size() > 1 {
        stop.share(peers.stop_exchange());
    }
    Ok(stop)
}

/// Does `work`, the whole work of this rank. Then it announces its end to the other ranks, or reports the error to them and adds
/// this rank's number to it.
///
/// # Errors
/// That of `work`.
pub fn together<T>(peers: &Peers, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    match work() {
        Err(error) if peers.world_size() > 1 && exit::signal(&error).is_none() => {
            // A failure of another rank is not reported back.
            if !error.chain().any(|cause| cause.is::<RankFailure>()) {
                peers.give_up(&format!("{error:#}"));
            }
            Err(error.context(format!("rank {} of {} fails", peers.rank(), peers.world_size())))
        }
        done => {
            if done.is_err() {
                peers.wait_for_first_to_leave();
            }
            peers.leave();
            done
        }
    }
}

/// Runs `count` ranks of this process's command line without `--nproc`.
///
/// # Errors
/// [`RanksEnded`] when one failed; [`exit::Interrupted`] after a signal; [`UsageError`] when started within a rank.
pub fn start(count: usize, stop: &Stop) -> anyhow::Result<()> {
    if membership()?.is_some() {
        let text = "--nproc starts ranks, but this process already is one (RANK or a Slurm step is set): leave it out";
        return Err(UsageError(text.to_owned()).into());
    }
    let rendezvous = Rendezvous::open()?;
    let program = std::env::current_exe().context("cannot find the program to start")?;
    let arguments = without_count(std::env::args_os().skip(1));
    let start = |rank: usize| {
        let mut command = Command::new(&program);
        command.args(&arguments).stdin(Stdio::piped()).env(LAUNCHED, "1");
        for (name, value) in rendezvous.variables(rank, count) {
            command.env(name, value);
        }
        if std::env::var_os("OMP_NUM_THREADS").is_none() {
            command.env("OMP_NUM_THREADS", (num_cpus::get() / count).max(1).to_string());
        }
        command.spawn().with_context(|| format!("cannot start rank {rank}"))
    };
    let mut ranks = Running { running: Vec::new(), ended: Vec::new() };
    for rank in 0..count {
        // If a start fails, dropping `ranks` kills those that run.
        ranks.running.push((rank, start(rank)?));
    }
    ranks.wait(stop)?;
    stop.check()?;
    if ranks.ended.iter().all(|(_, end)| *end == End::Done) {
        return Ok(());
    }
    let failed = ranks.ended.iter().filter(|(_, end)| *end != End::Done);
    let failed = failed.map(|(rank, end)| format!("rank {rank} of {count} {}", end.describe()));
    Err(RanksEnded(failed.collect::<Vec<_>>().join(", ")).into())
}

/// The arguments without `--nproc N`.
fn without_count(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut kept = Vec::new();
    let mut arguments = arguments;
    while let Some(argument) = arguments.next() {
        match argument.to_str() {
            Some("--nproc") => drop(arguments.next()),
            Some(text) if text.starts_with("--nproc=") => {}
            _ => kept.push(argument),
        }
    }
    kept
}

/// How a rank ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Done,
    Failed(i32),
    Signal(i32),
    /// It still ran some time after another rank had failed.
    Killed,
}

impl End {
    fn of(status: ExitStatus) -> Self {
        match (status.code(), std::os::unix::process::ExitStatusExt::signal(&status)) {
            (Some(0), _) => Self::Done,
            (Some(code), _) => Self::Failed(code),
            (None, signal) => Self::Signal(signal.unwrap_or(0)),
        }
    }

    fn describe(self) -> String {
        match self {
            Self::Done => "succeeded".into(),
            Self::Failed(code) => format!("ended with exit code {code}"),
            Self::Signal(number) => format!("was ended by {}", signal_name(number)),
            Self::Killed => "was killed, because it did not end after another rank had failed".into(),
        }
    }
}

struct Running {
    running: Vec<(usize, Child)>,
    /// In the order of their ends.
    ended: Vec<(usize, End)>,
}

impl Running {
    /// Waits until all have ended.
    fn wait(&mut self, stop: &Stop) -> std::io::Result<()> {
        let mut failed: Option<Instant> = None;
        while !self.running.is_empty() {
            self.collect()?;
            let is_stopped = stop.check().is_err();
            if !is_stopped && self.ended.iter().any(|(_, end)| *end != End::Done) {
                failed = failed.or_else(|| Some(Instant::now()));
            }
            if is_stopped || failed.is_some() {
                // Closing its standard input asks a rank to stop at its next safe point.
                self.running.iter_mut().for_each(|(_, child)| drop(child.stdin.take()));
            }
            if failed.is_some_and(|since| since.elapsed() > GRACE) {
                self.kill_all();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn collect(&mut self) -> std::io::Result<()> {
        let mut running = Vec::new();
        for (rank, mut child) in std::mem::take(&mut self.running) {
            match child.try_wait()? {
                Some(status) => self.ended.push((rank, End::of(status))),
                None => running.push((rank, child)),
            }
        }
        self.running = running;
        Ok(())
    }

    fn kill_all(&mut self) {
        for (rank, mut child) in std::mem::take(&mut self.running) {
            let _ = child.kill().and_then(|()| child.wait());
            self.ended.push((rank, End::Killed));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_get_the_command_without_their_number() {
        let rows: [(&[&str], &[&str]); 3] = [
            (&["train", "--nproc", "2", "-c", "a"], &["train", "-c", "a"]),
            (&["train", "-c", "a", "--nproc=4"], &["train", "-c", "a"]),
            (&["train"], &["train"]),
        ];
        for (typed, expected) in rows {
            assert_eq!(without_count(typed.iter().map(OsString::from)), expected);
        }
    }
}
