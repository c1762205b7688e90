//! Several processes of one job: this process's rank, its share of the prompts, and the rendezvous of
//! processes that train together.

use std::path::{Path, PathBuf};

/// One of `world_size` processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rank {
    /// From 0.
    pub rank: usize,
    /// Number of processes.
    pub world_size: usize,
}

/// Environment variables that do not describe a rank.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RankError {
    /// One variable of a pair.
    #[error("{set} is set, {missing} is not: set both, or neither")]
    Partial {
        /// The variable that is set.
        set: &'static str,
        /// The variable that is not.
        missing: &'static str,
    },
    /// Some of the variables that are needed together.
    #[error(
        "{} set, {} not: processes that train together need {}; set all, as torchrun does, or none",
        are(set), are(missing), MEMBERSHIP.join(", ")
    )]
    Incomplete {
        /// Variables that are set.
        set: Vec<&'static str>,
        /// Variables that are not.
        missing: Vec<&'static str>,
    },
    /// A Slurm step of several tasks without a rendezvous address.
    #[error(
        "{missing} is not set: {tasks} tasks of a Slurm step train together and need a rendezvous address; see \
         scripts/launch.sbatch, or start one task"
    )]
    NoRendezvous {
        /// The variable that is not set.
        missing: &'static str,
        /// Tasks of the step.
        tasks: usize,
    },
    /// Not a number.
    #[error("{name} is `{value}`, not a number")]
    NoNumber {
        /// The variable.
        name: &'static str,
        /// Its value.
        value: String,
    },
    /// One task of a Slurm array, queued again alone, so that the size of the array is unknown.
    #[error(
        "SLURM_ARRAY_TASK_ID is {id} and SLURM_ARRAY_TASK_COUNT is 1: to queue one task of an array \
         again, pass --rank {id} and --world-size with the number of tasks of the array"
    )]
    LoneTask {
        /// Its number.
        id: usize,
    },
    /// A rank outside the job.
    #[error("rank {rank} of {world_size}: ranks are counted from 0, there are {world_size}")]
    OutOfRange {
        /// The rank.
        rank: usize,
        /// Number of processes.
        world_size: usize,
    },
}

impl Rank {
    /// Checks that `rank` is below `world_size`.
    ///
    /// # Errors
    /// [`RankError::OutOfRange`].
    pub fn new(rank: usize, world_size: usize) -> Result<Self, RankError> {
        if rank >= world_size {
            return Err(RankError::OutOfRange { rank, world_size });
        }
        Ok(Self { rank, world_size })
    }

    /// The rank that the environment describes, from two sources. The first is `RANK` and `WORLD_SIZE` as
    /// torchrun sets them, or else the task of a Slurm step of several tasks. The second is
    /// `SLURM_ARRAY_TASK_ID` and `SLURM_ARRAY_TASK_COUNT` (with `_MIN` and `_STEP` for arrays that do not
    /// count 0, 1, 2, ..). For an array of jobs of several processes, the world size is the product of both. `None` for
    /// a single process.
    ///
    /// # Errors
    /// [`RankError`] for one variable of a pair, for a value that is not a number, and for a single task of an
    /// array that is not the first.
    pub fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, RankError> {
        let variables = Variables(&variable);
        let job = match variables.pair("RANK", "WORLD_SIZE")? {
            Some(torchrun) => Some(torchrun),
            None => variables.slurm_step()?,
        };
        let array = variables.pair("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT")?;
        let first = variables.number("SLURM_ARRAY_TASK_MIN")?.unwrap_or(0);
        let step = variables.number("SLURM_ARRAY_TASK_STEP")?.unwrap_or(1).max(1);
        if let Some((id @ 1.., 1)) = array {
            return Err(RankError::LoneTask { id });
        }
        let array = array.map(|(id, count)| (id.saturating_sub(first) / step, count));
        let (rank, world_size) = match (array, job) {
            (None, None) => return Ok(None),
            (Some(only), None) | (None, Some(only)) => only,
            (Some((task, tasks)), Some((rank, ranks))) => (task * ranks + rank, tasks * ranks),
        };
        Self::new(rank, world_size).map(|rank| Some(rank).filter(|_| world_size > 1))
    }

    /// Whether a prompt with this hash belongs to this rank. Equal prompts have the same rank, so duplicates
    /// are found.
    pub fn owns(self, content_hash: u128) -> bool {
        content_hash % self.world_size as u128 == self.rank as u128
    }

    /// The directory for the shards of this rank.
    pub fn directory(self, output: &Path) -> PathBuf {
        output.join(format!("rank-{:05}-of-{:05}", self.rank, self.world_size))
    }
}

