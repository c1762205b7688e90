//! Both files round trip; labels of a trial.

use super::*;
use serde_json::json;

fn trials() -> Trials {
    let trials = json!({
        "schema": TRIALS_SCHEMA, "objective": "tpf", "dtype": "float32",
        "trials": [{
            "decoder": {"name": "multi_block", "block_size": 8, "max_blocks": 2, "spawn_ratio": 0.5, "filler": "ngram",
                "pool_size": 0, "tree_budget": 16},
            "is_default": false, "prompts": 3, "tokens": 60, "forwards": 20, "rows": 200, "decode_seconds": 0.5,
            "tpf": 3.0, "tps": 120.0, "speedup_over_ar": null
        }],
        "latency": {"cached": 40, "knee": 2, "widths": [{"rows": 1, "seconds": 0.5}, {"rows": 2, "seconds": 0.625}]},
        "command": "jacobi tune", "environment": {"cpu": "x"}
    });
    serde_json::from_value(trials).unwrap()
}

#[test]
fn both_files_round_trip_and_the_best_is_first() {
    let trials = trials();
    let text = serde_json::to_string(&trials).unwrap();
    assert_eq!(serde_json::from_str::<Trials>(&text).unwrap(), trials);
    let tuned = trials.best().unwrap();
    let text = serde_json::to_string(&tuned).unwrap();
    assert!(text.starts_with(r#"{"schema":"jacobi-tune/1","decoder":{"name":"multi_block","block_size":8,"#));
    assert_eq!(serde_json::from_str::<Tuned>(&text).unwrap(), tuned);
    assert_eq!(Trials { trials: vec![], ..trials }.best(), None);
}

#[test]
fn a_trial_has_label_rows_and_scores() {
    let trial = &trials().trials[0];
    assert_eq!(trial.label(), "multi_block n=8 K=2 tree=16 ngram r=0.5");
    assert_eq!(trial.rows_per_forward(), Some(10.0));
    assert_eq!((trial.score(Objective::Tpf), trial.score(Objective::Tps)), (Some(3.0), None));
}
