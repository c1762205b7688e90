//! Greedy Jacobi decoding equals autoregressive decoding token for token, in fp32, on real weights.

use jacobi_decoder::{JacobiConfig, Silent, StopRules, Strategy, generate};
use jacobi_model::{Dtype, load};
use proptest::prelude::*;

use crate::support::golden;

const CASES: [&str; 3] = ["tiny_llama", "tiny_qwen2", "tiny_llama_llama3"];

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn jacobi_equals_autoregressive_on_real_weights(
        case in 0usize..CASES.len(),
        prompt in prop::collection::vec(0u32..97, 1..12),
        block_size in prop_oneof![Just(1usize), 2usize..24],
        max_new_tokens in prop_oneof![Just(1usize), 2usize..48],
        eos in prop::collection::vec(0u32..97, 0..3),
        seed in any::<u64>(),
    ) {
        let model = load(&golden("models").join(CASES[case]), Dtype::Float32).unwrap().transformer;
        let stop = StopRules { max_new_tokens, eos_token_ids: eos };
        let run = |strategy| generate(&model, &prompt, &strategy, &stop, &mut Silent);
        let expected = run(Strategy::Autoregressive);
        let found = run(Strategy::Jacobi(JacobiConfig { block_size, seed }));
        prop_assert_eq!(&found.tokens, &expected.tokens);
        prop_assert_eq!(found.finish_reason, expected.finish_reason);
        prop_assert!(found.stats.forwards <= expected.stats.forwards);
    }
}

/// The context is the last limit: a response that reaches it ends there, whatever the decoder.
#[test]
fn the_context_limit_ends_both_decoders_at_the_same_token() {
    let model = load(&golden("models/tiny_llama"), Dtype::Float32).unwrap().transformer;
    let context = usize::try_from(model.architecture().max_position_embeddings).unwrap();
    let prompt: Vec<u32> = (0..context as u32 - 10).map(|i| i % 97).collect();
    let stop = StopRules { max_new_tokens: 100, eos_token_ids: vec![] };
    let run = |strategy| generate(&model, &prompt, &strategy, &stop, &mut Silent).tokens;
    let expected = run(Strategy::Autoregressive);
    assert_eq!(expected.len(), 10);
    assert_eq!(run(Strategy::Jacobi(JacobiConfig { block_size: 16, seed: 0 })), expected);
}
