//! The states of every block, read from the passes of plain Jacobi decoding. This is the definition of a trajectory;
//! [`crate::Trajectories`] are tested against it.

use jacobi_datasets::State;

use crate::Pass;

/// Keeps every draft until the response is complete: only then is it known which tokens were right.
#[derive(Default)]
pub struct Recorder {
    drafts: Vec<Draft>,
}

struct Draft {
    /// Position of its first token in the response.
    offset: usize,
    tokens: Vec<u32>,
}

impl Recorder {
    /// Records a pass of plain Jacobi decoding, whose drafts end with their block.
    pub fn record(&mut self, pass: &Pass) {
        self.drafts.push(Draft { offset: pass.offset, tokens: pass.draft.rows().tokens().to_vec() });
    }

    /// The states of all blocks of `response`, each from its start (iteration 0) to its fixed point; the pass that
    /// verifies the fixed point adds no state. Drafts are cut where the response ends.
    pub fn states(self, response: &[u32], block_size: usize) -> Vec<State> {
        let mut states = Vec::new();
        let mut drafts = self.drafts.into_iter().peekable();
        for (block, clean) in response.chunks(block_size).enumerate() {
            let mut iteration = 0;
            while let Some(draft) = drafts.next_if(|draft| draft.offset / block_size == block) {
                let offset = draft.offset % block_size;
                let right = clean.get(offset..).unwrap_or_default();
                let agreed = right.iter().zip(&draft.tokens).take_while(|(a, b)| a == b).count();
                if agreed < right.len() {
                    states.push(State {
                        block: block as u32,
                        iteration,
                        converged: (offset + agreed) as u32,
                        tail: draft.tokens[agreed..right.len()].to_vec(),
                    });
                    iteration += 1;
                }
            }
            states.push(State {
                block: block as u32,
                iteration,
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

    fn observe(recorder: &mut Recorder, offset: usize, tokens: &[u32]) {
        recorder.drafts.push(Draft { offset, tokens: tokens.to_vec() });
    }

    fn rows(states: &[State]) -> Vec<(u32, u32, u32, Vec<u32>)> {
        states.iter().map(|s| (s.block, s.iteration, s.converged, s.tail.clone())).collect()
    }

    #[test]
    fn states_keep_the_tail_after_the_converged_prefix() {
        let mut recorder = Recorder::default();
        // Response 1 2 3 4 | 5 6 (ends inside block 1, whose draft was longer).
        observe(&mut recorder, 0, &[1, 9, 3, 9]);
        observe(&mut recorder, 1, &[2, 3, 9]);
        observe(&mut recorder, 3, &[4]);
        observe(&mut recorder, 4, &[5, 8, 8, 8]);
        observe(&mut recorder, 5, &[6, 7, 7]);
        let states = recorder.states(&[1, 2, 3, 4, 5, 6], 4);
        assert_eq!(
            rows(&states),
            [
                (0, 0, 1, vec![9, 3, 9]),
                (0, 1, 3, vec![9]),
                (0, 2, 4, vec![]),
                (1, 0, 1, vec![8]),
                (1, 1, 2, vec![]),
            ]
        );
    }

    #[test]
    fn a_block_known_before_any_pass_has_its_fixed_point() {
        assert_eq!(rows(&Recorder::default().states(&[7], 4)), [(0, 0, 1, vec![])]);
    }
}
