//! Laws of every decoder, on a scripted model: same text as autoregressive decoding, never more passes, consistent
//! statistics, the model's own distribution.

use std::ops::ControlFlow;

use jacobi_datasets::FinishReason;
use proptest::prelude::*;
use proptest::strategy::Strategy as Arbitrary;

mod adapters;
mod trajectories;
mod windows;

use crate::{
    Answer, Batch, BatchEvent, DecodeStats, Decoding, Filler, Generation, Growth, JacobiConfig, Limit,
    MultiBlockConfig, Pass, RANKED, RandomSampling, Request, Room, Sampling, Settings, Source, StopRules,
    Strategy, generate, generate_batch, scripted::Scripted,
};

fn run(model: &Scripted, prompt: &[u32], settings: &Settings) -> Generation {
    generate(model, prompt, settings, &mut |_| {})
}

fn growth() -> impl Arbitrary<Value = Growth> {
    let ratio = prop_oneof![Just(0.0), Just(1.0), Just(0.85), 0.0..1.0f64];
    let blocks =
        (1usize..4, ratio).prop_map(|(max_blocks, spawn_ratio)| Growth::Blocks { max_blocks, spawn_ratio });
    prop_oneof![3 => blocks, 1 => Just(Growth::Sliding)]
}

fn multi_block() -> impl Arbitrary<Value = MultiBlockConfig> {
    let budget = prop_oneof![Just(0usize), 1usize..10, Just(64), Just(300)];
    let filler = prop_oneof![Just(Filler::Random), Just(Filler::Ngram)];
    (1usize..20, growth(), filler, 0usize..6, budget, any::<u64>()).prop_map(
        |(block_size, growth, filler, pool_size, tree_budget, seed)| MultiBlockConfig {
            block_size,
            growth,
            filler,
            pool_size,
            tree_budget,
            seed,
            ..MultiBlockConfig::default()
        },
    )
}

fn strategies() -> impl Arbitrary<Value = Strategy> {
    let jacobi = (1usize..20, any::<u64>())
        .prop_map(|(block_size, seed)| Strategy::Jacobi(JacobiConfig { block_size, seed }));
    prop_oneof![1 => jacobi, 4 => multi_block().prop_map(Strategy::MultiBlock)]
}

fn samplings() -> impl Arbitrary<Value = Sampling> {
    let penalty = prop_oneof![Just(1.0f32), 0.5f32..3.0];
    let top_p = prop_oneof![Just(1.0f32), 0.1f32..1.0];
    let random = (penalty, 0.1f32..3.0, 0usize..5, top_p, any::<u64>()).prop_map(
        |(repetition_penalty, temperature, top_k, top_p, seed)| {
            Sampling::Random(RandomSampling { repetition_penalty, temperature, top_k, top_p, seed })
        },
    );
    prop_oneof![3 => Just(Sampling::Greedy), 1 => random]
}

