//! What is tried: the autoregressive baseline, the decoders as they are by default, and a sample of every combination
//! of settings whose widest pass can pay for itself.

use jacobi_datasets::Rng;
use jacobi_datasets::schema::tuned::Latency;
use jacobi_decoder::{Growth, StopRules, Strategy};

use super::latency::cost;
use crate::config::Contender;
use crate::{DecoderConfig, DecoderName, EvalError, FillerName, WindowName};

const BLOCK_SIZES: [usize; 5] = [4, 8, 16, 32, 64];
const POOL_SIZES: [usize; 4] = [0, 2, 4, 8];
const TREE_BUDGETS: [usize; 5] = [0, 8, 16, 32, 64];
/// K and r; for one block at a time r decides nothing.
const BLOCKS: [(usize, f64); 5] = [(1, 0.85), (2, 0.5), (2, 0.85), (3, 0.5), (3, 0.85)];

/// The settings that are always tried, the autoregressive baseline first.
pub(crate) fn defaults(seed: u64, stop: &StopRules) -> Result<Vec<Contender>, EvalError> {
    let named = |name| DecoderConfig { name, ..DecoderConfig::default() };
    let tree = DecoderConfig { tree_budget: Some(32), ..named(DecoderName::MultiBlock) };
    let decoders = [named(DecoderName::Ar), named(DecoderName::Jacobi), named(DecoderName::MultiBlock), tree];
    decoders.iter().map(|decoder| Contender::new(decoder, seed, stop)).collect()
}

/// Up to `count` further ones, the same for the same arguments: every block size without branches, as `jacobi` and as a
/// sliding window, then `multi_block` with settings drawn at random. Those whose widest pass costs more than the most
/// tokens it could accept are left out.
pub(crate) fn challengers(
    latency: &Latency,
    defaults: &[Contender],
    count: usize,
    seed: u64,
    stop: &StopRules,
) -> Result<Vec<Contender>, EvalError> {
    let mut drawn = windows();
    Rng::new(&[seed, count as u64]).shuffle(&mut drawn);
    let mut found = Vec::new();
    for decoder in plain().into_iter().chain(drawn) {
        let contender = Contender::new(&decoder, seed, stop)?;
        let known = defaults.iter().chain(&found).any(|other| other.settings == contender.settings);
        if !known && can_pay(latency, &contender.settings.strategy) && found.len() < count {
            found.push(contender);
        }
    }
    Ok(found)
}

/// The narrowest windows: no branches, one block.
fn plain() -> Vec<DecoderConfig> {
    let jacobi = DecoderConfig { name: DecoderName::Jacobi, ..DecoderConfig::default() };
    let sliding = DecoderConfig {
        name: DecoderName::MultiBlock,
        window: Some(WindowName::Sliding),
        filler: Some(FillerName::Ngram),
        pool_size: Some(0),
        tree_budget: Some(0),
        ..DecoderConfig::default()
    };
    let sized =
        |block_size| [&jacobi, &sliding].map(|d| DecoderConfig { block_size: Some(block_size), ..d.clone() });
    BLOCK_SIZES.into_iter().flat_map(sized).collect()
}

/// Every combination of `multi_block`'s settings.
fn windows() -> Vec<DecoderConfig> {
    let sliding = DecoderConfig { window: Some(WindowName::Sliding), ..DecoderConfig::default() };
    let blocks = BLOCKS.map(|(max_blocks, spawn_ratio)| DecoderConfig {
        max_blocks: Some(max_blocks),
        spawn_ratio: Some(spawn_ratio),
        ..DecoderConfig::default()
    });
    let mut windows = Vec::new();
    for growth in blocks.into_iter().chain([sliding]) {
        for block_size in BLOCK_SIZES {
            for filler in [FillerName::Random, FillerName::Ngram] {
                for pool_size in POOL_SIZES {
                    windows.extend(TREE_BUDGETS.map(|tree_budget| DecoderConfig {
                        name: DecoderName::MultiBlock,
                        block_size: Some(block_size),
                        filler: Some(filler),
                        pool_size: Some(pool_size),
                        tree_budget: Some(tree_budget),
                        ..growth.clone()
                    }));
                }
            }
        }
    }
    windows
}

/// Whether the widest pass costs no more than autoregressive passes for every token it could accept.
fn can_pay(latency: &Latency, strategy: &Strategy) -> bool {
    let most_accepted = match strategy {
        Strategy::Autoregressive => 1,
        Strategy::Jacobi(config) => config.block_size,
        Strategy::MultiBlock(config) => match config.growth {
            Growth::Blocks { max_blocks, .. } => max_blocks * config.block_size,
            Growth::Sliding => config.block_size,
        },
    };
    cost(latency, strategy.max_rows()) <= most_accepted as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use jacobi_datasets::schema::tuned::WidthLatency;
    use serde_json::Value;

    /// Flat to `knee` rows, then in proportion.
    fn machine(knee: usize) -> Latency {
        let width = |rows: usize| WidthLatency { rows, seconds: (rows as f64 / knee as f64).max(1.0) };
        Latency { cached: 9, knee, widths: (0..10).map(|power| width(1 << power)).collect() }
    }

    fn stop() -> StopRules {
        StopRules { max_new_tokens: 9, eos_token_ids: vec![2] }
    }

    fn labels(knee: usize, count: usize, seed: u64) -> Vec<String> {
        let found =
            challengers(&machine(knee), &defaults(seed, &stop()).unwrap(), count, seed, &stop()).unwrap();
        let label = |c: &Contender| format!("{} {}", c.name.as_str(), Value::Object(c.shown.clone()));
        found.iter().map(label).collect()
    }

    #[test]
    fn the_sample_is_fixed_by_its_seed_and_holds_nothing_twice() {
        let some = labels(256, 32, 7);
        assert_eq!((some.len(), &some), (32, &labels(256, 32, 7)));
        assert_ne!(some, labels(256, 32, 8));
        let narrow = |name| some[..9].iter().filter(|label| label.starts_with(name)).count();
        assert_eq!((narrow("jacobi"), narrow("multi_block")), (4, 5), "jacobi with 16 is a default");
        let mut all = labels(256, usize::MAX, 7);
        // Six windows, five sizes, two fillers, four pools, five trees, less the two defaults; and four of jacobi.
        assert_eq!(all.len(), 1200 - 2 + 4);
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 1202);
        assert!(labels(256, 0, 7).is_empty());
    }

    #[test]
    fn what_cannot_pay_for_its_widest_pass_is_left_out() {
        let wide =
            |labels: Vec<String>| labels.iter().filter(|label| label.contains("\"pool_size\":8")).count();
        // Every row costs as much as a pass of one: a branch beside the run never pays, a run alone just does.
        let narrow = labels(1, usize::MAX, 7);
        assert!(narrow.iter().any(|label| label.starts_with("jacobi")) && wide(narrow) == 0);
        assert_eq!(wide(labels(512, usize::MAX, 7)), 300);
        assert!((1..300).contains(&wide(labels(8, usize::MAX, 7))));
    }

    #[test]
    fn the_defaults_are_those_of_the_decoders() {
        let names: Vec<&str> = defaults(3, &stop()).unwrap().iter().map(|c| c.name.as_str()).collect();
        assert_eq!(names, ["ar", "jacobi", "multi_block", "multi_block"]);
        let strategy = DecoderConfig::default().strategy(3).unwrap();
        assert_eq!(defaults(3, &stop()).unwrap()[0].settings.strategy, strategy);
    }
}
