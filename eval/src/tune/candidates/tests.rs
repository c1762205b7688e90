//! The candidates on machines with simple latencies.

use super::*;
use jacobi_datasets::schema::tuned::WidthLatency;
use jacobi_decoder::{DecoderConfig, DecoderName};
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
    let found = challengers(&machine(knee), &defaults(seed, &stop()), count, seed, &stop(), false);
    let label =
        |c: &Settings| format!("{} {}", c.strategy.name().as_str(), Value::Object(c.decoder_settings()));
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
fn candidates_whose_widest_pass_cannot_pay_off_are_left_out() {
    let wide = |labels: Vec<String>| labels.iter().filter(|label| label.contains("\"pool_size\":8")).count();
    // Every row costs as much as a pass of one: a branch beside the run never pays, a run alone just does.
    let narrow = labels(1, usize::MAX, 7);
    assert!(narrow.iter().any(|label| label.starts_with("jacobi")) && wide(narrow) == 0);
    // With 128 as a size of blocks and of trees: six windows, six sizes, two fillers, six trees.
    assert_eq!(wide(labels(512, usize::MAX, 7)), 432);
    assert!((1..300).contains(&wide(labels(8, usize::MAX, 7))));
}

#[test]
fn the_defaults_are_those_of_the_decoders() {
    let named = |name| DecoderConfig { name, ..DecoderConfig::default() };
    let tree = DecoderConfig { tree_budget: Some(32), ..named(DecoderName::MultiBlock) };
    let configs = [named(DecoderName::Ar), named(DecoderName::Jacobi), named(DecoderName::MultiBlock), tree];
    let expected = configs.map(|config| config.settings(3, stop()).unwrap());
    assert_eq!(defaults(3, &stop()), expected);
}

#[test]
fn a_short_field_has_the_narrow_windows() {
    let field = field(&machine(256), 32, 7, &stop(), false);
    assert_eq!(field.len(), 4 + 32);
    let names: Vec<String> = field[..11]
        .iter()
        .map(|entrant| {
            let size = entrant.decoder_settings().get("block_size").map_or(String::new(), Value::to_string);
            format!("{}{size}", entrant.strategy.name().as_str())
        })
        .collect();
    let narrow = ["jacobi4", "multi_block4", "jacobi8", "multi_block8", "multi_block16"];
    assert_eq!(names[..SEEDED], ["ar", "jacobi16"]);
    assert_eq!(names[SEEDED..7], narrow);
    assert_eq!(field[11..13], defaults(7, &stop())[SEEDED..]);
}

#[test]
fn an_adapter_is_tried_in_one_pass_and_in_two_and_with_filler_of_the_vocabulary() {
    let of = |has_adapter, count| challengers(&machine(256), &[], count, 7, &stop(), has_adapter);
    let having = |found: &[Settings], key: &str, value: &str| {
        found.iter().filter(|settings| settings.decoder_settings().get(key) == Some(&value.into())).count()
    };
    let (without, with) = (of(false, usize::MAX), of(true, usize::MAX));
    // With an adapter three fillers instead of two.
    assert_eq!((having(&without, "passes", "two"), having(&with, "passes", "two")), (0, 1800));
    assert_eq!((having(&without, "filler", "vocabulary"), having(&with, "filler", "vocabulary")), (0, 1200));
    // Of every size jacobi, and two fillers for one pass and for two.
    let narrow = of(true, 25);
    assert_eq!((having(&narrow, "passes", "two"), having(&narrow, "filler", "vocabulary")), (10, 10));
    assert!(
        narrow
            .iter()
            .all(|settings| settings.decoder_settings().get("pool_size").is_none_or(|size| size == 0))
    );
}

#[test]
fn rows_of_an_adapter_cost_as_others_do() {
    let of = |has_adapter| challengers(&machine(1), &[], usize::MAX, 7, &stop(), has_adapter);
    assert!(!of(false).is_empty() && of(true).is_empty());
}