fn models() -> impl Arbitrary<Value = Scripted> {
    (2usize..12, 8usize..64, any::<u64>(), 0usize..4).prop_map(|(vocabulary, context, seed, memory)| {
        Scripted { vocabulary, context, seed, memory, forced: 0 }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]
    /// The lossless law, over random models, prompts and settings, including degenerate ones.
    #[test]
    fn every_decoder_equals_autoregressive(
        model in models(),
        strategy in strategies(),
        sampling in samplings(),
        prompt in prop::collection::vec(0u32..2, 1..6),
        max_new_tokens in prop_oneof![Just(1usize), 2usize..50],
        eos_token_ids in prop::collection::vec(0u32..12, 0..2),
    ) {
        let stop = StopRules { max_new_tokens, eos_token_ids };
        let settings = |strategy| Settings { sampling: sampling.clone(), ..Settings::greedy(strategy, stop.clone()) };
        let expected = run(&model, &prompt, &settings(Strategy::Autoregressive));
        let mut passes = Vec::new();
        let found = generate(&model, &prompt, &settings(strategy.clone()), &mut |pass| passes.push(pass.clone()));
        prop_assert_eq!(&found.tokens, &expected.tokens);
        prop_assert_eq!(found.finish_reason, expected.finish_reason);
        // At least one token per forward, so never more forwards than AR; AR is one token per forward.
        prop_assert!(found.stats.forwards <= expected.stats.forwards);
        prop_assert_eq!(expected.stats.forwards, expected.tokens.len() - 1);
        check_statistics(&found, &passes, strategy.max_rows())?;
    }

    /// `strict_gap` costs passes and does not change the text.
    #[test]
    fn strict_decoding_equals_autoregressive(
        model in models(),
        strategy in strategies(),
        gap in prop_oneof![Just(f32::INFINITY), 0.0f32..2.0],
        max_new_tokens in 1usize..40,
    ) {
        let stop = StopRules { max_new_tokens, eos_token_ids: vec![1] };
        let expected = run(&model, &[0, 1], &Settings::greedy(Strategy::Autoregressive, stop.clone()));
        let strict = Settings { strict_gap: Some(gap), ..Settings::greedy(strategy, stop) };
        prop_assert_eq!(run(&model, &[0, 1], &strict).tokens, expected.tokens);
    }

    /// Sharing passes changes no response.
    #[test]
    fn a_batch_gives_what_each_prompt_gives_alone(
        model in models(),
        strategy in strategies(),
        sampling in samplings(),
        prompts in prop::collection::vec(prop::collection::vec(0u32..2, 1..7), 0..9),
        batch_size in 1usize..5,
        rows in 1usize..40,
        max_new_tokens in 1usize..30,
    ) {
        let stop = StopRules { max_new_tokens, eos_token_ids: vec![1] };
        let settings = Settings { sampling, ..Settings::greedy(strategy, stop) };
        let requests = prompts.iter().map(|prompt| Request::new(prompt.clone(), settings.clone()));
        let mut found: Vec<Option<Generation>> = prompts.iter().map(|_| None).collect();
        let mut passes = vec![0; prompts.len()];
        let mut told = vec![vec![]; prompts.len()];
        let room = Room { slots: batch_size, capacity: settings.capacity(&model, 6), rows };
        generate_batch(&model, &mut requests.enumerate(), room, &mut |event| {
            match event {
                BatchEvent::Prefill(at, tokens) => told[at].extend_from_slice(tokens),
                BatchEvent::Pass(at, pass) => {
                    passes[at] += 1;
                    told[at].extend_from_slice(&pass.tokens);
                }
                BatchEvent::Done(at, Answer::Response(response)) => found[at] = Some(response.generation),
                _ => {}
            }
            ControlFlow::Continue(())
        });
        let ended: Vec<usize> = found.iter().flatten().map(|found| found.stats.forwards).collect();
        prop_assert_eq!(passes, ended);
        let responses: Vec<_> = found.iter().flatten().map(|found| found.tokens.clone()).collect();
        prop_assert_eq!(told, responses);
        for (prompt, found) in prompts.iter().zip(found) {
            let (found, alone) = (found.unwrap(), run(&model, prompt, &settings));
            prop_assert_eq!(found.tokens, alone.tokens);
            prop_assert_eq!(found.finish_reason, alone.finish_reason);
            prop_assert_eq!(found.stats.forwards, alone.stats.forwards);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]
    /// Ranking rejections changes no pass; each rank is that of the right token in the model's logits after the
    /// drafted text of the pass before.
    #[test]
    fn a_rejected_rank_is_what_the_pass_before_thought_of_the_right_token(
        model in (20usize..60, any::<u64>(), 1usize..3).prop_map(|(vocabulary, seed, memory)| {
            Scripted { vocabulary, context: 64, seed, memory, forced: 0 }
        }),
        strategy in strategies(),
        max_new_tokens in 2usize..40,
    ) {
        let stop = StopRules { max_new_tokens, eos_token_ids: vec![1] };
        let settings = Settings::greedy(strategy, stop);
        let plain: Vec<Pass> = Decoding::new(&model, &[0, 1], &settings).collect();
        let mut decoding = Decoding::new(&model, &[0, 1], &settings).rank_rejections();
        let passes: Vec<Pass> = decoding.by_ref().collect();
        let text = decoding.text();
        prop_assert_eq!(plain.len(), passes.len());
        prop_assert!(passes.first().is_none_or(|pass| pass.rejected_rank.is_none()), "all was filler");
        for ((earlier, pass), plain) in passes.iter().zip(passes.iter().skip(1)).zip(plain.iter().skip(1)) {
            prop_assert_eq!(pass.draft.rows(), plain.draft.rows());
            prop_assert_eq!(plain.rejected_rank, None);
            let right = &text[2 + pass.offset + 1..];
            let run = &pass.draft.rows().tokens()[1..pass.draft.run_len()];
            let wrong = run.iter().zip(right).take(pass.tokens.len()).position(|(a, b)| a != b);
            let expected = wrong.and_then(|wrong| {
                let rows = earlier.draft.continuation(*earlier.path.last().unwrap());
                let path = earlier.draft.rows().path(*rows.get(1 + wrong)?);
                let drafted = path.into_iter().map(|row| earlier.draft.rows().tokens()[row]);
                let context: Vec<u32> = text[..2 + earlier.offset].iter().copied().chain(drafted).collect();
                let logits = model.logits(&context);
                let right = right[wrong];
                // Ties go to the lower id.
                let better = |&token: &u32| {
                    let (a, b) = (logits[token as usize], logits[right as usize]);
                    a > b || (a == b && token < right)
                };
                Some((0..model.vocabulary as u32).filter(better).count().min(RANKED))
            });
            prop_assert_eq!(pass.rejected_rank, expected);
        }
    }
}

/// The passes and the statistics agree with the response.
fn check_statistics(found: &Generation, passes: &[Pass], max_rows: usize) -> Result<(), TestCaseError> {
    let stats = &found.stats;
    prop_assert_eq!(passes.len(), stats.forwards);
    let only_drafts = |pass: &&Pass| pass.draft.rows().len() == 1 && !pass.drafted.is_empty();
    // Each is the first half of a cycle, unless the response ended with it.
    let halves = passes.iter().rev().skip(1).filter(only_drafts).count();
    prop_assert_eq!(stats.cycles + halves, stats.forwards);
    prop_assert_eq!(stats.acceptance.iter().sum::<usize>(), stats.forwards);
    prop_assert_eq!(stats.widths.values().map(|width| width.forwards).sum::<usize>(), stats.forwards);
    prop_assert_eq!(stats.limited_by.values().sum::<usize>(), stats.forwards);
    prop_assert_eq!(stats.limited_by.get(&Limit::End), passes.last().map(|_| &1));
    for pass in passes.iter().filter(|pass| pass.limit == Limit::Window) {
        // The run is right to its end, unless a branch led away from it.
        let on_run = pass.path.iter().all(|&row| row < pass.draft.run_len());
        prop_assert!(!on_run || pass.path.len() == pass.draft.run_len());
    }
    let drafted: usize = passes.iter().map(|pass| pass.path.len() - 1).sum();
    prop_assert_eq!(stats.accepted_from.values().sum::<usize>(), drafted);
    let mut response = found.tokens[..1].to_vec();
    for pass in passes {
        prop_assert!(pass.draft.rows().len() <= max_rows);
        prop_assert_eq!(pass.offset, response.len() - 1);
        prop_assert_eq!(pass.draft.rows().tokens()[0], response[pass.offset]);
        response.extend(&pass.tokens);
    }
    prop_assert_eq!(&response, &found.tokens);
    Ok(())
}

#[test]
fn a_batch_can_be_broken_off() {
    let model = Scripted { vocabulary: 9, context: 64, seed: 3, memory: 1, forced: 0 };
    let stop = StopRules { max_new_tokens: 4, eos_token_ids: vec![] };
    let settings = Settings::greedy(Strategy::Autoregressive, stop);
    let room = Room { slots: 2, capacity: settings.capacity(&model, 1), rows: 8 };
    let mut requests = vec![Request::new(vec![1], settings); 6].into_iter().enumerate();
    let mut ended = 0;
    generate_batch(&model, &mut requests, room, &mut |event| {
        ended += usize::from(matches!(event, BatchEvent::Done(..)));
        if ended == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert_eq!(ended, 3);
}

#[test]
fn a_request_that_is_given_up_makes_room_and_disturbs_nobody() {
    let model = Scripted { vocabulary: 9, context: 64, seed: 3, memory: 1, forced: 0 };
    let stop = StopRules { max_new_tokens: 30, eos_token_ids: vec![] };
    let settings = Settings::greedy(Strategy::MultiBlock(MultiBlockConfig::default()), stop);
    let room = Room { slots: 2, capacity: settings.capacity(&model, 1), rows: 64 };
    let mut batch = Batch::new(&model, room);
    let mut found = vec![None; 3];
    let request = |prompt| Request::new(vec![prompt], settings.clone());
    (0..2).for_each(|key| batch.admit(key, request(key as u32)));
    let mut passes = 0;
    while !batch.is_empty() {
        let _ = batch.pass(&mut |event| {
            if let BatchEvent::Done(key, Answer::Response(response)) = event {
                found[key] = Some(response.generation.tokens);
            }
            ControlFlow::Continue(())
        });
        passes += 1;
        if passes == 2 {
            assert!(!batch.has_room());
            batch.drop_where(&|key| key == 0);
            batch.admit(2, request(2));
        }
    }
    let alone = |prompt| Some(run(&model, &[prompt], &settings).tokens);
    assert_eq!(found, [None, alone(1), alone(2)]);
}

#[test]
fn prompts_longer_than_a_pass_do_not_wait_for_each_others_responses() {
    let model = Scripted { vocabulary: 9, context: 64, seed: 3, memory: 1, forced: 0 };
    let stop = StopRules { max_new_tokens: 10, eos_token_ids: vec![] };
    let settings = Settings::greedy(Strategy::Autoregressive, stop);
    let room = Room { slots: 3, capacity: settings.capacity(&model, 20), rows: 8 };
    let mut requests = vec![Request::new(vec![1; 20], settings); 3].into_iter().enumerate();
    let mut passes = 0;
    generate_batch(&model, &mut requests, room, &mut |event| {
        passes += usize::from(matches!(event, BatchEvent::Forward(_)));
        ControlFlow::Continue(())
    });
    // Each of the first three passes has a prompt; the last of them gives a first token, which nine more tokens
    // follow.
    assert_eq!(passes, 3 + 9);
}

#[test]
fn eos_ends_the_response_at_every_offset_of_a_block() {
    // memory 0: the next token depends on the position alone, so a draft converges in one pass.
    let model = Scripted { vocabulary: 50, context: 64, seed: 3, memory: 0, forced: 0 };
    let strategies = [
        Strategy::Jacobi(JacobiConfig { block_size: 8, seed: 1 }),
        Strategy::MultiBlock(MultiBlockConfig {
            block_size: 8,
            tree_budget: 16,
            ..MultiBlockConfig::default()
        }),
    ];
    let stop = |eos| StopRules { max_new_tokens: 40, eos_token_ids: eos };
    let free = run(&model, &[1], &Settings::greedy(Strategy::Autoregressive, stop(vec![]))).tokens;
    for (strategy, stop_at) in strategies.iter().flat_map(|s| (0..20).map(move |at| (s.clone(), at))) {
        let found = run(&model, &[1], &Settings::greedy(strategy, stop(vec![free[stop_at]])));
        let first = free.iter().position(|t| *t == free[stop_at]).unwrap();
        assert_eq!(found.tokens, free[..=first]);
        assert_eq!(found.finish_reason, FinishReason::Eos);
    }
}

/// The counts of all sequences of three tokens over three ids in 6,000 seeds, against their enumerated probabilities.
/// 26 degrees of freedom: Pearson's statistic is above 54.1 once in a thousand; the seeds are fixed.
#[test]
fn sampled_text_has_the_models_distribution_under_every_decoder() {
    let model = Scripted { vocabulary: 3, context: 16, seed: 11, memory: 3, forced: 0 };
    let draws = 6000;
    let random = |seed| RandomSampling {
        temperature: 0.7,
        repetition_penalty: 1.3,
        seed,
        ..RandomSampling::default()
    };
    let mut expected = vec![(vec![2u32], 1.0f64)];
    for _ in 0..3 {
        expected = expected
            .iter()
            .flat_map(|(text, p)| {
                let next = random(0).probabilities(&model.logits(text), text);
                (0u32..).zip(next).map(move |(token, q)| ([text.as_slice(), &[token]].concat(), p * q))
            })
            .collect();
    }
    let multi_block = MultiBlockConfig { block_size: 3, tree_budget: 6, ..MultiBlockConfig::default() };
    for strategy in [
        Strategy::Autoregressive,
        Strategy::Jacobi(JacobiConfig { block_size: 3, seed: 1 }),
        Strategy::MultiBlock(multi_block),
    ] {
        let mut counts = vec![0usize; expected.len()];
        for seed in 0..draws {
            let stop = StopRules { max_new_tokens: 3, eos_token_ids: vec![] };
            let sampling = Sampling::Random(random(seed));
            let found = run(&model, &[2], &Settings { sampling, ..Settings::greedy(strategy.clone(), stop) });
            counts[expected.iter().position(|(text, _)| text[1..] == found.tokens).unwrap()] += 1;
        }
        let term = |(&count, (_, p)): (&usize, &(Vec<u32>, f64))| {
            (count as f64 - p * draws as f64).powi(2) / (p * draws as f64)
        };
        let statistic: f64 = counts.iter().zip(&expected).map(term).sum();
        assert!(statistic < 54.1, "{strategy:?}: {statistic}");
    }
}

/// Tokens per forward of a strategy over a few prompts.
fn tpf(model: &Scripted, strategy: Strategy) -> f64 {
    let stop = StopRules { max_new_tokens: 200, eos_token_ids: vec![] };
    let settings = Settings::greedy(strategy, stop);
    let runs: Vec<DecodeStats> = (0..20).map(|prompt| run(model, &[prompt], &settings).stats).collect();
    let total: DecodeStats = runs.iter().sum();
    // The sums agree with each other.
    assert_eq!(total.acceptance.iter().sum::<usize>(), total.forwards);
    assert_eq!(total.widths.values().map(|width| width.forwards).sum::<usize>(), total.forwards);
    let committed: usize = total.acceptance.iter().zip(0..).map(|(passes, tokens)| passes * tokens).sum();
    assert_eq!(total.accepted_from.values().sum::<usize>(), committed - total.forwards);
    total.tpf().unwrap()
}

/// Each setting has its effect.
#[test]
fn every_setting_changes_the_passes() {
    // The right token is often among the most probable ones of a slightly wrong context.
    let model = Scripted { vocabulary: 4, context: 300, seed: 5, memory: 2, forced: 0 };
    let plain = MultiBlockConfig {
        block_size: 8,
        growth: Growth::Blocks { max_blocks: 1, spawn_ratio: 0.5 },
        pool_size: 0,
        ..MultiBlockConfig::default()
    };
    let base = tpf(&model, Strategy::MultiBlock(plain.clone()));
    assert_eq!(base, tpf(&model, Strategy::Jacobi(JacobiConfig { block_size: 8, seed: 0 })));
    let more = [
        MultiBlockConfig { growth: Growth::Blocks { max_blocks: 2, spawn_ratio: 0.5 }, ..plain.clone() },
        MultiBlockConfig { growth: Growth::Sliding, ..plain.clone() },
        MultiBlockConfig { pool_size: 4, ..plain.clone() },
        MultiBlockConfig { tree_budget: 32, ..plain.clone() },
    ];
    for config in more {
        let found = tpf(&model, Strategy::MultiBlock(config.clone()));
        assert!(found > base, "{config:?}: {found}, not more than {base}");
    }
    let others = [
        MultiBlockConfig { block_size: 4, ..plain.clone() },
        MultiBlockConfig { seed: 1, ..plain.clone() },
        MultiBlockConfig { filler: Filler::Ngram, ..plain },
    ];
    for config in others {
        assert_ne!(tpf(&model, Strategy::MultiBlock(config.clone())), base, "{config:?}");
    }
}
