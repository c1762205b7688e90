//! From the decoder's iterations to the recorded states of every block.

use jacobi_datasets::State;
use jacobi_decoder::{Iteration, Observer};

/// Keeps every draft; what of it was right is known only when the response is complete.
#[derive(Default)]
pub struct Recorder {
    drafts: Vec<Draft>,
}

struct Draft {
    block: usize,
    iteration: usize,
    offset: usize,
    tokens: Vec<u32>,
}

impl Observer for Recorder {
    fn iteration(&mut self, event: &Iteration) {
        self.drafts.push(Draft {
            block: event.block,
            iteration: event.iteration,
            offset: event.offset,
            tokens: event.draft.to_vec(),
        });
    }
}

impl Recorder {
    /// The states of all blocks of `response`, each block's from its start to its fixed point. What a draft held
    /// beyond the response is cut off; a draft that was right already before its last pass is not kept twice.
    pub fn states(self, response: &[u32], block_size: usize) -> Vec<State> {
        let mut states = Vec::new();
        let mut drafts = self.drafts.into_iter().peekable();
        for (block, clean) in response.chunks(block_size).enumerate() {
            let mut iterations = 0;
            while let Some(draft) = drafts.next_if(|draft| draft.block == block) {
                iterations = draft.iteration + 1;
                let right = clean.get(draft.offset..).unwrap_or_default();
                let agreed = right.iter().zip(&draft.tokens).take_while(|(a, b)| a == b).count();
                if agreed < right.len() {
                    states.push(State {
                        block: block as u32,
                        iteration: draft.iteration as u32,
                        converged: (draft.offset + agreed) as u32,
                        tail: draft.tokens[agreed..right.len()].to_vec(),
                    });
                }
            }
            states.push(State {
                block: block as u32,
                iteration: iterations as u32,
                converged: clean.len() as u32,
                tail: vec![],
            });
        }
        states
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observe(recorder: &mut Recorder, block: usize, iteration: usize, offset: usize, draft: &[u32]) {
        let greedy = vec![0; draft.len()];
        recorder.iteration(&Iteration { block, iteration, offset, draft, greedy: &greedy, accepted: 1 });
    }

    fn rows(states: &[State]) -> Vec<(u32, u32, u32, Vec<u32>)> {
        states.iter().map(|s| (s.block, s.iteration, s.converged, s.tail.clone())).collect()
    }

    #[test]
    fn states_keep_the_tail_after_the_converged_prefix() {
        let mut recorder = Recorder::default();
        // Response 1 2 3 4 | 5 6 (ends inside block 1, whose draft was longer).
        observe(&mut recorder, 0, 0, 0, &[1, 9, 3, 9]);
        observe(&mut recorder, 0, 1, 1, &[2, 3, 9]);
        observe(&mut recorder, 0, 2, 3, &[4]);
        observe(&mut recorder, 1, 0, 0, &[5, 8, 8, 8]);
        observe(&mut recorder, 1, 1, 1, &[6, 7, 7]);
        let states = recorder.states(&[1, 2, 3, 4, 5, 6], 4);
        assert_eq!(
            rows(&states),
            [
                (0, 0, 1, vec![9, 3, 9]),
                (0, 1, 3, vec![9]),
                (0, 3, 4, vec![]),
                (1, 0, 1, vec![8]),
                (1, 2, 2, vec![]),
            ]
        );
    }

    #[test]
    fn a_block_known_before_any_pass_has_its_fixed_point() {
        assert_eq!(rows(&Recorder::default().states(&[7], 4)), [(0, 0, 1, vec![])]);
    }
}
