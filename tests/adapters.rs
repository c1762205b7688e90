//! Adapters in decoding: some rows of a pass use the adapter, the others do not notice, and the text is the base model's.

use std::ops::ControlFlow;

use jacobi_decoder::{
    Answer, BatchEvent, Decoding, Filler, Generation, Growth, MultiBlockConfig, Passes, RandomSampling,
    Request, Room, Sampling, Settings, StopRules, Strategy, generate, generate_batch,
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
    cache(&mut *session, 0, &PROMPT);
    session
}

fn cache(session: &mut dyn Session, slot: usize, prompt: &[u32]) {
    session.forward(&[Work { slot, ..at_end(&Rows::chain(prompt)) }]);
    session.keep(slot, &(0..prompt.len()).collect::<Vec<_>>());
}

fn at_end(rows: &Rows) -> Work<'_> {
    Work { slot: 0, place: Place::End, rows, first_output: 0 }
}

fn logits(predictions: &dyn Predictions, row: usize) -> Tensor {
    Tensor::from_slice(&predictions.logits(row))
}

/// A sequence in a pass: rows of the base behind a prompt, and rows of the adapter behind the prompt and row 0.
struct Case {
    prompt: Vec<u32>,
    rows: Rows,
    drafting: Rows,
}

impl Case {
    /// A prompt of this length, and a chain.
    fn chain(prompt: u32) -> Self {
        let prompt = (5..5 + prompt).collect();
        Self { prompt, rows: Rows::chain(&[10, 11, 12]), drafting: Rows::chain(&[20, 21]) }
    }

    /// With branches behind row 0 and row 1.
    fn tree(prompt: u32) -> Self {
        let mut case = Self::chain(prompt);
        let branch = case.rows.push(13, Some(0));
        case.rows.push(14, Some(branch));
        case.rows.push(15, Some(1));
        case
    }

    /// The logits of its rows and of the adapted ones, from one plain pass under a mask.
    fn expected(&self, model: &Transformer, adapter: &Adapter) -> Vec<Tensor> {
        let (p, n) = (self.prompt.len(), self.rows.len());
        let tokens = [&self.prompt[..], self.rows.tokens(), self.drafting.tokens()].concat();
        let t = tokens.len();
        let sees = |row: usize, key: usize| match row {
            _ if row < p => key <= row,
            _ if row < p + n => key < p || self.rows.path(row - p).contains(&(key - p)),
            _ => key <= p || (key >= p + n && key <= row),
        };
        let seen: Vec<bool> = (0..t * t).map(|at| sees(at / t, at % t)).collect();
        let seen = Tensor::from_slice(&seen).view([1, t as i64, t as i64]);
        let of_rows = (0..n).map(|row| p + self.rows.depth(row));
        let positions = (0..p).chain(of_rows).chain((0..self.drafting.len()).map(|row| p + 1 + row));
        let positions: Vec<i64> = positions.map(|position| position as i64).collect();
        let rope = model.rope_table(64).at(&Tensor::from_slice(&positions));
        let mask = AttentionMask::from_bool(&seen, Kind::Float);
        let adapted = Some(AdaptedRows { adapter, first: p + n });
        let tokens = token_tensor(&tokens).unsqueeze(0);
        let hidden = tch::no_grad(|| model.hidden_adapted(&tokens, &rope, &mask, adapted, &mut |_| {}));
        let logits = tch::no_grad(|| model.logits(&hidden)).squeeze_dim(0);
        (p..t).map(|row| logits.get(row as i64)).collect()
    }
}

/// The logits of all rows of the base, then of all adapted rows, in one pass over the sequences.
fn found(model: &dyn LanguageModel, cases: &[Case]) -> Vec<Tensor> {
    let mut session = model.session(cases.len(), 64);
    for (slot, case) in cases.iter().enumerate() {
        cache(&mut *session, slot, &case.prompt);
    }
    let base = cases.iter().enumerate().map(|(slot, case)| Work { slot, ..at_end(&case.rows) });
    let adapted = cases.iter().enumerate().map(|(slot, case)| {
        let place = Place::Adapted(case.prompt.len() + 1);
        Work { slot, place, ..at_end(&case.drafting) }
    });
    let work: Vec<Work> = base.chain(adapted).collect();
    let rows = work.iter().map(|work| work.rows.len()).sum();
    let predictions = session.forward(&work);
    (0..rows).map(|row| logits(&*predictions, row)).collect()
}

