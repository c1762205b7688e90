//! Successive halving: every candidate on a few prompts, the better half on twice as many, and so on, so that the time
//! goes to those that may win. Numbers alone: who decodes what is the caller's business.

use jacobi_datasets::schema::tuned::Objective;
use jacobi_decoder::DecodeStats;

/// Challengers that reach the last round: more than one, since the rounds before it were short.
const LAST: usize = 2;

/// What decoding some prompts took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Tally {
    pub(crate) tokens: usize,
    pub(crate) forwards: usize,
    pub(crate) rows: usize,
    pub(crate) seconds: f64,
}

impl Tally {
    pub(crate) fn of(stats: &DecodeStats) -> Self {
        let rows = stats.widths.iter().map(|(rows, width)| rows * width.forwards).sum();
        Self { tokens: stats.tokens, forwards: stats.forwards, rows, seconds: stats.decode_seconds }
    }

    pub(crate) fn sum(tallies: &[Self]) -> Self {
        tallies.iter().fold(Self::default(), |sum, tally| Self {
            tokens: sum.tokens + tally.tokens,
            forwards: sum.forwards + tally.forwards,
            rows: sum.rows + tally.rows,
            seconds: sum.seconds + tally.seconds,
        })
    }

    /// Tokens per forward; none when the prefills were all.
    pub(crate) fn tpf(&self) -> Option<f64> {
        (self.forwards > 0).then(|| self.tokens as f64 / self.forwards as f64)
    }

    /// Tokens per second; none when the prefills were all.
    pub(crate) fn tps(&self) -> Option<f64> {
        (self.forwards > 0).then(|| self.tokens as f64 / self.seconds)
    }

    /// What is maximised.
    pub(crate) fn score(&self, objective: Objective) -> f64 {
        let score = match objective {
            Objective::Tps => self.tps(),
            Objective::Tpf => self.tpf(),
        };
        score.unwrap_or(0.0)
    }
}

/// Who races over how many prompts. The first `seeded` entrants stay to the end whatever they score.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Race {
    pub(crate) seeded: usize,
    pub(crate) challengers: usize,
    pub(crate) prompts: usize,
    pub(crate) objective: Objective,
}

/// A round: challengers at its start, prompts that all of them have decoded at its end.
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

    /// Turns of the whole race.
    pub(crate) fn turns(&self) -> usize {
        let mut seen = 0;
        let turns = |round: Round| {
            let fresh = round.prompts - std::mem::replace(&mut seen, round.prompts);
            fresh * (self.seeded + round.challengers)
        };
        self.rounds().into_iter().map(turns).sum()
    }

    /// Runs it; `decode` takes each turn and may break off, then there is no result. Returns what every entrant did, by
    /// entrant, then prompt. On each prompt all take turns, in alternating order, so that drift of the machine falls on
    /// all of them alike.
    pub(crate) fn run(&self, decode: &mut dyn FnMut(Turn) -> Option<Tally>) -> Option<Vec<Vec<Tally>>> {
        let mut tallies: Vec<Vec<Tally>> = vec![Vec::new(); self.seeded + self.challengers];
        let mut field: Vec<usize> = (0..tallies.len()).collect();
        let mut seen = 0;
        for (index, round) in self.rounds().into_iter().enumerate() {
            let score = |&entrant: &usize| Tally::sum(&tallies[entrant]).score(self.objective);
            // Stable: of equals the earlier stays.
            field[self.seeded..].sort_by(|a, b| score(b).total_cmp(&score(a)));
            field.truncate(self.seeded + round.challengers);
            field[self.seeded..].sort_unstable();
            for prompt in seen..round.prompts {
                for turn in 0..field.len() {
                    let place = if prompt % 2 == 0 { turn } else { field.len() - 1 - turn };
                    let entrant = field[place];
                    tallies[entrant].push(decode(Turn { round: index, entrant, prompt })?);
                }
            }
            seen = round.prompts;
        }
        Some(tallies)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn race(seeded: usize, challengers: usize, prompts: usize) -> Race {
        Race { seeded, challengers, prompts, objective: Objective::Tps }
    }

    /// Entrant `e` makes `speed[e]` tokens in a second.
    fn run(race: Race, speed: &[usize]) -> (Vec<usize>, Vec<Turn>) {
        let mut turns = Vec::new();
        let tallies = race.run(&mut |turn| {
            turns.push(turn);
            Some(Tally { tokens: speed[turn.entrant], forwards: 1, rows: 1, seconds: 1.0 })
        });
        assert_eq!(turns.len(), race.turns());
        (tallies.unwrap().iter().map(Vec::len).collect(), turns)
    }

    #[test]
    fn challengers_halve_while_prompts_double() {
        let check = |challengers, prompts, expected: &[(usize, usize)]| {
            let rounds = race(1, challengers, prompts).rounds();
            assert_eq!(rounds.iter().map(|r| (r.challengers, r.prompts)).collect::<Vec<_>>(), expected);
        };
        check(32, 40, &[(32, 3), (16, 5), (8, 10), (4, 20), (2, 40)]);
        check(5, 8, &[(5, 2), (3, 4), (2, 8)]);
        check(2, 8, &[(2, 8)]);
        check(0, 8, &[(0, 8)]);
        check(32, 1, &[(32, 1), (16, 1), (8, 1), (4, 1), (2, 1)]);
    }

    #[test]
    fn the_best_reach_the_end_and_the_seeded_always_do() {
        let speed = [0, 1, 50, 80, 20, 70, 10, 60, 30, 40];
        let (prompts, _) = run(race(2, 8, 8), &speed);
        // Of the eight challengers 50 80 20 70 10 60 30 40, four see the second round and two the last.
        assert_eq!(prompts, [8, 8, 4, 8, 2, 8, 2, 4, 2, 2]);
        // Equals: the earlier stay.
        let (prompts, _) = run(race(1, 5, 4), &[9; 6]);
        assert_eq!(prompts, [4, 4, 4, 2, 1, 1]);
    }

    #[test]
    fn all_take_turns_in_alternating_order_and_no_prompt_is_decoded_twice() {
        let (_, turns) = run(race(1, 3, 4), &[1, 2, 3, 4]);
        let order: Vec<(usize, usize, usize)> =
            turns.iter().map(|turn| (turn.round, turn.prompt, turn.entrant)).collect();
        let first = [(0, 0, 0), (0, 0, 1), (0, 0, 2), (0, 0, 3), (0, 1, 3), (0, 1, 2), (0, 1, 1), (0, 1, 0)];
        let second = [(1, 2, 0), (1, 2, 2), (1, 2, 3), (1, 3, 3), (1, 3, 2), (1, 3, 0)];
        assert_eq!(order, [&first[..], &second[..]].concat());
    }

    #[test]
    fn a_race_that_breaks_off_has_no_result() {
        let mut left = 5;
        let tallies = race(1, 3, 4).run(&mut |_| {
            left -= 1;
            (left > 0).then(Tally::default)
        });
        assert_eq!(tallies, None);
    }

    #[test]
    fn scores_are_sums_over_sums() {
        let tallies = [
            Tally { tokens: 10, forwards: 5, rows: 40, seconds: 2.0 },
            Tally { tokens: 20, forwards: 5, rows: 20, seconds: 1.0 },
            Tally::default(),
        ];
        let sum = Tally::sum(&tallies);
        assert_eq!((sum.rows, sum.score(Objective::Tps), sum.score(Objective::Tpf)), (60, 10.0, 3.0));
        assert_eq!((Tally::default().tpf(), Tally::default().score(Objective::Tps)), (None, 0.0));
    }
}
