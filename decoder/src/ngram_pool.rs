//! Rejection recycling (arXiv 2512.14681, section 4): predictions that were not accepted are kept for a while,
//! and where one of them contains the known-right token, what follows it there is tried again. Integers only.
//!
//! Departure: candidates are ordered by how many tokens before the known-right token match the text, then by age; the
//! reference orders by age alone.

use std::collections::VecDeque;

/// Runs in the pool; the oldest is dropped.
const CAPACITY: usize = 32;

/// Recently rejected runs, youngest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct NgramPool {
    runs: VecDeque<Vec<u32>>,
}

impl NgramPool {
    /// Keeps a run, unless nothing follows its first token or the youngest run equals it.
    pub(crate) fn remember(&mut self, run: Vec<u32>) {
        if run.len() < 2 || self.runs.front() == Some(&run) {
            return;
        }
        self.runs.truncate(CAPACITY - 1);
        self.runs.push_front(run);
    }

    /// Up to `count` continuations of `text`, none longer than `longest`, best first. None is a prefix of
    /// another better one or of `own`, the draft that is verified anyway.
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
mod tests;
