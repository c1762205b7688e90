//! Rejection recycling (arXiv 2512.14681, section 4): greedy tails that were not accepted are kept for a while, and
//! whatever followed the known-right token in one of them is tried again. Integers only.
//!
//! Departure: candidates are ordered by how much of the text before the known-right token they also match, then by age;
//! the reference takes them by age alone.

use std::collections::VecDeque;

/// Runs remembered; the oldest makes room.
const REMEMBERED: usize = 32;

/// Recently rejected runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct NgramPool {
    runs: VecDeque<Vec<u32>>,
}

impl NgramPool {
    /// Keeps a run. One token alone has no continuation.
    pub(crate) fn remember(&mut self, run: Vec<u32>) {
        if run.len() < 2 || self.runs.front() == Some(&run) {
            return;
        }
        self.runs.truncate(REMEMBERED - 1);
        self.runs.push_front(run);
    }

    /// Up to `count` different continuations of `text`, none longer than `longest`: best first. What `own`, the draft
    /// that is tried anyway, begins with is no alternative.
    pub(crate) fn candidates(&self, text: &[u32], own: &[u32], count: usize, longest: usize) -> Vec<&[u32]> {
        let Some((last, before)) = text.split_last() else { return Vec::new() };
        let mut found: Vec<(usize, &[u32])> = Vec::new();
        if count == 0 || longest == 0 {
            return Vec::new();
        }
        for run in &self.runs {
            for at in (0..run.len() - 1).filter(|&at| run[at] == *last) {
                let agree = run[..at].iter().rev().zip(before.iter().rev());
                let matched = agree.take_while(|(a, b)| a == b).count();
                found.push((matched, &run[at + 1..(at + 1 + longest).min(run.len())]));
            }
        }
        // Stable: of equal matches the youngest stays first.
        found.sort_by_key(|(matched, _)| std::cmp::Reverse(*matched));
        let mut chosen: Vec<&[u32]> = Vec::new();
        for (_, candidate) in found {
            if !own.starts_with(candidate) && !chosen.iter().any(|other| other.starts_with(candidate)) {
                chosen.push(candidate);
            }
            if chosen.len() == count {
                break;
            }
        }
        chosen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(runs: &[&[u32]]) -> NgramPool {
        let mut pool = NgramPool::default();
        for run in runs {
            pool.remember(run.to_vec());
        }
        pool
    }

    #[test]
    fn what_followed_the_last_token_is_tried_again() {
        let check = |runs: &[&[u32]], own: &[u32], count, longest, expected: &[&[u32]]| {
            assert_eq!(pool(runs).candidates(&[1, 2, 3], own, count, longest), expected, "{runs:?}");
        };
        check(&[], &[], 4, 9, &[]);
        check(&[&[3, 4, 5]], &[], 4, 9, &[&[4, 5]]);
        check(&[&[3, 4, 5]], &[], 4, 1, &[&[4]]);
        check(&[&[3, 4, 5]], &[], 0, 9, &[]);
        check(&[&[3, 4, 5]], &[], 4, 0, &[]);
        check(&[&[9, 9], &[5, 3]], &[], 4, 9, &[]);
        // The youngest first; every place of a run counts.
        check(&[&[3, 4], &[3, 5], &[3, 6, 3, 7]], &[], 4, 9, &[&[6, 3, 7], &[7], &[5], &[4]]);
        check(&[&[3, 4], &[3, 5], &[3, 6, 3, 7]], &[], 2, 9, &[&[6, 3, 7], &[7]]);
        // More matching text before it wins over age.
        check(&[&[2, 3, 4], &[9, 3, 5]], &[], 4, 9, &[&[4], &[5]]);
        // The draft itself and what another candidate begins with are no alternatives.
        check(&[&[3, 4, 5]], &[4, 5, 6], 4, 9, &[]);
        check(&[&[3, 4], &[3, 4, 5]], &[], 4, 9, &[&[4, 5]]);
    }

    #[test]
    fn the_oldest_run_makes_room() {
        let mut pool = NgramPool::default();
        for token in 0..100 {
            pool.remember(vec![3, token]);
        }
        assert_eq!(pool.candidates(&[3], &[], 1000, 9).len(), REMEMBERED);
        pool.remember(vec![3]);
        pool.remember(vec![3, 99]);
        assert_eq!(pool.candidates(&[3], &[], 1000, 9)[0], [99]);
        assert_eq!(pool.runs.len(), REMEMBERED);
    }
}
