//! The sentences of the method, and the environment.

use super::*;
use crate::fixtures::{results, rows, trials};

#[test]
fn bfloat16_and_missing_rows_are_explained() {
    let mut rows = rows();
    assert!(!method(&rows).join(" ").contains("near-ties"));
    rows[0].dtype = "bfloat16".to_owned();
    assert!(method(&rows).join(" ").contains("near-ties"));
    assert_eq!(method(&[]), ["Nothing: there are no rows."]);
}

#[test]
fn the_gap_is_explained_where_outputs_differ() {
    let rows = rows();
    assert!(method(&rows).join(" ").contains("logit gap"));
    assert!(!method(&rows[..3]).join(" ").contains("logit gap"));
}

#[test]
fn the_baseline_is_compared_with_the_memory_floor() {
    let text = method(&rows()).join("\n");
    let expected = "The ar loop of the base model takes 1.13x the memory floor: 269 MB of weights read once per token at \
        12.5 GB/s, the copy bandwidth measured in the same process, would be 46.5 tokens/s.";
    assert!(text.contains(expected), "{text}");
}

#[test]
fn interruptions_and_failures_are_reported() {
    let mut rows = rows();
    let text = method(&rows).join("\n");
    assert!(!text.contains("sittings") && !text.contains("without a response"), "{text}");
    (rows[1].sittings, rows[3].failed) = (3, 2);
    let text = method(&rows).join("\n");
    assert!(
        text.contains("up to 3 sittings") && text.contains(": 2 of trained jacobi n=16 on gsm8k."),
        "{text}"
    );
}

#[test]
fn unreadable_rows_are_reported() {
    let mut results = results();
    let said = |results: &Results| Content::of(results, &[], &[], [&[], &[]]).method().join("\n");
    assert!(!said(&results).contains("could not be used"));
    results.environment.insert(ROWS_LEFT_OUT.to_owned(), "1 of 9 rows of sums".into());
    assert!(said(&results).ends_with("that could not be used: 1 of 9 rows of sums."), "{}", said(&results));
}

#[test]
fn a_lost_race_is_explained_by_the_cost_of_passes() {
    let mut results = results();
    results.rows[3].speedup_over_ar = Some(0.9);
    let (model, model_role) = (results.rows[3].model.clone(), results.rows[3].model_role);
    let tuned = trials().best().unwrap();
    results.tuned_models = vec![TunedModel { model, model_role, tuned }];
    let content = Content::of(&results, &[], &[], [&[], &[]]);
    let remark = content.headlines().remove(0).remark.unwrap();
    let why = " A pass over 4 rows costs 1.00 times one over 1 on this machine (2: 1.00, 8: 1.25, 16: 1.50, 32: 3.00).";
    let bound = " If wider passes cost nothing, the speedup would be TPF, 2.71.";
    let explained = why.to_owned() + bound;
    assert!(remark.starts_with("No decoder beat ar: ") && remark.ends_with(&explained), "{remark}");
    let chosen =
        "Tuning chose jacobi n=8 for tiny: 1.50x the tokens/s of ar, TPF 3.00, over the first 4 prompts.";
    assert_eq!(content.tuning(), [chosen, why.trim()]);
}

#[test]
fn nested_environment_is_json() {
    let mut results = results();
    results.environment.insert("gpu".to_owned(), serde_json::json!({"name": "x"}));
    let found: Vec<(&str, String)> = listed(&results.environment).collect();
    assert!(
        found.contains(&("gpu", r#"{"name":"x"}"#.to_owned())) && found.contains(&("threads", "2".into()))
    );
}
