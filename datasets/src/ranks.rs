//! Several processes that share one job: which of them is this one, which prompts are its own, and where those that train
//! together meet.

use std::path::{Path, PathBuf};

/// One of `world_size` processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rank {
    /// From 0.
    pub rank: usize,
    /// How many there are.
    pub world_size: usize,
}

/// Variables that tell a process which part of a job it is.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RankError {
    /// One without the other.
    #[error("{set} is set, {missing} is not: set both, or neither")]
    Partial {
        /// Set.
        set: &'static str,
        /// Not set.
        missing: &'static str,
    },
    /// Some of those that only work together.
    #[error(
        "{} set, {} not: processes that train together need {}; set all, as torchrun does, or none",
        are(set), are(missing), MEMBERSHIP.join(", ")
    )]
    Incomplete {
        /// Set.
        set: Vec<&'static str>,
        /// Not set.
        missing: Vec<&'static str>,
    },
    /// A Slurm step of several tasks without a place to meet.
    #[error(
        "{missing} is not set: {tasks} tasks of a Slurm step train together, and need to know where to meet; see \
         scripts/launch-train.sbatch, or start one task"
    )]
    NoMeetingPlace {
        /// Not set.
        missing: &'static str,
        /// Tasks of the step.
        tasks: usize,
    },
    /// Not a number.
    #[error("{name} is `{value}`, not a number")]
    NoNumber {
        /// The variable.
        name: &'static str,
        /// What it holds.
        value: String,
    },
    /// One task of a Slurm array that was queued alone: what it was to be a part of, nobody knows any more.
    #[error(
        "SLURM_ARRAY_TASK_ID is {id} and SLURM_ARRAY_TASK_COUNT is 1: a task queued again by itself is told which part it \
         makes by --rank {id} and --world-size with the number of tasks the array had"
    )]
    LoneTask {
        /// Its number.
        id: usize,
    },
    /// A rank that the job does not have.
    #[error("rank {rank} of {world_size}: ranks are counted from 0, there are {world_size}")]
    OutOfRange {
        /// The rank.
        rank: usize,
        /// How many there are.
        world_size: usize,
    },
}

impl Rank {
    /// A rank that exists.
    ///
    /// # Errors
    /// [`RankError::OutOfRange`].
    pub fn new(rank: usize, world_size: usize) -> Result<Self, RankError> {
        if rank < world_size {
            Ok(Self { rank, world_size })
        } else {
            Err(RankError::OutOfRange { rank, world_size })
        }
    }

    /// What the environment says: `RANK` and `WORLD_SIZE` as torchrun sets them, or else the task of a Slurm step of several;
    /// `SLURM_ARRAY_TASK_ID` and `SLURM_ARRAY_TASK_COUNT` (with `_MIN` and `_STEP` where the array does not count 0, 1, 2, ..).
    /// An array of jobs of several processes has the product. `None` when none of them is set, or where there is but one
    /// process.
    ///
    /// # Errors
    /// [`RankError`] for half a pair, for what is no number, and for a single task that is not the first.
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

    /// Whether a prompt of this content belongs to this rank: equal prompts always meet in one, so that a duplicate is
    /// seen as one whoever it falls to.
    pub fn owns(self, content_hash: u128) -> bool {
        content_hash % self.world_size as u128 == self.rank as u128
    }

    /// Where its shards go: a directory of its own beside those of the others.
    pub fn directory(self, output: &Path) -> PathBuf {
        output.join(format!("rank-{:05}-of-{:05}", self.rank, self.world_size))
    }
}

/// Which of the processes on its machine this is, as torchrun or Slurm says: 0 where nobody does.
///
/// # Errors
/// [`RankError::NoNumber`].
pub fn local_rank(variable: impl Fn(&str) -> Option<String>) -> Result<usize, RankError> {
    let variables = Variables(&variable);
    Ok(variables.number("LOCAL_RANK")?.or(variables.number("SLURM_LOCALID")?).unwrap_or(0))
}

