//! Laws of the draft window, on a scripted model: which blocks are in flight, and that more drafts save passes.

use super::*;

/// The expected draft window: the positions in the response where the blocks in flight end, oldest first.
struct Expected {
    ends: Vec<usize>,
    /// Tokens of the newest block that the last pass accepted or left unchanged.
    stable: usize,
}

impl Expected {
    /// Starts a block if it is time.
    fn grow(&mut self, known: usize, config: &MultiBlockConfig) {
        let Growth::Blocks { max_blocks, spawn_ratio } = config.growth else { unreachable!("blocks") };
        let enough = (spawn_ratio * config.block_size as f64).ceil() as usize;
        match self.ends.last() {
            None => self.ends.push(known + config.block_size),
            Some(end) if self.ends.len() < max_blocks && self.stable >= enough => {
                self.ends.push(end + config.block_size);
            }
            _ => {}
        }
    }

    /// Updates from a pass and the draft of the next one.
    fn learn(&mut self, pass: &Pass, next: &Pass, block_size: usize) {
        let token = |pass: &Pass, place: usize| {
            pass.draft.rows().tokens()[..pass.draft.run_len()].get(place - pass.offset).copied()
        };
        let end = self.ends[self.ends.len() - 1];
        let kept = |&place: &usize| {
            let stays = || token(pass, place).is_some() && token(pass, place) == token(next, place);
            place <= next.offset || stays()
        };
        self.stable = (end - block_size..end).filter(kept).count();
        self.ends.retain(|end| *end > next.offset);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]
    /// The window is whole blocks, cut where the response must end; the next block starts as soon as the newest
    /// has settled, and no sooner, whatever branches there are.
    #[test]
    fn the_window_holds_whole_blocks_and_starts_the_next_when_the_newest_has_settled(
        model in models(),
        config in multi_block().prop_filter("blocks", |config| config.growth != Growth::Sliding),
        max_new_tokens in 2usize..60,
    ) {
        let stop = StopRules { max_new_tokens, eos_token_ids: vec![] };
        let settings = Settings::greedy(Strategy::MultiBlock(config.clone()), stop);
        let prompt = [0, 1];
        let passes: Vec<Pass> = Decoding::new(&model, &prompt, &settings).collect();
        let limit = max_new_tokens.min(model.context - prompt.len());
        let mut expected = Expected { ends: vec![], stable: 0 };
        for (at, pass) in passes.iter().enumerate() {
            expected.grow(pass.offset, &config);
            let newest = expected.ends[expected.ends.len() - 1];
            prop_assert_eq!(pass.draft.run_len(), newest.min(limit) - pass.offset, "pass {}", at);
            let own = (0..pass.draft.run_len()).filter(|&row| pass.draft.source(row) == Source::Own).count();
            prop_assert_eq!(own, expected.ends[0].min(limit) - pass.offset);
            if let Some(next) = passes.get(at + 1) {
                expected.learn(pass, next, config.block_size);
            }
        }
    }
}

/// A sliding window holds one block size in every pass.
#[test]
fn a_sliding_window_keeps_its_length() {
    let model = Scripted { vocabulary: 9, context: 64, seed: 3, memory: 1, forced: 7 };
    for (pool_size, tree_budget) in [(0, 0), (4, 0), (4, 32)] {
        let config = MultiBlockConfig {
            block_size: 8,
            growth: Growth::Sliding,
            pool_size,
            tree_budget,
            ..MultiBlockConfig::default()
        };
        let stop = StopRules { max_new_tokens: 40, eos_token_ids: vec![] };
        for pass in Decoding::new(&model, &[1], &Settings::greedy(Strategy::MultiBlock(config), stop)) {
            assert_eq!(pass.draft.run_len(), 8.min(40 - pass.offset), "{pass:?}");
        }
    }
}

/// From models that gain little from drafts to models like those after Jacobi forcing.
fn some_models() -> impl Iterator<Item = Scripted> {
    let kinds = [(4, 1, 0), (8, 1, 0), (9, 2, 5), (30, 2, 7), (30, 2, 9)];
    kinds.into_iter().flat_map(|(vocabulary, memory, forced)| {
        (0..6).map(move |seed| Scripted { vocabulary, context: 300, seed, memory, forced })
    })
}

/// Passes over a few prompts of every model.
fn passes(config: &MultiBlockConfig) -> usize {
    let stop = StopRules { max_new_tokens: 200, eos_token_ids: vec![] };
    let settings = Settings::greedy(Strategy::MultiBlock(config.clone()), stop);
    let of = |model: &Scripted| -> usize {
        (0..4).map(|prompt| run(model, &[prompt % 4], &settings).stats.forwards).sum()
    };
    some_models().map(|model| of(&model)).sum()
}

/// Raising one setting saves passes over all models together, or costs at most one percent: a single response
/// can need more passes.
#[test]
fn more_drafts_save_passes() {
    let passes = |max_blocks, pool_size, tree_budget| {
        passes(&MultiBlockConfig {
            block_size: 8,
            growth: Growth::Blocks { max_blocks, spawn_ratio: 0.75 },
            pool_size,
            tree_budget,
            ..MultiBlockConfig::default()
        })
    };
    let no_more = |more: usize, less: usize| more * 100 <= less * 101;
    for tree_budget in [0, 16] {
        let of_pools = [0, 1, 4].map(|pool| [1, 2, 3].map(|blocks| passes(blocks, pool, tree_budget)));
        for [one, two, three] in of_pools {
            assert!(two * 10 <= one * 9 && no_more(three, two), "K = 1, 2, 3: {one}, {two}, {three}");
        }
        for blocks in 0..3 {
            let [none, one, four] = of_pools.map(|of_blocks| of_blocks[blocks]);
            assert!(no_more(one, none) && no_more(four, one), "pool 0, 1, 4: {none}, {one}, {four}");
        }
    }
    for (blocks, pool) in [(1, 0), (1, 4), (2, 0), (2, 4)] {
        let [none, some, many] = [0, 16, 64].map(|tree| passes(blocks, pool, tree));
        assert!(no_more(some, none) && no_more(many, some), "tree 0, 16, 64: {none}, {some}, {many}");
    }
}
