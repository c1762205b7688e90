//! Successive halving: every candidate on a few prompts, the better half on twice as many, and so on, so that
//! most of the time goes to the best candidates. This file only schedules; the caller decodes.

use jacobi_datasets::schema::tuned::{DECIDING_PROMPTS, Objective};
use jacobi_decoder::DecodeStats;

/// Challengers in the last round. More than one, since the earlier rounds were short.
const LAST: usize = 2;

/// The figure that is maximised, on some prompts; 0 without a pass after the prefills.
fn score(stats: &[DecodeStats], objective: Objective) -> f64 {
    let sum: DecodeStats = stats.iter().sum();
    let score = match objective {
        Objective::Tps => sum.tps(),
        Objective::Tpf => sum.tpf(),
    };
    score.unwrap_or(0.0)
}

/// A race of entrants over prompts. The first `seeded` entrants stay to the end; the others are challengers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Race {
    pub(crate) seeded: usize,
    pub(crate) challengers: usize,
    pub(crate) prompts: usize,
    pub(crate) objective: Objective,
}

/// A round: the number of challengers in it, and the number of prompts that they have decoded at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Round {
    pub(crate) challengers: usize,
    pub(crate) prompts: usize,
}

/// One entrant on one prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Turn {
    /// From 0.
    pub(crate) round: usize,
    pub(crate) entrant: usize,
    pub(crate) prompt: usize,
}

impl Race {
    /// This race, made smaller until it has at most `turns` turns: first fewer prompts, but enough to decide, then
    /// fewer challengers. The smallest race may have more turns.
    pub(crate) fn within(mut self, turns: usize) -> Self {
        while self.turns() > turns {
            if self.prompts > DECIDING_PROMPTS {
                self.prompts = (self.prompts / 2).max(DECIDING_PROMPTS);
            } else if self.challengers > LAST {
                self.challengers = self.challengers.div_ceil(2);
            } else {
                break;
            }
        }
        self
    }

    /// The rounds: challengers halved each time, prompts doubled, all prompts in the last one.
    pub(crate) fn rounds(&self) -> Vec<Round> {
        let halve = |&left: &usize| (left > LAST).then(|| left.div_ceil(2));
        let field: Vec<usize> = std::iter::successors(Some(self.challengers), halve).collect();
        let round = |(at, &challengers)| {
            let doublings = field.len() - 1 - at;
            Round { challengers, prompts: self.prompts.div_ceil(1_usize << doublings) }
        };
        field.iter().enumerate().map(round).collect()
    }

    /// Number of turns of the whole race.
    pub(crate) fn turns(&self) -> usize {
        let mut seen = 0;
        let turns = |round: Round| {
            let fresh = round.prompts - std::mem::replace(&mut seen, round.prompts);
            fresh * (self.seeded + round.challengers)
        };
        self.rounds().into_iter().map(turns).sum()
    }

    /// Runs the race; returns the statistics by entrant, then prompt. `decode` takes each turn. When it returns `None`
    /// the race ends, without the prompt that only some have decoded, unless it is the first. On each prompt all
    /// entrants take turns, in alternating order, so that drift of the machine affects all of them alike.
    pub(crate) fn run(&self, decode: &mut dyn FnMut(Turn) -> Option<DecodeStats>) -> Vec<Vec<DecodeStats>> {
        let mut stats: Vec<Vec<DecodeStats>> = vec![Vec::new(); self.seeded + self.challengers];
        let mut field: Vec<usize> = (0..stats.len()).collect();
        let mut seen = 0;
        for (index, round) in self.rounds().into_iter().enumerate() {
            let score = |&entrant: &usize| score(&stats[entrant], self.objective);
            // A stable sort: of equal challengers the earlier ones stay.
            field[self.seeded..].sort_by(|a, b| score(b).total_cmp(&score(a)));
            field.truncate(self.seeded + round.challengers);
            field[self.seeded..].sort_unstable();
            for prompt in seen..round.prompts {
                for turn in 0..field.len() {
                    let place = if prompt % 2 == 0 { turn } else { field.len() - 1 - turn };
                    let entrant = field[place];
                    let Some(decoded) = decode(Turn { round: index, entrant, prompt }) else {
                        stats.iter_mut().for_each(|own| own.truncate(prompt.max(1)));
                        return stats;
                    };
                    stats[entrant].push(decoded);
                }
            }
            seen = round.prompts;
        }
        stats
    }
}

#[cfg(test)]
mod tests;
