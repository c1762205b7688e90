//! The keys for lm-evaluation-harness against its schema.

use super::*;
use crate::fixtures::rows;

#[test]
fn the_harness_keys_describe_the_last_model_under_ar() {
    let mut rows = rows();
    rows.push(EvalRow { task: "math500".to_owned(), accuracy: Some(0.25), samples: 4, ..rows[2].clone() });
    let block = block(&rows);
    let gsm8k = &block["results"]["jacobi_gsm8k"];
    assert_eq!(gsm8k["exact_match,none"], json!(0.921875));
    let stderr = gsm8k["exact_match_stderr,none"].as_f64().unwrap();
    assert!((stderr - 0.033_811_6).abs() < 1e-6, "{stderr}");
    assert_eq!(
        block["results"]["jacobi_math500"],
        json!({
            "name": "jacobi_math500", "alias": "jacobi_math500", "sample_len": 4, "exact_match,none": 0.25,
            "exact_match_stderr,none": 0.25
        })
    );
    assert_eq!(block["n-samples"]["jacobi_gsm8k"], json!({"original": 64, "effective": 64}));
    assert_eq!(block["config"]["model_args"], "pretrained=tiny,decoder=ar");
}

#[test]
fn the_block_has_the_shape_that_the_harness_gives_its_results() {
    let text = include_str!("../../../tests/golden/lm_eval_schema.json");
    let golden: Value = serde_json::from_str(text).unwrap();
    let known =
        |of: &str| -> Vec<&str> { golden[of].as_array().unwrap().iter().filter_map(Value::as_str).collect() };
    let mut rows = rows();
    for task in ["humaneval", "mbpp"] {
        rows.push(EvalRow { task: task.to_owned(), ..rows[2].clone() });
    }
    let block = block(&rows);
    assert!(block.keys().all(|key| known("EvalResults").contains(&key.as_str())), "{:?}", block.keys());
    let config = block["config"].as_object().unwrap();
    assert!(config.keys().all(|key| known("EvalConfig").contains(&key.as_str())), "{config:?}");
    let tasks: Vec<&String> = block["results"].as_object().unwrap().keys().collect();
    assert_eq!(tasks, ["jacobi_gsm8k", "jacobi_humaneval", "jacobi_mbpp"]);
    for by_task in ["configs", "versions", "n-shot", "higher_is_better", "n-samples"] {
        assert_eq!(block[by_task].as_object().unwrap().keys().collect::<Vec<_>>(), tasks, "{by_task}");
    }
    for task in tasks {
        let result = block["results"][task].as_object().unwrap();
        let (fixed, measured): (Vec<&str>, Vec<&str>) =
            result.keys().map(String::as_str).partition(|key| known("TaskMetrics").contains(key));
        assert_eq!(fixed, ["name", "alias", "sample_len"]);
        // Nobody takes ours for the task of the harness, or for one of its filters.
        assert!(golden["metrics"].get(task).is_none() && measured.len() == 2, "{task}");
        assert!(measured.iter().all(|metric| metric.ends_with(",none")), "{measured:?}");
        let better = block["higher_is_better"][task].as_object().unwrap().keys().next().unwrap();
        assert!(
            measured[0].starts_with(&format!("{better},"))
                && measured[1].starts_with(&format!("{better}_stderr,"))
        );
        assert!(
            block["n-samples"][task]
                .as_object()
                .unwrap()
                .keys()
                .all(|k| known("SampleCount").contains(&k.as_str()))
        );
    }
    assert_eq!(
        (sanitized("org/a.b-c_1"), sanitized("/x//y")),
        ("org__a.b-c_1".to_owned(), "__x__y".to_owned())
    );
}

#[test]
fn without_scores_there_are_no_keys() {
    let mut rows = rows();
    assert!(block(&[]).is_empty());
    for row in &mut rows {
        row.accuracy = None;
    }
    assert!(block(&rows).is_empty());
}
