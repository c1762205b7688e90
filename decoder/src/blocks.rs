//! Trajectories of a response by refining all of its blocks side by side.
//!
//! The trajectory of a block depends only on the text before it, so the blocks of a known response need not wait for
//! each other (arXiv 2512.14681 refines them one after the other). The states are those that the passes of
//! [`crate::jacobi`] would show; a test compares them. Rows whose outcome is known are left out: while a draft agrees
//! with the response the model's tokens are the response's, so a pass starts at the first wrong token; and it ends
//! before the block's last token, whose successor belongs to the next block.
//!
//! With a draft adapter the states are those that the drafter holds: its rows refine the block. They see each other instead
//! of the model's rows, so a pass has all of them behind the known-right token.

use jacobi_datasets::{NoiseScheduleConfig, Rng, State, is_settled, wants_fixed_point};
use jacobi_model::{Place, Rows};

use crate::filler::drawn_from;

/// Which states of a block's trajectory are recorded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum States {
    /// From the start to the fixed point.
    All,
    /// From the start to the first state after which training would choose no later one. If training will choose
    /// the fixed point in any case, the fixed point alone, as iteration 0.
    Scheduled {
        /// The targets, from a schedule that is not random: its targets are known beforehand.
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
    /// Which states are recorded.
    pub states: States,
}

/// One block on its way to its fixed point.
pub(crate) struct Block {
    index: usize,
    /// Position of its first token in the text.
    start: usize,
    draft: Vec<u32>,
    /// Leading tokens of `draft` that are right.
    converged: usize,
    /// With an adapter, the token that the next pass knows to be right: the last one that the pass before verified.
    known: Option<usize>,
    iteration: u32,
    /// The noise ratio that training will ask for, if it is known.
    target: Option<f64>,
    states: Vec<State>,
    done: bool,
}

impl Block {
    /// Adds to `blocks` the complete blocks of the response, which follows the first `prompt` tokens of `text`:
    /// all whole ones, and the last shorter one once the response is not `open` any more. An adapter refines them if they
    /// are `adapted`.
    pub(crate) fn add_complete(
        blocks: &mut Vec<Self>,
        text: &[u32],
        (prompt, open): (usize, bool),
        (config, adapted): (&Trajectories, bool),
    ) {
        assert!(config.block_size > 0, "block_size is at least 1");
        loop {
            let start = prompt + blocks.len() * config.block_size;
            let end = text.len().min(start + config.block_size);
            let whole = end == start + config.block_size;
            if start >= text.len() || (open && !whole) {
                return;
            }
            blocks.push(Self::new(&text[..end], (blocks.len(), start), (config, adapted)));
        }
    }

    /// The last block of `text`, from position `start` on.
    fn new(text: &[u32], (index, start): (usize, usize), (config, adapted): (&Trajectories, bool)) -> Self {
        let len = text.len() - start;
        let mut rng = Rng::new(&[config.seed, index as u64]);
        let filler = drawn_from(&text[..=start], config.block_size - 1, &mut rng);
        let mut draft = vec![text[start]];
        draft.extend(&filler[..len - 1]);
        let mut block = Self {
            index,
            start,
            draft,
            converged: 0,
            known: adapted.then_some(0),
            iteration: 0,
            target: config.states.target(index),
            states: Vec::new(),
            done: false,
        };
        // The fixed point is the response itself and needs no pass.
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

    /// Its trajectory.
    ///
    /// # Panics
    /// If it is not done.
    pub(crate) fn into_states(self) -> Vec<State> {
        assert!(self.done, "block {} has not reached its end", self.index);
        self.states
    }

    /// The first token of the next pass: the first wrong one, or the first one of the adapter.
    fn first_row(&self) -> usize {
        self.known.map_or(self.converged, |known| known + 1)
    }

    /// The rows of the next pass, up to the last token but one, and the text that they follow.
    pub(crate) fn next_rows(&self) -> (Place, Rows) {
        let first = self.first_row();
        let before = self.start + first;
        let place = if self.known.is_some() { Place::Adapted(before) } else { Place::After(before) };
        (place, Rows::chain(&self.draft[first..self.draft.len() - 1]))
    }

    /// Takes the token that the model or the adapter gives after each row of the pass.
    pub(crate) fn absorb(&mut self, text: &[u32], chosen: &[u32]) {
        let (first, wrong) = (self.first_row(), self.converged);
        assert_eq!(chosen.len(), self.draft.len() - 1 - first, "a token for every row");
        self.draft[wrong + 1..].copy_from_slice(&chosen[wrong - first..]);
        self.correct(text);
        self.record(text);
    }

    /// Ends an iteration, which has verified the first wrong token.
    fn correct(&mut self, text: &[u32]) {
        self.draft[self.converged] = text[self.start + self.converged];
        self.known = self.known.map(|_| self.converged);
        self.iteration += 1;
    }

    /// Records the draft as a state, and ends the trajectory if it is the last one wanted.
    fn record(&mut self, text: &[u32]) {
        let len = self.draft.len();
        loop {
            let right = self.draft.iter().zip(&text[self.start..]);
            self.converged = right.take_while(|(a, b)| a == b).count();
            if self.converged == len {
                return self.finish();
            }
            self.push(self.draft[self.converged..].to_vec());
            if self.target.is_some_and(|target| is_settled(self.converged, len, target)) {
                self.done = true;
                return;
            }
            if self.converged + 1 < len {
                return;
            }
            // Only the last token is wrong, and the right one is known.
            self.correct(text);
        }
    }

    fn push(&mut self, tail: Vec<u32>) {
        let converged = (self.draft.len() - tail.len()) as u32;
        self.states.push(State { block: self.index as u32, iteration: self.iteration, converged, tail });
    }

    /// Records the fixed point.
    fn finish(&mut self) {
        self.done = true;
        self.push(Vec::new());
    }
}