#[test]
fn adapted_rows_of_a_pass_equal_those_of_a_plain_pass_under_a_mask() {
    for name in CASES {
        let model = load(&golden("models").join(name), Dtype::Float32).unwrap().transformer;
        let adapter = random_adapter(&model, 1);
        let any = DecodingModel::new(&model).with_adapter(&adapter);
        let fixed = DecodingModel::with_fixed_shapes(&model).with_adapter(&adapter);
        assert!(any.has_adapter() && fixed.has_adapter());
        let check = |decoding: &dyn LanguageModel, cases: &[Case]| {
            let each: Vec<Vec<Tensor>> = cases.iter().map(|case| case.expected(&model, &adapter)).collect();
            let base = each.iter().zip(cases).flat_map(|(all, case)| &all[..case.rows.len()]);
            let adapted = each.iter().zip(cases).flat_map(|(all, case)| &all[case.rows.len()..]);
            let found = found(decoding, cases);
            assert_eq!(found.len(), each.iter().map(Vec::len).sum::<usize>());
            for (row, (found, expected)) in found.iter().zip(base.chain(adapted)).enumerate() {
                let off = max_difference(found, expected);
                assert!(off <= 1e-4, "{name}, {} sequences, row {row}: {off}", cases.len());
            }
        };
        for decoding in [&any, &fixed] {
            check(decoding, &[Case::chain(5)]);
            check(decoding, &[Case::tree(5)]);
        }
        check(&any, &[Case::tree(5), Case::chain(9)]);
        check(&any, &[Case::chain(3), Case::tree(7), Case::tree(4)]);
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
        prompts in prop::collection::vec(prop::collection::vec(0u32..97, 1..12), 3),
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
        let (autoregressive, settings) = (settings(Strategy::Autoregressive), settings(strategy));
        let mut alone = Vec::new();
        for prompt in &prompts {
            let found = generate(&model, prompt, &settings, &mut |_| {});
            prop_assert_eq!(&found.tokens, &generate(&base, prompt, &autoregressive, &mut |_| {}).tokens);
            alone.push(found);
        }
        let room = Room { slots: 2, capacity: settings.capacity(&model, 12), rows: 64 };
        let requests = prompts.iter().map(|prompt| Request::new(prompt.clone(), settings.clone()));
        let mut found = vec![None; prompts.len()];
        generate_batch(&model, &mut requests.enumerate(), room, &mut |event| {
            if let BatchEvent::Done(at, Answer::Response(response)) = event {
                found[at] = Some(response.generation);
            }
            ControlFlow::Continue(())
        });
        let passes = |found: &Generation| (found.tokens.clone(), found.stats.forwards, found.stats.acceptance.clone());
        for (found, alone) in found.iter().flatten().zip(&alone) {
            prop_assert_eq!(passes(found), passes(alone));
        }
        prop_assert!(found.iter().all(Option::is_some));
    }
}

/// A GPU's passes, computed on a CPU. Other kernels than the CPU's own, so the prompts are the same in every run.
#[test]
fn passes_of_fixed_shape_with_an_adapter_decode_the_same_tokens() {
    for name in CASES {
        let base = load(&golden("models").join(name), Dtype::Float32).unwrap().transformer;
        let adapter = random_adapter(&base, 4);
        let fixed = DecodingModel::with_fixed_shapes(&base).with_adapter(&adapter);
        let stop = StopRules { max_new_tokens: 40, eos_token_ids: vec![] };
        let settings = |strategy| Settings::greedy(strategy, stop.clone());
        for prompt in [&PROMPT[..], &[40], &[7, 7, 60, 3, 90, 12, 7, 7]] {
            let expected = generate(&base, prompt, &settings(Strategy::Autoregressive), &mut |_| {}).tokens;
            let growths = [Growth::Sliding, Growth::Blocks { max_blocks: 2, spawn_ratio: 0.5 }];
            for (growth, passes) in
                growths.into_iter().flat_map(|growth| [(growth, Passes::One), (growth, Passes::Two)])
            {
                let config = MultiBlockConfig {
                    block_size: 6,
                    growth,
                    passes,
                    tree_budget: 8,
                    ..MultiBlockConfig::default()
                };
                let found = generate(&fixed, prompt, &settings(Strategy::MultiBlock(config)), &mut |_| {});
                assert_eq!(found.tokens, expected, "{name}, {prompt:?}, {growth:?}, {passes:?}");
            }
        }
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
                decoding.map(|pass| (pass.draft.rows().clone(), pass.next_draft(), pass.tokens)).collect()
            };
            assert_eq!(passes(&model), passes(&base), "{case} {dtype:?}");
        }
    }
}