/// Variables that processes training together need, all of them.
const MEMBERSHIP: [&str; 5] = ["RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"];

/// A process that trains together with others: which it is, and where they meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// Which of all.
    pub rank: Rank,
    /// Which of those on its machine.
    pub local_rank: usize,
    /// The machine where they meet.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Who keeps the place.
    pub keeper: Keeper,
    /// How often the launcher has started all of them anew.
    pub attempt: usize,
}

/// Who keeps the place where processes meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeper {
    /// The first of them.
    FirstRank,
    /// Who started them: torchrun, or `jacobi train --nproc`.
    Launcher,
}

impl Membership {
    /// What the environment says: the variables of torchrun, or the task of a Slurm step together with `MASTER_ADDR` and
    /// `MASTER_PORT`. `None` where there is nothing of that, or but one process.
    ///
    /// # Errors
    /// [`RankError`] for a part of the variables and for what is no number.
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
            // The meeting place is for the batch file to say, the rest Slurm does.
            Some((task, tasks)) if set.iter().all(|name| name.starts_with("MASTER_")) => {
                if let Some(&missing) = missing.iter().find(|name| name.starts_with("MASTER_")) {
                    return Err(RankError::NoMeetingPlace { missing, tasks });
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

/// An environment, read as numbers.
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

    /// The task of a step that `srun` started with several. Within a batch file without `srun` there is no step.
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
mod tests {
    use super::*;

    #[test]
    fn a_process_knows_its_number_on_its_machine() {
        type Case = (&'static [(&'static str, &'static str)], Result<usize, RankError>);
        let rows: [Case; 4] = [
            (&[], Ok(0)),
            (&[("LOCAL_RANK", "3"), ("SLURM_LOCALID", "1")], Ok(3)),
            (&[("SLURM_LOCALID", "1")], Ok(1)),
            (&[("LOCAL_RANK", "x")], Err(RankError::NoNumber { name: "LOCAL_RANK", value: "x".into() })),
        ];
        for (variables, expected) in rows {
            let lookup = |name: &str| {
                variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
            };
            assert_eq!(local_rank(lookup), expected, "{variables:?}");
        }
    }

    #[test]
    fn the_environment_of_torchrun_and_slurm_is_understood_and_half_of_it_refused() {
        let rank = |rank, world_size| Ok(Some(Rank { rank, world_size }));
        type Expected = Result<Option<Rank>, RankError>;
        let rows: [(&[(&str, &str)], Expected); 14] = [
            (&[], Ok(None)),
            (&[("RANK", "0"), ("WORLD_SIZE", "1")], Ok(None)),
            (&[("SLURM_ARRAY_TASK_ID", "0"), ("SLURM_ARRAY_TASK_COUNT", "1")], Ok(None)),
            (
                &[
                    ("SLURM_ARRAY_TASK_ID", "5"),
                    ("SLURM_ARRAY_TASK_COUNT", "1"),
                    ("SLURM_ARRAY_TASK_MIN", "5"),
                ],
                Err(RankError::LoneTask { id: 5 }),
            ),
            (&[("RANK", "1"), ("WORLD_SIZE", "4")], rank(1, 4)),
            (&[("SLURM_ARRAY_TASK_ID", "2"), ("SLURM_ARRAY_TASK_COUNT", "3")], rank(2, 3)),
            (
                &[
                    ("SLURM_ARRAY_TASK_ID", "14"),
                    ("SLURM_ARRAY_TASK_COUNT", "3"),
                    ("SLURM_ARRAY_TASK_MIN", "10"),
                    ("SLURM_ARRAY_TASK_STEP", "2"),
                ],
                rank(2, 3),
            ),
            (
                &[
                    ("SLURM_ARRAY_TASK_ID", "1"),
                    ("SLURM_ARRAY_TASK_COUNT", "2"),
                    ("RANK", "0"),
                    ("WORLD_SIZE", "4"),
                ],
                rank(4, 8),
            ),
            (&[("SLURM_PROCID", "3"), ("SLURM_STEP_NUM_TASKS", "4")], rank(3, 4)),
            (&[("SLURM_PROCID", "0"), ("SLURM_STEP_NUM_TASKS", "1")], Ok(None)),
            (&[("RANK", "1")], Err(RankError::Partial { set: "RANK", missing: "WORLD_SIZE" })),
            (
                &[("SLURM_ARRAY_TASK_COUNT", "3")],
                Err(RankError::Partial { set: "SLURM_ARRAY_TASK_COUNT", missing: "SLURM_ARRAY_TASK_ID" }),
            ),
            (&[("RANK", "4"), ("WORLD_SIZE", "4")], Err(RankError::OutOfRange { rank: 4, world_size: 4 })),
            (
                &[("RANK", "x"), ("WORLD_SIZE", "4")],
                Err(RankError::NoNumber { name: "RANK", value: "x".to_owned() }),
            ),
        ];
        for (variables, expected) in rows {
            assert_eq!(Rank::from_environment(lookup(variables)), expected, "{variables:?}");
        }
    }

    fn lookup(variables: &[(&str, &str)]) -> impl Fn(&str) -> Option<String> {
        let owned: Vec<(String, String)> =
            variables.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        move |name| owned.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone())
    }

    #[test]
    fn who_trains_together_is_told_wholly_or_not_at_all() {
        let torchrun = [
            ("RANK", "3"),
            ("WORLD_SIZE", "4"),
            ("LOCAL_RANK", "1"),
            ("MASTER_ADDR", "node-0"),
            ("MASTER_PORT", "29500"),
        ];
        let member = Membership {
            rank: Rank { rank: 3, world_size: 4 },
            local_rank: 1,
            host: "node-0".into(),
            port: 29500,
            keeper: Keeper::FirstRank,
            attempt: 0,
        };
        let read = |variables: &[(&str, &str)]| Membership::from_environment(lookup(variables));
        assert_eq!(read(&torchrun), Ok(Some(member.clone())));
        let agent = [("TORCHELASTIC_USE_AGENT_STORE", "True"), ("TORCHELASTIC_RESTART_COUNT", "2")];
        let restarted = Membership { keeper: Keeper::Launcher, attempt: 2, ..member.clone() };
        assert_eq!(read(&[&torchrun[..], &agent].concat()), Ok(Some(restarted)));
        let slurm = [("SLURM_PROCID", "3"), ("SLURM_STEP_NUM_TASKS", "4"), ("SLURM_LOCALID", "1")];
        assert_eq!(read(&[&slurm, &torchrun[3..]].concat()), Ok(Some(member)));
        assert_eq!(read(&slurm), Err(RankError::NoMeetingPlace { missing: "MASTER_ADDR", tasks: 4 }));
        assert_eq!(read(&[]), Ok(None));
        let alone = [("RANK", "0"), ("WORLD_SIZE", "1")];
        assert_eq!(read(&[&alone, &torchrun[2..]].concat()), Ok(None));
        // Every part of the variables is refused, with both lists.
        for chosen in 1..(1 << torchrun.len()) - 1 {
            let chosen = |at: &usize| chosen >> at & 1 == 1;
            let part: Vec<_> = (0..torchrun.len()).filter(chosen).map(|at| torchrun[at]).collect();
            let error = read(&part).unwrap_err();
            let RankError::Incomplete { set, missing } = &error else { panic!("{part:?}: {error}") };
            assert_eq!((set.len(), missing.len()), (part.len(), torchrun.len() - part.len()));
            assert!(error.to_string().contains(missing[0]), "{error}");
        }
    }

    #[test]
    fn every_prompt_has_one_owner() {
        for hash in [0, 1, 6, 7, u128::MAX] {
            let owners = (0..3).filter(|&rank| Rank { rank, world_size: 3 }.owns(hash)).count();
            assert_eq!(owners, 1, "{hash}");
        }
    }
}
