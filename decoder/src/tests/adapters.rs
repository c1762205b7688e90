//! Laws of decoding with a draft adapter, on a scripted model: the text is the base model's, whatever the adapter predicts;
//! an adapter that changes nothing decodes as no adapter does; and one that is right saves passes.

use super::*;
use crate::{Passes, Response, scripted::Adapted};

/// An adapter for `base`, by its seed: it changes nothing (0), agrees with the base in some positions, or is another model.
pub(super) fn logits_of(base: Scripted, seed: u64) -> impl Fn(&[u32]) -> Vec<f32> {
    let other = Scripted { seed, ..base };
    move |text| {
        if seed == 0 || (seed ^ text.len() as u64).is_multiple_of(3) {
            base.logits(text)
        } else {
            other.logits(text)
        }
    }
}

/// The text, and what the passes accepted.
fn passes_of(found: &Generation) -> (&[u32], usize, usize, &[usize]) {
    (&found.tokens, found.stats.forwards, found.stats.cycles, &found.stats.acceptance)
}

fn with_passes() -> impl Arbitrary<Value = Strategy> {
    let passes = prop_oneof![Just(Passes::One), Just(Passes::Two)];
    let fillers = prop_oneof![Just(None), Just(Some(Filler::Vocabulary))];
    (strategies(), passes, fillers).prop_map(|(strategy, passes, filler)| match strategy {
        Strategy::MultiBlock(config) => {
            let filler = filler.unwrap_or(config.filler);
            Strategy::MultiBlock(MultiBlockConfig { passes, filler, ..config })
        }
        other => other,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]
    /// The lossless law, over random models, adapters, prompts and settings.
    #[test]
    fn every_decoder_with_an_adapter_gives_the_text_of_the_base(
        base in models(),
        adapter in any::<u64>(),
        strategy in with_passes(),
        sampling in samplings(),
        prompts in prop::collection::vec(prop::collection::vec(0u32..2, 1..6), 1..4),
        max_new_tokens in prop_oneof![Just(1usize), 2usize..50],
        eos_token_ids in prop::collection::vec(0u32..12, 0..2),
        gap in prop_oneof![2 => Just(None), 1 => (0.0f32..2.0).prop_map(Some)],
    ) {
        let stop = StopRules { max_new_tokens, eos_token_ids };
        let settings = |strategy| Settings { sampling: sampling.clone(), ..Settings::greedy(strategy, stop.clone()) };
        let logits = logits_of(base, adapter);
        let model = Adapted { base, adapter: &logits };
        let strict = Settings { strict_gap: gap, ..settings(strategy.clone()) };
        let mut alone = Vec::new();
        for prompt in &prompts {
            let expected = run(&base, prompt, &settings(Strategy::Autoregressive));
            let mut passes = Vec::new();
            let found = generate(&model, prompt, &settings(strategy.clone()), &mut |pass| passes.push(pass.clone()));
            prop_assert_eq!(&found.tokens, &expected.tokens);
            prop_assert_eq!(found.finish_reason, expected.finish_reason);
            prop_assert!(found.stats.forwards <= expected.stats.forwards);
            check_statistics(&found, &passes, strategy.max_rows())?;
            prop_assert_eq!(generate(&model, prompt, &strict, &mut |_| {}).tokens, expected.tokens);
            alone.push(found);
        }
        // In a batch, where the rows of the adapter lie behind those of all requests.
        let room = Room { slots: 2, capacity: strict.capacity(&model, 6), rows: 20 };
        let requests = prompts.iter().map(|prompt| Request::new(prompt.clone(), settings(strategy.clone())));
        let mut answers = 0;
        generate_batch(&model, &mut requests.enumerate(), room, &mut |event| {
            if let BatchEvent::Done(at, Answer::Response(Response { generation: found, .. })) = event {
                answers += usize::from(passes_of(&found) == passes_of(&alone[at]));
            }
            ControlFlow::Continue(())
        });
        prop_assert_eq!(answers, prompts.len());
    }

    /// Pass by pass: the adapter's rows predict what the model's own rows over the same tokens predict. (After an accepted
    /// branch the model's next draft comes from the branch, so there are none here.)
    #[test]
    fn an_adapter_that_changes_nothing_decodes_as_jacobi_decoding(
        base in models(),
        config in multi_block(),
        sampling in samplings(),
        gap in prop_oneof![2 => Just(None), 1 => (0.0f32..2.0).prop_map(Some)],
        max_new_tokens in 2usize..50,
    ) {
        let config = MultiBlockConfig { pool_size: 0, tree_budget: 0, ..config };
        let stop = StopRules { max_new_tokens, eos_token_ids: vec![1] };
        let greedy = Settings::greedy(Strategy::MultiBlock(config), stop);
        let settings = Settings { sampling, strict_gap: gap, ..greedy };
        let logits = logits_of(base, 0);
        let model = Adapted { base, adapter: &logits };
        let expected: Vec<Pass> = Decoding::new(&base, &[0, 1], &settings).collect();
        let found: Vec<Pass> = Decoding::new(&model, &[0, 1], &settings).collect();
        prop_assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(&expected) {
            prop_assert_eq!(found.draft.rows(), expected.draft.rows());
            prop_assert_eq!((&found.path, &found.tokens), (&expected.path, &expected.tokens));
            prop_assert_eq!(found.next_draft(), expected.next_draft());
            let chosen = &expected.chosen[1..found.drafted.len() + 1];
            prop_assert!(chosen.iter().zip(&found.drafted).all(|(chosen, drafted)| chosen.is_none_or(|chosen| chosen == *drafted)));
        }
    }
}

/// The accepted tokens of every pass, where the adapter is always right about a text that has no pattern.
fn accepted(config: MultiBlockConfig) -> (Vec<usize>, Vec<Pass>) {
    let base = Scripted { vocabulary: 50, context: 300, seed: 9, memory: 3, forced: 0 };
    let stop = StopRules { max_new_tokens: 100, eos_token_ids: vec![] };
    let text = {
        let response = run(&base, &[1], &Settings::greedy(Strategy::Autoregressive, stop.clone())).tokens;
        [&[1], &response[..]].concat()
    };
    let oracle = |before: &[u32]| {
        let right = text.get(before.len()).copied();
        (0..50).map(|token| if Some(token) == right { 5.0 } else { 0.0 }).collect()
    };
    let model = Adapted { base, adapter: &oracle };
    let settings = Settings::greedy(Strategy::MultiBlock(config), stop);
    let passes: Vec<Pass> = Decoding::new(&model, &[1], &settings).collect();
    (passes.iter().map(|pass| pass.tokens.len()).collect(), passes)
}

#[test]
fn a_cycle_that_ends_with_its_drafting_pass_counts() {
    let base = Scripted { vocabulary: 50, context: 300, seed: 9, memory: 3, forced: 0 };
    let logits = logits_of(base, 1);
    let model = Adapted { base, adapter: &logits };
    let strategy = Strategy::MultiBlock(MultiBlockConfig::two_passes());
    let text = run(
        &base,
        &[1],
        &Settings::greedy(strategy.clone(), StopRules { max_new_tokens: 9, eos_token_ids: vec![] }),
    )
    .tokens;
    // The prefill gives the first token, the drafting pass the second.
    for stop in [
        StopRules { max_new_tokens: 2, eos_token_ids: vec![] },
        StopRules { max_new_tokens: 9, eos_token_ids: vec![text[1]] },
    ] {
        let stats = generate(&model, &[1], &Settings::greedy(strategy.clone(), stop), &mut |_| {}).stats;
        assert_eq!((stats.forwards, stats.cycles), (1, 1));
    }
}

#[test]
fn under_an_infinite_strict_gap_every_token_comes_from_a_pass_over_one_row() {
    let base = Scripted { vocabulary: 50, context: 300, seed: 9, memory: 3, forced: 0 };
    let logits = logits_of(base, 1);
    let model = Adapted { base, adapter: &logits };
    for passes in [Passes::One, Passes::Two] {
        let config = MultiBlockConfig { passes, ..MultiBlockConfig::two_passes() };
        let stop = StopRules { max_new_tokens: 20, eos_token_ids: vec![] };
        let greedy = Settings::greedy(Strategy::MultiBlock(config), stop);
        let strict = Settings { strict_gap: Some(f32::INFINITY), ..greedy };
        for pass in Decoding::new(&model, &[1], &strict) {
            assert_eq!(pass.tokens.is_empty(), pass.draft.width() > 1, "{passes:?}");
        }
    }
}

/// Rows of the base and of the adapter.
fn widths(pass: &Pass) -> (usize, usize) {
    (pass.draft.rows().len(), pass.draft.adapted().unwrap().len())
}

#[test]
fn right_drafts_are_accepted_in_one_pass_or_two() {
    let sliding = MultiBlockConfig {
        block_size: 8,
        growth: Growth::Sliding,
        filler: Filler::Vocabulary,
        pool_size: 0,
        ..MultiBlockConfig::default()
    };
    // A draft of filler, then one of the adapter, which is right to its end; nothing is drafted behind that.
    let (one, passes) = accepted(sliding.clone());
    assert_eq!(one[..6], [1, 8, 1, 8, 1, 8]);
    assert!(passes[..6].iter().all(|pass| widths(pass) == (8, 7)));
    let limits: Vec<Limit> = passes[..4].iter().map(|pass| pass.limit).collect();
    assert_eq!(limits, [Limit::Filler, Limit::Window, Limit::Filler, Limit::Window]);
    assert_eq!(passes.last().unwrap().limit, Limit::End);
    // UNO's cycle: the known-right token, then all that was drafted behind it.
    let two = MultiBlockConfig { passes: Passes::Two, ..sliding.clone() };
    let (two, passes) = accepted(two);
    assert_eq!(two[..6], [1, 8, 1, 8, 1, 8]);
    assert_eq!(
        [0, 1, 2, 3].map(|pass| passes[pass].limit),
        [Limit::Drafting, Limit::Window, Limit::Drafting, Limit::Window]
    );
    assert_eq!(passes[..4].iter().map(widths).collect::<Vec<_>>(), [(1, 7), (8, 0), (1, 7), (8, 0)]);
    // A second block is drafted ahead.
    let growth = Growth::Blocks { max_blocks: 2, spawn_ratio: 0.0 };
    let (blocks, _) = accepted(MultiBlockConfig { growth, ..sliding });
    assert!(blocks.len() < one.len(), "{blocks:?}");
}

/// The right token is never the adapter's first choice and always its second: a tree finds it.
#[test]
fn a_tree_grows_from_the_best_tokens_of_the_adapter() {
    let base = Scripted { vocabulary: 20, context: 100, seed: 4, memory: 2, forced: 0 };
    let stop = StopRules { max_new_tokens: 60, eos_token_ids: vec![] };
    let response = run(&base, &[1], &Settings::greedy(Strategy::Autoregressive, stop.clone())).tokens;
    let text = [&[1], &response[..]].concat();
    let second = |before: &[u32]| {
        let right = text.get(before.len()).copied().unwrap_or(0);
        (0..20)
            .map(|token| match token {
                _ if token == right => 4.0,
                _ if token == (right + 1) % 20 => 5.0,
                _ => 0.0,
            })
            .collect()
    };
    let model = Adapted { base, adapter: &second };
    // Passes that accept a whole window.
    let passes = |tree_budget, passes| {
        let growth = Growth::Sliding;
        let config = MultiBlockConfig {
            block_size: 4,
            growth,
            pool_size: 0,
            tree_budget,
            passes,
            ..Default::default()
        };
        let settings = Settings::greedy(Strategy::MultiBlock(config), stop.clone());
        Decoding::new(&model, &[1], &settings).filter(|pass| pass.path.len() == 4).count()
    };
    for cycle in [Passes::One, Passes::Two] {
        assert_eq!(passes(0, cycle), 0);
        assert!(passes(40, cycle) > 8, "{}", passes(40, cycle));
    }
}
