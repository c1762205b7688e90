//! Every decoder equals autoregressive decoding token for token, on real weights, in fp32 and in bf16: on a CPU a row's
//! result does not depend on the other rows of the pass.

use std::ops::ControlFlow;

use jacobi_decoder::{
    Answer, BatchEvent, Filler, Generation, Growth, JacobiConfig, MultiBlockConfig, RandomSampling, Recorder,
    Request, Room, Sampling, Settings, States, StopRules, Strategy, Trajectories, generate, generate_batch,
};
use jacobi_model::{DecodingModel, Dtype, LanguageModel, Transformer, load};
use proptest::prelude::*;
use proptest::strategy::Strategy as Arbitrary;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};

use crate::support::{golden, scratch};

const CASES: [&str; 3] = ["tiny_llama", "tiny_qwen2", "tiny_llama_llama3"];

fn run(model: &dyn LanguageModel, prompt: &[u32], strategy: Strategy, stop: &StopRules) -> Generation {
    generate(model, prompt, &Settings::greedy(strategy, stop.clone()), &mut |_| {})
}

fn strategies() -> impl Arbitrary<Value = Strategy> {
    let block_size = prop_oneof![Just(1usize), 2usize..24];
    let ratio = prop_oneof![Just(0.0), Just(1.0), 0.0..1.0f64];
    let growth =
        (1usize..4, ratio, any::<bool>()).prop_map(|(max_blocks, spawn_ratio, sliding)| match sliding {
            true => Growth::Sliding,
            false => Growth::Blocks { max_blocks, spawn_ratio },
        });
    let tree_budget = prop_oneof![Just(0usize), 1usize..80];
    (block_size, growth, any::<bool>(), 0usize..6, tree_budget, any::<u64>()).prop_map(
        |(block_size, growth, ngram, pool_size, tree_budget, seed)| match (pool_size, tree_budget) {
            (0, 0) => Strategy::Jacobi(JacobiConfig { block_size, seed }),
            _ => Strategy::MultiBlock(MultiBlockConfig {
                block_size,
                growth,
                filler: if ngram { Filler::Ngram } else { Filler::Random },
                pool_size,
                tree_budget,
                seed,
                ..MultiBlockConfig::default()
            }),
        },
    )
}

/// Random weights, wide enough that ordinary products of matrices round differently from one number of rows to the next.
fn wide(dtype: Dtype) -> Transformer {
    let text = fs_err::read_to_string(golden("models/tiny_llama/config.json")).unwrap();
    let mut config: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&text).unwrap();
    for (field, value) in [("hidden_size", 320), ("intermediate_size", 896), ("vocab_size", 3000)] {
        config.insert(field.into(), value.into());
    }
    let dir = scratch();
    fs_err::write(dir.path().join("config.json"), serde_json::to_string(&config).unwrap()).unwrap();
    Transformer::random(dir.path(), dtype, 11).unwrap()
}

