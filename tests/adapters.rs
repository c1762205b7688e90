//! Adapters in decoding: some rows of a pass use the adapter, the others do not notice, and the text is the base model's.

use std::ops::ControlFlow;

use jacobi_decoder::{
    Answer, BatchEvent, Decoding, Filler, Growth, MultiBlockConfig, Passes, RandomSampling, Request, Room,
    Sampling, Settings, StopRules, Strategy, generate, generate_batch,
};
use jacobi_model::{
    AdaptedRows, Adapter, AdapterConfig, AttentionMask, DecodingModel, Device, Dtype, LanguageModel, Place,
    Predictions, Rows, Session, Target, Transformer, Work, load, token_tensor,
};
use proptest::prelude::*;
use proptest::strategy::Strategy as Arbitrary;
use tch::{Kind, Tensor};

use crate::support::{golden, max_difference};

const CASES: [&str; 4] = ["tiny_llama", "tiny_qwen2", "tiny_llama_llama3", "tiny_qwen3"];

/// A random adapter of all targets.
fn random_adapter(of: &Transformer, seed: u64) -> Adapter {
    let config = AdapterConfig { rank: 4, alpha: 8.0, targets: Target::ALL.to_vec() };
    let adapter = Adapter::new(of.architecture(), config, seed, Device::Cpu);
    for (_, parameter) in adapter.parameters().iter().filter(|(name, _)| name.contains("lora_B")) {
        let _ = parameter.shallow_clone().normal_(0.0, 0.1);
    }
    adapter
}

const PROMPT: [u32; 5] = [5, 6, 7, 8, 9];

/// A session that has cached [`PROMPT`].
fn prompted(model: &dyn LanguageModel) -> Box<dyn Session + '_> {
    let mut session = model.session(1, 64);
    session.forward(&[at_end(&Rows::chain(&PROMPT))]);
    session.keep(0, &[0, 1, 2, 3, 4]);
    session
}

fn at_end(rows: &Rows) -> Work<'_> {
    Work { slot: 0, place: Place::End, rows, first_output: 0 }
}

fn logits(predictions: &dyn Predictions, row: usize) -> Tensor {
    Tensor::from_slice(&predictions.logits(row))
}

/// Base rows v0 v1 v2 behind the prompt, and adapted rows r1 r2 behind the prompt and v0, as one plain pass computes
/// them under a mask.
fn expected(model: &Transformer, adapter: &Adapter, verified: &[u32; 3], drafting: &[u32; 2]) -> Tensor {
    let tokens = [&PROMPT[..], verified, drafting].concat();
    let (p, t) = (PROMPT.len(), tokens.len());
    let sees = |row: usize, key: usize| match row {
        _ if row < p + 3 => key <= row,
        _ => key <= p || (key >= p + 3 && key <= row),
    };
    let seen: Vec<bool> = (0..t * t).map(|at| sees(at / t, at % t)).collect();
    let seen = Tensor::from_slice(&seen).view([1, t as i64, t as i64]);
    let positions: Vec<i64> = (0..8).chain([6, 7]).collect();
    let rope = model.rope_table(64).at(&Tensor::from_slice(&positions));
    let mask = AttentionMask::from_bool(&seen, Kind::Float);
    let adapted = Some(AdaptedRows { adapter, first: p + 3 });
    let tokens = token_tensor(&tokens).unsqueeze(0);
    let hidden = tch::no_grad(|| model.hidden_adapted(&tokens, &rope, &mask, adapted, &mut |_| {}));
    tch::no_grad(|| model.logits(&hidden)).squeeze_dim(0).narrow(0, p as i64, 5)
}

#[test]
fn adapted_rows_of_a_pass_equal_those_of_a_plain_pass_under_a_mask() {
    for case in CASES {
        let model = load(&golden("models").join(case), Dtype::Float32).unwrap().transformer;
        let adapter = random_adapter(&model, 1);
        let (verified, drafting) = ([10, 11, 12], [20, 21]);
        let expected = expected(&model, &adapter, &verified, &drafting);
        for fixed in [false, true] {
            let decoding = match fixed {
                true => DecodingModel::with_fixed_shapes(&model),
                false => DecodingModel::new(&model),
            }
            .with_adapter(&adapter);
            assert!(decoding.has_adapter());
            let mut session = prompted(&decoding);
            let (rows, drafted) = (Rows::chain(&verified), Rows::chain(&drafting));
            let place = Place::Adapted(PROMPT.len() + 1);
            let work = [at_end(&rows), Work { place, ..at_end(&drafted) }];
            let found = session.forward(&work);
            for row in 0..5 {
                let off = max_difference(&logits(&*found, row), &expected.get(row as i64));
                assert!(off <= 1e-4, "{case}, row {row}: {off}");
            }
        }
    }
}

