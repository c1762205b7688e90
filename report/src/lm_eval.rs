//! The part of `results.json` that tools for lm-evaluation-harness read: `results`, `n-samples`, `versions`, `configs` by
//! task, in its spelling. It has room for one model under one decoder; that is the last model under `ar`, which is what
//! the harness itself would measure. Its tasks it does not claim to be: wording, examples and reading of answers are ours, so
//! `gsm8k` stands there as `jacobi_gsm8k`.

use jacobi_datasets::schema::eval_row::{EvalRow, ModelRole};
use serde_json::{Map, Value, json};

/// What the harness would call the metric of a task, with its filter: ours has none.
fn metric(task: &str) -> &'static str {
    if ["humaneval", "mbpp"].contains(&task) { "pass@1,none" } else { "exact_match,none" }
}

/// What a task is called here.
fn name(row: &EvalRow) -> String {
    format!("jacobi_{}", row.task)
}

/// The keys to put beside the rows; empty if nothing was scored.
pub(crate) fn block(rows: &[EvalRow]) -> Map<String, Value> {
    let ar = || rows.iter().filter(|row| row.is_autoregressive());
    let trained = ar().rfind(|row| row.model_role == ModelRole::Trained);
    let Some(of) = trained.or_else(|| ar().next_back()) else { return Map::new() };
    let is_of = |row: &&EvalRow| (&row.model, row.model_role) == (&of.model, of.model_role);
    let scored = || ar().filter(is_of).filter_map(|row| Some((row, row.accuracy?)));
    let by_task = |value: &dyn Fn(&EvalRow, f64) -> Value| -> Value {
        scored().map(|(row, accuracy)| (name(row), value(row, accuracy))).collect::<Map<_, _>>().into()
    };
    if scored().next().is_none() {
        return Map::new();
    }
    let model = &of.model;
    let block = json!({
        "results": by_task(&|row, accuracy| result(row, accuracy)),
        "group_subtasks": {},
        "configs": by_task(&|row, _| json!({
            "task": name(row),
            "output_type": "generate_until",
            "num_fewshot": 0,
            "generation_kwargs": {"do_sample": false},
            "metadata": {"version": row.task_version},
        })),
        "versions": by_task(&|row, _| json!(row.task_version)),
        "n-shot": by_task(&|_, _| json!(0)),
        "higher_is_better": by_task(&|row, _| {
            let name = metric(&row.task).split(',').next().unwrap_or_default();
            json!({name: true})
        }),
        "n-samples": by_task(&|row, _| json!({"original": row.samples, "effective": row.samples})),
        "config": {
            "model": "jacobi",
            "model_args": format!("pretrained={model},decoder=ar"),
            "model_dtype": of.dtype,
            "batch_size": "1",
        },
        "model_source": "jacobi",
        "model_name": model,
        "model_name_sanitized": sanitized(model),
    });
    block.as_object().cloned().unwrap_or_default()
}

/// As the harness makes a directory name of a model: two underscores for each run of what paths cannot have.
fn sanitized(model: &str) -> String {
    let parts = model.split(|c: char| "\"<>:/|\\?*[]".contains(c)).enumerate();
    parts
        .filter(|(at, part)| *at == 0 || !part.is_empty())
        .map(|(_, part)| part)
        .collect::<Vec<_>>()
        .join("__")
}

fn result(row: &EvalRow, accuracy: f64) -> Value {
    let (name, filtered) = (name(row), metric(&row.task));
    let (metric, filter) = filtered.split_once(',').unwrap_or((filtered, "none"));
    // Of a mean of zeros and ones, with the sample's own variance.
    let stderr = match row.samples {
        0 | 1 => Value::from("N/A"),
        n => (accuracy * (1.0 - accuracy) / (n - 1) as f64).sqrt().into(),
    };
    json!({
        "name": name, "alias": name, "sample_len": row.samples, filtered: accuracy,
        format!("{metric}_stderr,{filter}"): stderr
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::rows;

    #[test]
    fn the_last_model_under_ar_is_what_the_harness_would_have_measured() {
        let mut rows = rows();
        rows.push(EvalRow {
            task: "math500".to_owned(),
            accuracy: Some(0.25),
            samples: 4,
            ..rows[2].clone()
        });
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
        let text = include_str!("../../tests/golden/lm_eval_schema.json");
        let golden: Value = serde_json::from_str(text).unwrap();
        let known = |of: &str| -> Vec<&str> {
            golden[of].as_array().unwrap().iter().filter_map(Value::as_str).collect()
        };
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
    fn nothing_scored_is_nothing_said() {
        let mut rows = rows();
        assert!(block(&[]).is_empty());
        for row in &mut rows {
            row.accuracy = None;
        }
        assert!(block(&rows).is_empty());
    }
}