/// With weights that make thousands of nearly equal tokens, one bit more or less in a row would show at once.
#[test]
fn every_decoder_equals_autoregressive_on_a_wide_model() {
    for dtype in [Dtype::Float32, Dtype::Bfloat16] {
        let model = wide(dtype);
        let config = ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() };
        let prompts = prop::collection::vec(0u32..3000, 1..40);
        proptest!(config, |(prompt in prompts, strategy in strategies(), max_new_tokens in 2usize..64)| {
            let stop = StopRules { max_new_tokens, eos_token_ids: vec![] };
            let expected = run(&model, &prompt, Strategy::Autoregressive, &stop).tokens;
            prop_assert_eq!(run(&model, &prompt, strategy, &stop).tokens, expected);
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn every_decoder_equals_autoregressive_on_real_weights(
        case in 0usize..CASES.len(),
        dtype in prop_oneof![Just(Dtype::Float32), Just(Dtype::Bfloat16)],
        prompt in prop::collection::vec(0u32..97, 1..12),
        strategy in strategies(),
        max_new_tokens in prop_oneof![Just(1usize), 2usize..48],
        eos_token_ids in prop::collection::vec(0u32..97, 0..3),
    ) {
        let model = load(&golden("models").join(CASES[case]), dtype).unwrap().transformer;
        let stop = StopRules { max_new_tokens, eos_token_ids };
        let expected = run(&model, &prompt, Strategy::Autoregressive, &stop);
        let found = run(&model, &prompt, strategy, &stop);
        prop_assert_eq!(&found.tokens, &expected.tokens);
        prop_assert_eq!(found.finish_reason, expected.finish_reason);
        prop_assert!(found.stats.forwards <= expected.stats.forwards);
    }
}

/// A GPU's passes, computed on a CPU: rounded up to a few widths, with padding rows, over a cache that sessions hand on.
/// Other kernels than the CPU's own, so the cases are the same in every run.
#[test]
fn passes_of_fixed_shape_decode_the_same_tokens() {
    for case in CASES {
        let model = load(&golden("models").join(case), Dtype::Float32).unwrap().transformer;
        let fixed = DecodingModel::with_fixed_shapes(&model);
        let prompts = prop::collection::vec(0u32..97, 1..12);
        let config = ProptestConfig { cases: 20, failure_persistence: None, ..ProptestConfig::default() };
        let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
        let mut runner = TestRunner::new_with_rng(config, rng);
        let outcome =
            runner.run(&(prompts, strategies(), 1usize..48), |(prompt, strategy, max_new_tokens)| {
                let stop = StopRules { max_new_tokens, eos_token_ids: vec![5] };
                let expected = run(&model, &prompt, Strategy::Autoregressive, &stop).tokens;
                prop_assert_eq!(
                    run(&fixed, &prompt, Strategy::Autoregressive, &stop).tokens,
                    expected.clone()
                );
                prop_assert_eq!(run(&fixed, &prompt, strategy, &stop).tokens, expected);
                Ok(())
            });
        outcome.unwrap_or_else(|error| panic!("{case}: {error}"));
    }
}

/// Blocks refined side by side, in passes with other samples and unfinished responses, have the states that
/// sequential Jacobi decoding shows.
#[test]
fn blocks_side_by_side_have_the_states_of_sequential_decoding_on_real_weights() {
    for dtype in [Dtype::Float32, Dtype::Bfloat16] {
        let models = ["tiny_llama", "tiny_qwen2"]
            .map(|case| load(&golden("models").join(case), dtype).unwrap().transformer)
            .into_iter()
            .chain([wide(dtype)]);
        for model in models {
            let config = ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() };
            let prompts = prop::collection::vec(prop::collection::vec(0u32..97, 1..24), 1..6);
            let room = (1usize..5, 1usize..120).prop_map(|(slots, rows)| Room {
                slots,
                rows,
                capacity: 24 + 48 + 1,
            });
            let sampling = prop_oneof![
                3 => Just(Sampling::Greedy),
                1 => any::<u64>().prop_map(|seed| Sampling::Random(RandomSampling { seed, ..RandomSampling::default() })),
            ];
            let strategy = (prompts, room, sampling, 1usize..30, any::<u64>(), 1usize..48);
            proptest!(config, |((prompts, room, sampling, block_size, seed, max_new_tokens) in strategy)| {
                let stop = StopRules { max_new_tokens, eos_token_ids: vec![5] };
                let settings = Settings { sampling, ..Settings::greedy(Strategy::Autoregressive, stop) };
                let trajectories = Trajectories { block_size, seed, states: States::All };
                check_states(&model, &prompts, &settings, &trajectories, room)?;
            });
        }
    }
}

/// Blocks of the largest supported sizes, more than one per response.
#[test]
fn long_blocks_have_the_states_of_sequential_decoding() {
    for (dtype, block_size, max_new_tokens) in [(Dtype::Bfloat16, 128, 200), (Dtype::Float32, 256, 300)] {
        let model = wide(dtype);
        let prompts: Vec<Vec<u32>> = (1..4).map(|len| (0..len * 5).map(|i| i * 31 % 97).collect()).collect();
        let stop = StopRules { max_new_tokens, eos_token_ids: vec![] };
        let settings = Settings::greedy(Strategy::Autoregressive, stop);
        let trajectories = Trajectories { block_size, seed: 7, states: States::All };
        let room = Room { slots: 2, rows: 400, capacity: 16 + max_new_tokens + 1 };
        check_states(&model, &prompts, &settings, &trajectories, room).unwrap();
    }
}

fn check_states(
    model: &Transformer,
    prompts: &[Vec<u32>],
    settings: &Settings,
    trajectories: &Trajectories,
    room: Room,
) -> Result<(), TestCaseError> {
    let Trajectories { block_size, seed, .. } = *trajectories;
    let strategy = Strategy::Jacobi(JacobiConfig { block_size, seed });
    let sequential = Settings { strategy, ..settings.clone() };
    let requests = prompts.iter().map(|prompt| Request {
        trajectories: Some(trajectories.clone()),
        ..Request::new(prompt.clone(), settings.clone())
    });
    let mut found = Vec::new();
    generate_batch(model, &mut requests.enumerate(), room, &mut |event| {
        if let BatchEvent::Done(at, Answer::Response(response)) = event {
            found.push((at, response));
        }
        ControlFlow::Continue(())
    });
    prop_assert_eq!(found.len(), prompts.len());
    for (at, found) in found {
        let mut recorder = Recorder::default();
        let alone = generate(model, &prompts[at], &sequential, &mut |pass| recorder.record(pass));
        prop_assert_eq!(&found.generation.tokens, &alone.tokens);
        prop_assert_eq!(found.states, recorder.states(&alone.tokens, block_size));
    }
    Ok(())
}

/// The context is the last limit: a response that reaches it ends there, whatever the decoder.
#[test]
fn the_context_limit_ends_every_decoder_at_the_same_token() {
    for case in ["tiny_llama", "tiny_llama_dynamic"] {
        let model = load(&golden("models").join(case), Dtype::Float32).unwrap().transformer;
        let context = model.context_length();
        let prompt: Vec<u32> = (0..context as u32 - 10).map(|i| i % 97).collect();
        let stop = StopRules { max_new_tokens: 100, eos_token_ids: vec![] };
        let expected = run(&model, &prompt, Strategy::Autoregressive, &stop).tokens;
        assert_eq!(expected.len(), 10);
        let jacobi = Strategy::Jacobi(JacobiConfig { block_size: 16, seed: 0 });
        assert_eq!(run(&model, &prompt, jacobi, &stop).tokens, expected);
        let multi_block = MultiBlockConfig { tree_budget: 64, ..MultiBlockConfig::default() };
        assert_eq!(run(&model, &prompt, Strategy::MultiBlock(multi_block), &stop).tokens, expected);
    }
}

/// Ragged prompts through two slots: each response is the one its prompt gets alone.
#[test]
fn a_batch_on_real_weights_gives_what_each_prompt_gives_alone() {
    for dtype in [Dtype::Float32, Dtype::Bfloat16] {
        check_batch(&load(&golden("models/tiny_qwen2"), dtype).unwrap().transformer);
    }
}

fn check_batch(model: &dyn LanguageModel) {
    let prompts: Vec<Vec<u32>> =
        (1..8u32).map(|i| (0..i * 3).map(|j| (i * 31 + j * 7) % 97).collect()).collect();
    let stop = StopRules { max_new_tokens: 24, eos_token_ids: vec![5] };
    for strategy in [
        Strategy::Autoregressive,
        Strategy::MultiBlock(MultiBlockConfig {
            block_size: 8,
            tree_budget: 16,
            ..MultiBlockConfig::default()
        }),
    ] {
        let settings = Settings::greedy(strategy.clone(), stop.clone());
        let requests = prompts.iter().map(|prompt| Request::new(prompt.clone(), settings.clone()));
        let room = Room { slots: 2, capacity: 21 + 24 + strategy.max_rows(), rows: 40 };
        let mut ended = 0;
        generate_batch(model, &mut requests.enumerate(), room, &mut |event| {
            if let BatchEvent::Done(at, Answer::Response(found)) = event {
                let alone = run(model, &prompts[at], strategy.clone(), &stop);
                assert_eq!(found.generation.tokens, alone.tokens, "prompt {at}");
                ended += 1;
            }
            ControlFlow::Continue(())
        });
        assert_eq!(ended, prompts.len());
    }
}
