//! Field names, fields added later, and labels.

use super::*;
use serde_json::json;

fn row_json() -> Value {
    let text = r#"{
        "model": "m", "model_role": "trained", "task": "gsm8k", "task_version": 1, "decoder": "jacobi",
        "decoder_settings": {"block_size": 16}, "samples": 2, "dtype": "float32", "tpf": 2.5, "tps": 90.0,
        "speedup_over_ar": 2.0, "accuracy": null, "exact_match_ar": 0.5, "divergences_per_1k_tokens": 20.0,
        "divergence_gap_median": 0.125, "divergence_gap_max": null,
        "tpf_macro": 2.4, "tps_macro": 88.0, "tpf_interval": {"low": 2.25, "high": 2.75},
        "speedup_interval": null, "accuracy_interval": null, "tokens": 50, "forwards": 20, "cycles": 20,
        "decode_seconds": 0.5, "prefill_seconds": 0.25, "stopped_by_length": 0, "ended": 0.5,
        "ended_interval": {"low": 0.25, "high": 0.75}, "mean_response_tokens": 25.0, "acceptance": [0, 10, 5, 0, 5],
        "accepted_from": {"own": 25, "tree": 5}, "limited_by": {"draft": 15, "window": 5}, "widths": [{"rows": 16, "forwards": 20, "seconds": 0.5}],
        "rejection_ranks": [0, 3, 1], "tps_interval": {"low": 80.0, "high": 95.5}, "tps_end_to_end": 68.5,
        "prefill_tps": 120.0,
        "per_prompt": {
            "prefill_seconds": {"median": 0.125, "low": 0.125, "high": 0.25}, "decode_seconds": null,
            "end_to_end_seconds": null, "tpf": {"median": 2.5, "low": null, "high": null}, "tps": null,
            "speedup_over_ar": null
        },
        "first_divergence_median": 7.0, "degenerate": 0.0,
        "memory_floor": {"weight_bytes": 4000, "copy_bytes_per_second": 400000.0, "tokens_per_second": 100.0},
        "failed": 0, "sittings": 2, "tuned": true
    }"#;
    serde_json::from_str(text).unwrap()
}

#[test]
fn results_round_trip_with_the_published_field_names_in_order() {
    let text = serde_json::to_string(&json!({
        "schema": "jacobi-eval/1", "command": "jacobi eval", "environment": {"cpu": "x"}, "rows": [row_json()],
        "paired_tests": [{
            "task": "gsm8k",
            "a": {"model": "m", "model_role": "base", "decoder": "ar", "decoder_settings": {}},
            "b": {"model": "m", "model_role": "trained", "decoder": "ar", "decoder_settings": {}},
            "both": 1, "only_a": 0, "only_b": 1, "neither": 0, "p_value": 1.0
        }],
        "settings": {"seed": "0"}
    }))
    .unwrap();
    let results: Results = serde_json::from_str(&text).unwrap();
    assert_eq!(results.schema, RESULTS_SCHEMA);
    assert_eq!(serde_json::to_string(&results).unwrap(), text);
}

#[test]
fn files_from_before_a_field_still_load() {
    let mut json = row_json();
    let full: EvalRow = serde_json::from_value(json.clone()).unwrap();
    let since = [
        "task_version",
        "divergence_gap_median",
        "divergence_gap_max",
        "ended",
        "ended_interval",
        "mean_response_tokens",
        "accepted_from",
        "limited_by",
        "cycles",
        "widths",
        "rejection_ranks",
        "tps_interval",
        "tps_end_to_end",
        "prefill_tps",
        "per_prompt",
        "first_divergence_median",
        "degenerate",
        "memory_floor",
        "failed",
        "sittings",
        "tuned",
    ];
    for field in since {
        json.as_object_mut().unwrap().remove(field).unwrap();
    }
    let row: EvalRow = serde_json::from_value(json).unwrap();
    let expected = EvalRow {
        task_version: None,
        divergence_gap_median: None,
        ended: None,
        ended_interval: None,
        mean_response_tokens: None,
        accepted_from: BTreeMap::new(),
        limited_by: BTreeMap::new(),
        cycles: 0,
        widths: vec![],
        rejection_ranks: vec![],
        tps_interval: None,
        tps_end_to_end: None,
        prefill_tps: None,
        per_prompt: PerPrompt::default(),
        first_divergence_median: None,
        degenerate: None,
        memory_floor: None,
        failed: 0,
        sittings: 1,
        tuned: false,
        ..full
    };
    assert_eq!(row, expected);
}

#[test]
fn labels_carry_the_main_settings() {
    let mut row: EvalRow = serde_json::from_value(row_json()).unwrap();
    assert_eq!(row.decoder_label(), "jacobi n=16");
    row.decoder_settings.insert("strict_gap".to_owned(), json!(0.1));
    assert_eq!(row.decoder_label(), "jacobi n=16 strict");
    assert!(!row.is_autoregressive());
    row.decoder_settings.insert("window".to_owned(), "sliding".into());
    row.decoder_settings.insert("passes".to_owned(), "one".into());
    assert_eq!(row.decoder_label(), "jacobi n=16 sliding strict");
    row.decoder_settings.insert("passes".to_owned(), "two".into());
    assert_eq!(row.decoder_label(), "jacobi n=16 sliding two passes strict");
    row.decoder = AUTOREGRESSIVE.to_owned();
    row.decoder_settings.clear();
    assert_eq!(row.decoder_label(), "ar");
    assert!(row.is_autoregressive());
}
