//! The part of `results.json` that tools for lm-evaluation-harness read: `results`, `n-samples`, `versions`, `configs` by
//! task, in its spelling. It has room for one model under one decoder; that is the last model under `ar`, which is what
//! the harness itself would measure.

use jacobi_datasets::schema::eval_row::{EvalRow, ModelRole};
use serde_json::{Map, Value, json};

/// What the harness calls the metric of a task, with its filter.
fn metric(task: &str) -> &'static str {
    match task {
        "gsm8k" => "exact_match,strict-match",
        "humaneval" => "pass@1,create_test",
        "mbpp" => "pass_at_1,none",
        _ => "exact_match,none",
    }
}

/// The keys to put beside the rows; empty if nothing was scored.
pub(crate) fn block(rows: &[EvalRow]) -> Map<String, Value> {
    let ar = || rows.iter().filter(|row| row.is_autoregressive());
    let trained = ar().rfind(|row| row.model_role == ModelRole::Trained);
    let Some(model) = trained.or_else(|| ar().next_back()).map(|row| &row.model) else { return Map::new() };
    let scored = || ar().filter(|row| row.model == *model).filter_map(|row| Some((row, row.accuracy?)));
    let by_task = |value: &dyn Fn(&EvalRow, f64) -> Value| -> Value {
        scored().map(|(row, accuracy)| (row.task.clone(), value(row, accuracy))).collect::<Map<_, _>>().into()
    };
    if scored().next().is_none() {
        return Map::new();
    }
    let block = json!({
        "results": by_task(&|row, accuracy| result(row, accuracy)),
        "higher_is_better": by_task(&|row, _| {
            let name = metric(&row.task).split(',').next().unwrap_or_default();
            json!({name: true})
        }),
        "n-shot": by_task(&|_, _| json!(0)),
        "n-samples": by_task(&|row, _| json!({"original": row.samples, "effective": row.samples})),
        "versions": by_task(&|row, _| json!(row.task_version)),
        "configs": by_task(&|row, _| json!({
            "task": row.task,
            "output_type": "generate_until",
            "num_fewshot": 0,
            "generation_kwargs": {"do_sample": false},
        })),
        "config": {"model": "jacobi", "model_args": format!("pretrained={model},decoder=ar")},
        "model_name": model,
    });
    block.as_object().cloned().unwrap_or_default()
}

fn result(row: &EvalRow, accuracy: f64) -> Value {
    let name = metric(&row.task);
    let (metric, filter) = name.split_once(',').unwrap_or((name, "none"));
    // Of a mean of zeros and ones, with the sample's own variance.
    let stderr = match row.samples {
        0 | 1 => Value::from("N/A"),
        n => (accuracy * (1.0 - accuracy) / (n - 1) as f64).sqrt().into(),
    };
    json!({"alias": row.task, name: accuracy, format!("{metric}_stderr,{filter}"): stderr})
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
        let gsm8k = &block["results"]["gsm8k"];
        assert_eq!(gsm8k["exact_match,strict-match"], json!(0.921875));
        let stderr = gsm8k["exact_match_stderr,strict-match"].as_f64().unwrap();
        assert!((stderr - 0.033_811_6).abs() < 1e-6, "{stderr}");
        assert_eq!(
            block["results"]["math500"],
            json!({"alias": "math500", "exact_match,none": 0.25, "exact_match_stderr,none": 0.25})
        );
        assert_eq!(block["n-samples"]["gsm8k"], json!({"original": 64, "effective": 64}));
        assert_eq!(block["config"]["model_args"], "pretrained=tiny,decoder=ar");
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