/// The rank among the processes of this machine, from torchrun or Slurm; 0 without either.
///
/// # Errors
/// [`RankError::NoNumber`].
pub fn local_rank(variable: impl Fn(&str) -> Option<String>) -> Result<usize, RankError> {
    let variables = Variables(&variable);
    Ok(variables.number("LOCAL_RANK")?.or(variables.number("SLURM_LOCALID")?).unwrap_or(0))
}

/// Variables that processes training together need.
const MEMBERSHIP: [&str; 5] = ["RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"];

/// A process that trains together with others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// Rank among all processes.
    pub rank: Rank,
    /// Rank among the processes of its machine.
    pub local_rank: usize,
    /// Host of the rendezvous store.
    pub host: String,
    /// Port of the rendezvous store.
    pub port: u16,
    /// The process that runs the store.
    pub keeper: Keeper,
    /// How often the launcher has restarted the processes.
    pub attempt: usize,
}

/// The process that runs the rendezvous store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeper {
    /// Rank 0.
    FirstRank,
    /// The launcher: torchrun, or `jacobi train --nproc`.
    Launcher,
}

impl Membership {
    /// The membership that the environment describes: the variables of torchrun, or the task of a Slurm step
    /// together with `MASTER_ADDR` and `MASTER_PORT`. `None` without these variables and for a single process.
    ///
    /// # Errors
    /// [`RankError`] for some of the variables without the others, and for a value that is not a number.
    pub fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, RankError> {
        let variables = Variables(&variable);
        let (set, missing): (Vec<&str>, Vec<&str>) =
            MEMBERSHIP.into_iter().partition(|name| variables.text(name).is_some());
        let step = variables.slurm_step()?;
        let (rank, local_rank) = match step {
            _ if missing.is_empty() => {
                let (rank, world_size) =
                    variables.pair("RANK", "WORLD_SIZE")?.expect("none of them is missing");
                (Rank::new(rank, world_size)?, variables.number("LOCAL_RANK")?.unwrap_or(0))
            }
            // The batch file sets the address, Slurm the other variables.
            Some((task, tasks)) if set.iter().all(|name| name.starts_with("MASTER_")) => {
                if let Some(&missing) = missing.iter().find(|name| name.starts_with("MASTER_")) {
                    return Err(RankError::NoRendezvous { missing, tasks });
                }
                (Rank::new(task, tasks)?, variables.number("SLURM_LOCALID")?.unwrap_or(0))
            }
            _ if set.is_empty() => return Ok(None),
            _ => return Err(RankError::Incomplete { set, missing }),
        };
        if rank.world_size == 1 {
            return Ok(None);
        }
        let launcher = variables.text("TORCHELASTIC_USE_AGENT_STORE").is_some_and(|value| value == "True");
        Ok(Some(Self {
            rank,
            local_rank,
            host: variables.text("MASTER_ADDR").unwrap_or_default(),
            port: variables.number("MASTER_PORT")?.unwrap_or_default(),
            keeper: if launcher { Keeper::Launcher } else { Keeper::FirstRank },
            attempt: variables.number("TORCHELASTIC_RESTART_COUNT")?.unwrap_or(0),
        }))
    }
}

/// The variables of an environment; empty ones count as unset.
struct Variables<'a>(&'a dyn Fn(&str) -> Option<String>);

impl Variables<'_> {
    fn text(&self, name: &str) -> Option<String> {
        (self.0)(name).filter(|value| !value.trim().is_empty())
    }

    fn number<T: std::str::FromStr>(&self, name: &'static str) -> Result<Option<T>, RankError> {
        let parse = |value: String| value.trim().parse().map_err(|_| RankError::NoNumber { name, value });
        self.text(name).map(parse).transpose()
    }

    fn pair(&self, id: &'static str, count: &'static str) -> Result<Option<(usize, usize)>, RankError> {
        match (self.number(id)?, self.number(count)?) {
            (Some(id), Some(count)) => Ok(Some((id, count))),
            (None, None) => Ok(None),
            (Some(_), None) => Err(RankError::Partial { set: id, missing: count }),
            (None, Some(_)) => Err(RankError::Partial { set: count, missing: id }),
        }
    }

    /// Task and number of tasks of a step that `srun` started with several. A batch file without `srun` has no step.
    fn slurm_step(&self) -> Result<Option<(usize, usize)>, RankError> {
        let Some(tasks) = self.number("SLURM_STEP_NUM_TASKS")?.filter(|&tasks| tasks > 1) else {
            return Ok(None);
        };
        match self.number("SLURM_PROCID")? {
            Some(task) => Ok(Some((task, tasks))),
            None => Err(RankError::Partial { set: "SLURM_STEP_NUM_TASKS", missing: "SLURM_PROCID" }),
        }
    }
}

fn are(names: &[&str]) -> String {
    format!("{} {}", names.join(", "), if names.len() == 1 { "is" } else { "are" })
}

#[cfg(test)]
mod tests;
