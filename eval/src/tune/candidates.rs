//! The decoders that are tried: the autoregressive baseline, the defaults, and a sample of all combinations of
//! settings whose widest pass can gain time.

use jacobi_datasets::Rng;
use jacobi_datasets::schema::tuned::Latency;
use jacobi_decoder::{Filler, Growth, JacobiConfig, MultiBlockConfig, Passes, Settings, StopRules, Strategy};

const BLOCK_SIZES: [usize; 5] = [4, 8, 16, 32, 64];
const POOL_SIZES: [usize; 4] = [0, 2, 4, 8];
const TREE_BUDGETS: [usize; 5] = [0, 8, 16, 32, 64];
/// Also tried where passes of [`WIDE_KNEE`] rows cost little more than one row, as on a GPU.
const WIDE: usize = 128;
const WIDE_KNEE: usize = 512;
/// With one block at a time `spawn_ratio` has no effect.
const GROWTHS: [Growth; 6] = [
    Growth::Blocks { max_blocks: 1, spawn_ratio: 0.85 },
    Growth::Blocks { max_blocks: 2, spawn_ratio: 0.5 },
    Growth::Blocks { max_blocks: 2, spawn_ratio: 0.85 },
    Growth::Blocks { max_blocks: 3, spawn_ratio: 0.5 },
    Growth::Blocks { max_blocks: 3, spawn_ratio: 0.85 },
    Growth::Sliding,
];

/// Entrants that stay in a race to its end: the autoregressive baseline and `jacobi`.
pub(crate) const SEEDED: usize = 2;

/// All entrants of a race: those that stay, then those to try, the narrowest first and random combinations last, so that
/// a shorter list has the most likely ones.
pub(crate) fn field(
    latency: &Latency,
    count: usize,
    seed: u64,
    stop: &StopRules,
    has_adapter: bool,
) -> Vec<Settings> {
    let mut field = defaults(seed, stop);
    let challengers = challengers(latency, &field, count, seed, stop, has_adapter);
    let narrow = without_branches(latency, seed, has_adapter);
    let (narrow, others): (Vec<Settings>, Vec<Settings>) =
        challengers.into_iter().partition(|entrant| narrow.contains(&entrant.strategy));
    let wide_defaults = field.split_off(SEEDED);
    field.extend(narrow.into_iter().chain(wide_defaults).chain(others));
    field
}

/// The decoders that are always candidates, the autoregressive baseline first.
pub(crate) fn defaults(seed: u64, stop: &StopRules) -> Vec<Settings> {
    let multi_block = MultiBlockConfig { seed, ..MultiBlockConfig::default() };
    let jacobi = JacobiConfig { block_size: multi_block.block_size, seed };
    let strategies = [
        Strategy::Autoregressive,
        Strategy::Jacobi(jacobi),
        Strategy::MultiBlock(multi_block.clone()),
        Strategy::MultiBlock(MultiBlockConfig { tree_budget: 32, ..multi_block }),
    ];
    strategies.map(|strategy| Settings::greedy(strategy, stop.clone())).into()
}

/// Up to `count` further decoders, a function of the arguments: every block size without branches, as `jacobi`
/// and as a sliding window (with an adapter, for both values of `passes`), then `multi_block` with settings in
/// random order. Those whose widest pass costs more than the most tokens that it could accept are left out.
pub(crate) fn challengers(
    latency: &Latency,
    defaults: &[Settings],
    count: usize,
    seed: u64,
    stop: &StopRules,
    has_adapter: bool,
) -> Vec<Settings> {
    let mut windows = windows(latency, seed, has_adapter);
    Rng::new(&[seed, count as u64]).shuffle(&mut windows);
    let mut found: Vec<Settings> = Vec::new();
    for strategy in without_branches(latency, seed, has_adapter).into_iter().chain(windows) {
        if found.len() == count {
            break;
        }
        let is_known = defaults.iter().chain(&found).any(|other| other.strategy == strategy);
        if !is_known && can_pay(latency, &strategy, has_adapter) {
            found.push(Settings::greedy(strategy, stop.clone()));
        }
    }
    found
}

