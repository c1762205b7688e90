//! The decoders that are tried: the autoregressive baseline, the defaults, and a sample of all combinations of
//! settings whose widest pass can gain time.

use jacobi_datasets::Rng;
use jacobi_datasets::schema::tuned::Latency;
use jacobi_decoder::{Filler, Growth, JacobiConfig, MultiBlockConfig, Settings, StopRules, Strategy};

const BLOCK_SIZES: [usize; 5] = [4, 8, 16, 32, 64];
const POOL_SIZES: [usize; 4] = [0, 2, 4, 8];
const TREE_BUDGETS: [usize; 5] = [0, 8, 16, 32, 64];
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
pub(crate) fn field(latency: &Latency, count: usize, seed: u64, stop: &StopRules) -> Vec<Settings> {
    let mut field = defaults(seed, stop);
    let challengers = challengers(latency, &field, count, seed, stop);
    let narrow = without_branches(seed);
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
/// and as a sliding window, then `multi_block` with settings in random order. Those whose widest pass costs
/// more than the most tokens that it could accept are left out.
pub(crate) fn challengers(
    latency: &Latency,
    defaults: &[Settings],
    count: usize,
    seed: u64,
    stop: &StopRules,
) -> Vec<Settings> {
    let mut windows = windows(seed);
    Rng::new(&[seed, count as u64]).shuffle(&mut windows);
    let mut found: Vec<Settings> = Vec::new();
    for strategy in without_branches(seed).into_iter().chain(windows) {
        if found.len() == count {
            break;
        }
        let is_known = defaults.iter().chain(&found).any(|other| other.strategy == strategy);
        if !is_known && can_pay(latency, &strategy) {
            found.push(Settings::greedy(strategy, stop.clone()));
        }
    }
    found
}

/// The narrowest windows: one block, no branches.
fn without_branches(seed: u64) -> Vec<Strategy> {
    let of_size = |block_size| {
        let sliding = MultiBlockConfig {
            block_size,
            growth: Growth::Sliding,
            filler: Filler::Ngram,
            pool_size: 0,
            seed,
            ..MultiBlockConfig::default()
        };
        [Strategy::Jacobi(JacobiConfig { block_size, seed }), Strategy::MultiBlock(sliding)]
    };
    BLOCK_SIZES.into_iter().flat_map(of_size).collect()
}

/// Every combination of the settings of `multi_block`.
fn windows(seed: u64) -> Vec<Strategy> {
    let mut windows = Vec::new();
    for growth in GROWTHS {
        for block_size in BLOCK_SIZES {
            for filler in [Filler::Random, Filler::Ngram] {
                for pool_size in POOL_SIZES {
                    windows.extend(TREE_BUDGETS.map(|tree_budget| {
                        let config = MultiBlockConfig {
                            block_size,
                            growth,
                            filler,
                            pool_size,
                            tree_budget,
                            seed,
                            ..MultiBlockConfig::default()
                        };
                        Strategy::MultiBlock(config)
                    }));
                }
            }
        }
    }
    windows
}

/// Whether the widest pass costs at most one autoregressive pass for every token that it could accept.
fn can_pay(latency: &Latency, strategy: &Strategy) -> bool {
    let most_accepted = match strategy {
        Strategy::Autoregressive => 1,
        Strategy::Jacobi(config) => config.block_size,
        Strategy::MultiBlock(config) => match config.growth {
            Growth::Blocks { max_blocks, .. } => max_blocks * config.block_size,
            Growth::Sliding => config.block_size,
        },
    };
    latency.cost(strategy.max_rows()).unwrap_or(1.0) <= most_accepted as f64
}

#[cfg(test)]
mod tests;
