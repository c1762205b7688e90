//! The blocks of a response that is known, each on its way to its fixed point, all of them side by side.
//!
//! The trajectory of a block depends on nothing but the text before it, so the blocks of a known response need not wait
//! for each other (arXiv 2512.14681 makes them one after the other). They are [`crate::jacobi`]'s: the states are those
//! that its passes would show, and a law compares them. What its passes would only confirm is not computed again: where
//! a draft agrees with the response, the model's tokens are the response's, so a pass asks about the rows from the first
//! wrong token on; and what follows a block's last token is the next block's business.

use jacobi_datasets::{NoiseScheduleConfig, State, is_settled, wants_fixed_point};
use jacobi_model::{Place, Rows};

use crate::Filler;

/// Which states a block's trajectory has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum States {
    /// From the start to the fixed point.
    All,
    /// From the start to the first that training will choose whatever comes after it; where it will choose the fixed
    /// point in any case, that alone, as iteration 0.
    Scheduled {
        /// The targets; a random schedule has none that are known beforehand.
        noise: NoiseScheduleConfig,
        /// Blocks per noise cycle.
        window: usize,
    },
}

impl States {
    fn target(&self, block: usize) -> Option<f64> {
        match self {
            Self::All => None,
            // The seed matters to the random schedule alone.
            Self::Scheduled { noise, window } => Some(noise.target(block, *window, 0)),
        }
    }
}

/// How the trajectories of a response are made.
#[derive(Clone, Debug, PartialEq)]
pub struct Trajectories {
    /// Tokens refined together, n.
    pub block_size: usize,
    /// Seed of the fillers.
    pub seed: u64,
    /// Which states.
    pub states: States,
}

/// One block, of which `start` is the first token's place in the text.
pub(crate) struct Block {
    index: usize,
    start: usize,
    draft: Vec<u32>,
    /// Leading tokens of `draft` that are right.
    converged: usize,
    iteration: u32,
    /// The noise ratio that training will ask for, if that is known.
    target: Option<f64>,
    states: Vec<State>,
    done: bool,
}

impl Block {
    /// Adds to `blocks` those of the response behind the first `prompt` tokens of `text` that are complete: whole ones,
    /// and the last once the response is not `open` any more.
    pub(crate) fn add_complete(
        blocks: &mut Vec<Self>,
        text: &[u32],
        (prompt, open): (usize, bool),
        config: &Trajectories,
    ) {
        assert!(config.block_size > 0, "block_size is at least 1");
        loop {
            let start = prompt + blocks.len() * config.block_size;
            let end = text.len().min(start + config.block_size);
            let whole = end == start + config.block_size;
            if start >= text.len() || (open && !whole) {
                return;
            }
            blocks.push(Self::new(&text[..end], (blocks.len(), start), config));
        }
    }

    /// The block that `text` ends with, from `start` on.
    fn new(text: &[u32], (index, start): (usize, usize), config: &Trajectories) -> Self {
        let len = text.len() - start;
        let filler = Filler::Random.fill(&text[..=start], &[], config.block_size - 1, config.seed, index);
        let mut draft = vec![text[start]];
        draft.extend(&filler[..len - 1]);
        let mut block = Self {
            index,
            start,
            draft,
            converged: 0,
            iteration: 0,
            target: config.states.target(index),
            states: Vec::new(),
            done: false,
        };
        // Its fixed point is the response, and may be all that is wanted of it.
        if block.target.is_some_and(|target| wants_fixed_point(len, target)) {
            block.converged = len;
            block.finish();
        } else {
            block.record(text);
        }
        block
    }

    pub(crate) fn is_done(&self) -> bool {
        self.done
    }

    /// Its trajectory, once it is done.
    pub(crate) fn into_states(self) -> Vec<State> {
        assert!(self.done, "block {} has not reached its end", self.index);
        self.states
    }

    /// Number of rows that the next pass is asked about.
    pub(crate) fn asked(&self) -> usize {
        self.draft.len() - 1 - self.converged
    }

    /// Those rows, and what they follow.
    pub(crate) fn ask(&self) -> (Place, Rows) {
        let rows = &self.draft[self.converged..self.draft.len() - 1];
        (Place::After(self.start + self.converged), Rows::chain(rows))
    }

    /// Takes the model's tokens after the rows it was asked about.
    pub(crate) fn absorb(&mut self, text: &[u32], chosen: &[u32]) {
        assert_eq!(chosen.len(), self.asked(), "a token for every row");
        self.draft[self.converged] = text[self.start + self.converged];
        self.draft[self.converged + 1..].copy_from_slice(chosen);
        self.iteration += 1;
        self.record(text);
    }

    /// Notes the draft as a state, and sees whether it is the end.
    fn record(&mut self, text: &[u32]) {
        let len = self.draft.len();
        loop {
            let right = self.draft.iter().zip(&text[self.start..]);
            self.converged = right.take_while(|(a, b)| a == b).count();
            if self.converged == len {
                return self.finish();
            }
            self.push(self.draft[self.converged..].to_vec());
            if self.is_settled() {
                self.done = true;
                return;
            }
            if self.asked() > 0 {
                return;
            }
            // Only the last token is wrong, and what comes there is known.
            self.draft[self.converged] = text[self.start + self.converged];
            self.iteration += 1;
        }
    }

    /// Whether no later state will be chosen.
    fn is_settled(&self) -> bool {
        self.target.is_some_and(|target| is_settled(self.converged, self.draft.len(), target))
    }

    fn push(&mut self, tail: Vec<u32>) {
        let converged = (self.draft.len() - tail.len()) as u32;
        self.states.push(State { block: self.index as u32, iteration: self.iteration, converged, tail });
    }

    /// Notes the fixed point.
    fn finish(&mut self) {
        self.done = true;
        self.push(Vec::new());
    }
}