/// Bit for bit, in both dtypes; and adapted rows leave nothing behind.
#[test]
fn base_rows_do_not_notice_adapted_ones() {
    for dtype in [Dtype::Float32, Dtype::Bfloat16] {
        let model = load(&golden("models/tiny_llama"), dtype).unwrap().transformer;
        let decoding = DecodingModel::new(&model).with_adapter(&random_adapter(&model, 2));
        let (rows, drafted) = (Rows::chain(&[10, 11, 12]), Rows::chain(&[20, 21, 22, 23]));
        let (mut alone, mut session) = (prompted(&decoding), prompted(&decoding));
        for _ in 0..2 {
            let expected = alone.forward(&[at_end(&rows)]);
            let place = Place::Adapted(session.cached(0) + 1);
            let found = session.forward(&[at_end(&rows), Work { place, ..at_end(&drafted) }]);
            for row in 0..3 {
                assert!(logits(&*found, row).equal(&logits(&*expected, row)), "{dtype:?}, row {row}");
            }
            alone.keep(0, &[0, 1]);
            session.keep(0, &[0, 1]);
        }
    }
}

const TREES: [usize; 3] = [0, 8, 40];

fn strategies() -> impl Arbitrary<Value = Strategy> {
    let growth = prop_oneof![
        Just(Growth::Sliding),
        (1usize..4, 0.0..1.0f64)
            .prop_map(|(max_blocks, spawn_ratio)| Growth::Blocks { max_blocks, spawn_ratio })
    ];
    let passes = prop_oneof![Just(Passes::One), Just(Passes::Two)];
    let filler = prop_oneof![Just(Filler::Random), Just(Filler::Ngram), Just(Filler::Vocabulary)];
    (1usize..16, growth, passes, filler, 0usize..4, 0..TREES.len(), any::<u64>()).prop_map(
        |(block_size, growth, passes, filler, pool_size, tree, seed)| {
            let tree_budget = TREES[tree];
            Strategy::MultiBlock(MultiBlockConfig {
                block_size,
                growth,
                filler,
                pool_size,
                tree_budget,
                passes,
                seed,
            })
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]
    /// Greedy and sampled, in both dtypes, alone and in a batch.
    #[test]
    fn decoding_with_an_adapter_gives_the_text_of_the_base_on_real_weights(
        case in 0usize..CASES.len(),
        dtype in prop_oneof![Just(Dtype::Float32), Just(Dtype::Bfloat16)],
        seed in 0u64..50,
        prompt in prop::collection::vec(0u32..97, 1..12),
        strategy in strategies(),
        sampled in any::<bool>(),
        max_new_tokens in 2usize..40,
    ) {
        let base = load(&golden("models").join(CASES[case]), dtype).unwrap().transformer;
        let model = DecodingModel::new(&base).with_adapter(&random_adapter(&base, seed));
        let stop = StopRules { max_new_tokens, eos_token_ids: vec![5] };
        let sampling = match sampled {
            true => Sampling::Random(RandomSampling { seed, temperature: 0.8, ..RandomSampling::default() }),
            false => Sampling::Greedy,
        };
        let settings = |strategy| Settings { sampling: sampling.clone(), ..Settings::greedy(strategy, stop.clone()) };
        let expected = generate(&base, &prompt, &settings(Strategy::Autoregressive), &mut |_| {}).tokens;
        let settings = settings(strategy);
        prop_assert_eq!(&generate(&model, &prompt, &settings, &mut |_| {}).tokens, &expected);
        let room = Room { slots: 2, capacity: settings.capacity(&model, prompt.len()), rows: 64 };
        let mut requests = vec![Request::new(prompt, settings); 3].into_iter().enumerate();
        let mut found = Vec::new();
        generate_batch(&model, &mut requests, room, &mut |event| {
            if let BatchEvent::Done(_, Answer::Response(response)) = event {
                found.push(response.generation.tokens);
            }
            ControlFlow::Continue(())
        });
        prop_assert_eq!(found, vec![expected; 3]);
    }
}

/// Pass by pass, bit for bit: the same drafts, the same tokens.
#[test]
fn an_adapter_of_zeros_decodes_as_jacobi_decoding_on_real_weights() {
    for (case, dtype) in CASES.into_iter().flat_map(|case| [(case, Dtype::Float32), (case, Dtype::Bfloat16)])
    {
        let base = load(&golden("models").join(case), dtype).unwrap().transformer;
        let config = AdapterConfig { rank: 4, alpha: 8.0, targets: Target::ALL.to_vec() };
        let zeros = Adapter::new(base.architecture(), config, 3, Device::Cpu);
        let model = DecodingModel::new(&base).with_adapter(&zeros);
        let stop = StopRules { max_new_tokens: 40, eos_token_ids: vec![] };
        for growth in [Growth::Sliding, Growth::Blocks { max_blocks: 2, spawn_ratio: 0.5 }] {
            let config =
                MultiBlockConfig { block_size: 6, growth, pool_size: 0, ..MultiBlockConfig::default() };
            let settings = Settings::greedy(Strategy::MultiBlock(config), stop.clone());
            let passes = |model: &dyn LanguageModel| -> Vec<_> {
                let decoding = Decoding::new(model, &PROMPT, &settings);
                decoding.map(|pass| (pass.draft.rows().clone(), pass.chosen, pass.tokens)).collect()
            };
            assert_eq!(passes(&model), passes(&base), "{case} {dtype:?}");
        }
    }
}
