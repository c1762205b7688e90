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

/// `ar` ahead of `jacobi` over this many prompts.
fn won_by_ar(prompts: usize) -> Trials {
    let trial = |name: &str, speedup: f64| Trial {
        decoder: json!({"name": name}).as_object().unwrap().clone(),
        speedup_over_ar: Some(speedup),
        prompts,
        ..trials().trials[0].clone()
    };
    let race = RaceSummary { prompts, decided: prompts >= DECIDING_PROMPTS, ..RaceSummary::default() };
    Trials {
        trials: vec![trial("ar", 1.0), trial("jacobi", 0.9), trial("multi_block", 0.5)],
        race,
        ..trials()
    }
}

#[test]
fn ar_is_chosen_only_over_enough_prompts() {
    for (prompts, chosen, runner_up) in [(19, "jacobi", None), (20, "ar", Some("jacobi"))] {
        let best = won_by_ar(prompts).best().unwrap();
        assert_eq!((best.best.name(), best.runner_up.as_ref().map(Trial::name)), (chosen, runner_up));
        assert_eq!(best.race.decided, prompts == 20);
    }
    let alone = Trials { trials: won_by_ar(3).trials[..1].to_vec(), ..won_by_ar(3) };
    assert_eq!(alone.best().unwrap().best.name(), "ar");
}

#[test]
fn files_of_earlier_versions_are_read() {
    let mut value = serde_json::to_value(trials().best().unwrap()).unwrap();
    for key in ["race", "model_files"] {
        value.as_object_mut().unwrap().remove(key).unwrap();
    }
    let read: Tuned = serde_json::from_value(value).unwrap();
    assert!(read.is_from_tuning() && !read.race.decided && read.model_files.is_empty());
}

#[test]
fn costs_between_and_beyond_the_measured_widths() {
    let width = |(rows, seconds)| WidthLatency { rows, seconds };
    let widths = [(1, 2.0), (2, 2.0), (16, 2.0), (32, 4.0), (64, 8.0)].map(width).to_vec();
    let latency = Latency { cached: 1, knee: 16, widths };
    for (rows, expected) in [(1, 1.0), (3, 1.0), (16, 1.0), (24, 1.5), (48, 3.0), (64, 4.0), (128, 8.0)] {
        assert_eq!(latency.cost(rows), Some(expected), "{rows} rows");
    }
    assert_eq!(Latency::default().cost(5), None);
}

#[test]
fn a_trial_has_label_rows_and_scores() {
    let trial = &trials().trials[0];
    assert_eq!(trial.label(), "multi_block n=8 K=2 tree=16 ngram r=0.5");
    assert_eq!(trial.rows_per_forward(), Some(10.0));
    assert_eq!((trial.score(Objective::Tpf), trial.score(Objective::Tps)), (Some(3.0), None));
}
