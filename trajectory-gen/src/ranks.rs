//! Several processes that share one job: which of them is this one, and which prompts are its own.

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
    /// Not a number.
    #[error("{name} is `{value}`, not a number")]
    NoNumber {
        /// The variable.
        name: &'static str,
        /// What it holds.
        value: String,
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

    /// What the environment says: `RANK` and `WORLD_SIZE` as torchrun sets them, `SLURM_ARRAY_TASK_ID` and
    /// `SLURM_ARRAY_TASK_COUNT` (with `_MIN` and `_STEP` where the array does not count 0, 1, 2, ..). An array of
    /// torchrun jobs has the product. `None` when none of them is set.
    ///
    /// # Errors
    /// [`RankError`] for half a pair and for what is no number.
    pub fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, RankError> {
        let number = |name: &'static str| {
            let parse = |value: String| value.trim().parse().map_err(|_| RankError::NoNumber { name, value });
            variable(name).map(parse).transpose()
        };
        let pair = |id: &'static str, count: &'static str| match (number(id)?, number(count)?) {
            (Some(id), Some(count)) => Ok(Some((id, count))),
            (None, None) => Ok(None),
            (Some(_), None) => Err(RankError::Partial { set: id, missing: count }),
            (None, Some(_)) => Err(RankError::Partial { set: count, missing: id }),
        };
        let torchrun: Option<(usize, usize)> = pair("RANK", "WORLD_SIZE")?;
        let array: Option<(usize, usize)> = pair("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT")?;
        let first = number("SLURM_ARRAY_TASK_MIN")?.unwrap_or(0);
        let step = number("SLURM_ARRAY_TASK_STEP")?.unwrap_or(1).max(1);
        let array = array.map(|(id, count)| (id.saturating_sub(first) / step, count));
        let (rank, world_size) = match (array, torchrun) {
            (None, None) => return Ok(None),
            (Some(only), None) | (None, Some(only)) => only,
            (Some((task, tasks)), Some((rank, ranks))) => (task * ranks + rank, tasks * ranks),
        };
        Self::new(rank, world_size).map(Some)
    }

    /// Whether a prompt of this content belongs to this rank: equal prompts always meet in one, so that a duplicate is
    /// seen as one whoever it falls to.
    pub(crate) fn owns(self, content_hash: u128) -> bool {
        content_hash % self.world_size as u128 == self.rank as u128
    }

    /// Where its shards go: a directory of its own beside those of the others.
    pub fn directory(self, output: &Path) -> PathBuf {
        output.join(format!("rank-{:05}-of-{:05}", self.rank, self.world_size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_of_torchrun_and_slurm_is_understood_and_half_of_it_refused() {
        let rank = |rank, world_size| Ok(Some(Rank { rank, world_size }));
        type Expected = Result<Option<Rank>, RankError>;
        let rows: [(&[(&str, &str)], Expected); 9] = [
            (&[], Ok(None)),
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
            let lookup = |name: &str| {
                variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
            };
            assert_eq!(Rank::from_environment(lookup), expected, "{variables:?}");
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
