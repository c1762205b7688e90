//! Jacobi decoding, one block after the other (arXiv 2305.10427; arXiv 2512.14681 section 2). A block starts as
//! its known first token and filler; each forward pass replaces every unconverged position by the model's greedy
//! token; the block is done when a pass changes nothing. Departure from the reference: converged tokens are never
//! fed again, so a pass shrinks with its block.

use jacobi_model::Session;

use crate::{DecodeStats, Iteration, Observer, accept::accepted, filler::fill, response::Response};

/// Settings of plain Jacobi decoding.
#[derive(Clone, Debug, PartialEq)]
pub struct JacobiConfig {
    /// Tokens refined together, n.
    pub block_size: usize,
    /// Seed of the fillers.
    pub seed: u64,
}

pub(crate) fn decode(
    session: &mut dyn Session,
    prompt: &[u32],
    config: &JacobiConfig,
    response: &mut Response,
    stats: &mut DecodeStats,
    observer: &mut dyn Observer,
) {
    assert!(config.block_size > 0, "block_size is at least 1");
    let mut block = 0;
    while response.is_open() {
        // Everything before the block's known first token is committed and cached.
        let committed = response.tokens().len() - 1;
        let size = config.block_size.min(response.limit() - committed);
        let mut draft = vec![response.last()];
        draft.extend(fill(prompt, response.tokens(), size - 1, config.seed, block));
        let mut iteration = 0;
        while response.is_open() && !draft.is_empty() {
            draft = iterate(session, &draft, response, stats, |greedy, accepted| {
                observer.iteration(&Iteration {
                    block,
                    iteration,
                    offset: size - draft.len(),
                    draft: &draft,
                    greedy,
                    accepted,
                });
            });
            iteration += 1;
        }
        block += 1;
    }
}

/// One forward pass over `draft`: commits what it proves right and returns what is left to refine.
fn iterate(
    session: &mut dyn Session,
    draft: &[u32],
    response: &mut Response,
    stats: &mut DecodeStats,
    observe: impl FnOnce(&[u32], usize),
) -> Vec<u32> {
    let cached = session.len();
    let greedy = session.forward_greedy(draft, 0);
    let right = accepted(draft, &greedy);
    observe(&greedy, right);
    stats.count(right);
    session.truncate(cached + right);
    // The greedy token after the accepted run is right too: the next draft starts with it.
    response.extend(&greedy[..right]);
    greedy[right - 1..draft.len() - 1].to_vec()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use jacobi_datasets::FinishReason;

    use crate::{
        Generation, Iteration, JacobiConfig, Observer, Silent, StopRules, Strategy, generate,
        scripted::Scripted,
    };

    fn run(model: &Scripted, prompt: &[u32], strategy: &Strategy, stop: &StopRules) -> Generation {
        generate(model, prompt, strategy, stop, &mut Silent)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        /// The lossless law, over random models, prompts and every knob, degenerate values included.
        #[test]
        fn jacobi_equals_autoregressive(
            model_seed in any::<u64>(),
            vocabulary in 2usize..12,
            noise_sensitivity in 0usize..4,
            prompt in prop::collection::vec(0u32..2, 1..6),
            block_size in 1usize..20,
            max_new_tokens in 1usize..50,
            context in 8usize..64,
            eos in prop::collection::vec(0u32..12, 0..2),
            seed in any::<u64>(),
        ) {
            let model = Scripted { vocabulary, context, seed: model_seed, memory: noise_sensitivity };
            let stop = StopRules { max_new_tokens, eos_token_ids: eos };
            let expected = run(&model, &prompt, &Strategy::Autoregressive, &stop);
            let jacobi = Strategy::Jacobi(JacobiConfig { block_size, seed });
            let found = run(&model, &prompt, &jacobi, &stop);
            prop_assert_eq!(&found.tokens, &expected.tokens);
            prop_assert_eq!(found.finish_reason, expected.finish_reason);
            // At least one token per forward, so never more forwards than AR; AR is one token per forward.
            prop_assert!(found.stats.forwards <= expected.stats.forwards);
            prop_assert_eq!(expected.stats.forwards, expected.tokens.len() - 1);
            prop_assert_eq!(found.stats.acceptance.iter().sum::<usize>(), found.stats.forwards);
        }
    }

    #[test]
    fn eos_ends_the_response_at_every_offset_of_a_block() {
        // memory 0: the next token depends on the position alone, so a draft converges in one pass.
        for stop_at in 0..20 {
            let model = Scripted { vocabulary: 50, context: 64, seed: 3, memory: 0 };
            let no_eos = StopRules { max_new_tokens: 40, eos_token_ids: vec![] };
            let free = run(&model, &[1], &Strategy::Autoregressive, &no_eos).tokens;
            let stop = StopRules { max_new_tokens: 40, eos_token_ids: vec![free[stop_at]] };
            let jacobi = Strategy::Jacobi(JacobiConfig { block_size: 8, seed: 1 });
            let found = run(&model, &[1], &jacobi, &stop);
            let first = free.iter().position(|t| *t == free[stop_at]).unwrap();
            assert_eq!(found.tokens, free[..=first]);
            assert_eq!(found.finish_reason, FinishReason::Eos);
        }
    }

    /// Checks what every event claims.
    struct Checker(Vec<u32>);

    impl Observer for Checker {
        fn iteration(&mut self, event: &Iteration) {
            assert_eq!(event.draft.len(), event.greedy.len());
            assert!(event.accepted >= 1 && event.accepted <= event.draft.len());
            assert_eq!(event.iteration == 0, event.offset == 0);
            self.0.extend(&event.draft[..event.accepted]);
        }
    }

    #[test]
    fn the_accepted_runs_of_the_observer_are_the_response() {
        let model = Scripted { vocabulary: 30, context: 200, seed: 5, memory: 2 };
        let stop = StopRules { max_new_tokens: 64, eos_token_ids: vec![] };
        let jacobi = Strategy::Jacobi(JacobiConfig { block_size: 16, seed: 1 });
        let mut checker = Checker(vec![]);
        let found = generate(&model, &[1, 2, 3], &jacobi, &stop, &mut checker);
        assert_eq!(found.tokens[..checker.0.len()], checker.0);
        assert!(found.tokens.len() - checker.0.len() <= 16);
    }
}