/// The sizes to try on a machine with this latency.
fn with_wide(sizes: &[usize], latency: &Latency) -> Vec<usize> {
    let wide = (latency.knee >= WIDE_KNEE).then_some(WIDE);
    sizes.iter().copied().chain(wide).collect()
}

/// The ways to use an adapter; one, which has no effect, without an adapter.
fn passes(has_adapter: bool) -> &'static [Passes] {
    if has_adapter { &[Passes::One, Passes::Two] } else { &[Passes::One] }
}

/// The fillers to try; adapters may have been trained on tokens of the whole vocabulary.
fn fillers(has_adapter: bool) -> &'static [Filler] {
    let all: &'static [Filler] = &[Filler::Random, Filler::Ngram, Filler::Vocabulary];
    if has_adapter { all } else { &all[..2] }
}

/// The narrowest windows: one block, no branches; sliding ones with every filler but random tokens of the text.
fn without_branches(latency: &Latency, seed: u64, has_adapter: bool) -> Vec<Strategy> {
    let mut found = Vec::new();
    for block_size in with_wide(&BLOCK_SIZES, latency) {
        found.push(Strategy::Jacobi(JacobiConfig { block_size, seed }));
        for &passes in passes(has_adapter) {
            found.extend(fillers(has_adapter)[1..].iter().map(|&filler| {
                Strategy::MultiBlock(MultiBlockConfig {
                    block_size,
                    growth: Growth::Sliding,
                    filler,
                    pool_size: 0,
                    passes,
                    seed,
                    ..MultiBlockConfig::default()
                })
            }));
        }
    }
    found
}

/// Every combination of the settings of `multi_block`.
fn windows(latency: &Latency, seed: u64, has_adapter: bool) -> Vec<Strategy> {
    let (passes, fillers) = (passes(has_adapter), fillers(has_adapter));
    let mut windows = vec![MultiBlockConfig { seed, ..MultiBlockConfig::default() }];
    let mut vary = |values: &dyn Fn(&MultiBlockConfig) -> Vec<MultiBlockConfig>| {
        windows = windows.iter().flat_map(values).collect();
    };
    vary(&|base| passes.iter().map(|&passes| MultiBlockConfig { passes, ..base.clone() }).collect());
    vary(&|base| GROWTHS.map(|growth| MultiBlockConfig { growth, ..base.clone() }).to_vec());
    let (sizes, budgets) = (with_wide(&BLOCK_SIZES, latency), with_wide(&TREE_BUDGETS, latency));
    vary(&|base| sizes.iter().map(|&block_size| MultiBlockConfig { block_size, ..base.clone() }).collect());
    vary(&|base| fillers.iter().map(|&filler| MultiBlockConfig { filler, ..base.clone() }).collect());
    vary(&|base| POOL_SIZES.map(|pool_size| MultiBlockConfig { pool_size, ..base.clone() }).to_vec());
    vary(&|base| {
        budgets.iter().map(|&tree_budget| MultiBlockConfig { tree_budget, ..base.clone() }).collect()
    });
    windows.into_iter().map(Strategy::MultiBlock).collect()
}

/// Whether the widest pass, or a cycle of two, costs at most one autoregressive pass for every token that it could accept.
fn can_pay(latency: &Latency, strategy: &Strategy, has_adapter: bool) -> bool {
    let window = match strategy {
        Strategy::Autoregressive => 1,
        Strategy::Jacobi(config) => config.block_size,
        Strategy::MultiBlock(config) => match config.growth {
            Growth::Blocks { max_blocks, .. } => max_blocks * config.block_size,
            Growth::Sliding => config.block_size,
        },
    };
    let is_two =
        matches!(strategy, Strategy::MultiBlock(MultiBlockConfig { passes: Passes::Two, .. }) if has_adapter);
    let cost = |rows: usize| latency.cost(rows).unwrap_or(1.0);
    let rows = strategy.max_rows();
    match (has_adapter, is_two) {
        (false, _) => cost(rows) <= window as f64,
        (true, false) => cost(rows + window - 1) <= window as f64,
        (true, true) => cost(rows) + cost(window) <= (window + 1) as f64,
    }
}

#[cfg(test)]
mod tests;
