//! The keys of `results.json` for tools of lm-evaluation-harness: `results`, `n-samples`, `versions`,
//! `configs` by task. That format holds one model with one decoder: the last model under `ar`, which is what
//! the harness itself would measure. `gsm8k` is named `jacobi_gsm8k`, because wording, examples and answer
//! extraction differ from the task of the harness.

use jacobi_datasets::schema::eval_row::{EvalRow, ModelRole};
use serde_json::{Map, Value, json};

/// The metric of a task with its filter (none), as the harness names it.
fn metric(task: &str) -> &'static str {
    if ["humaneval", "mbpp"].contains(&task) { "pass@1,none" } else { "exact_match,none" }
}

/// The name of a task in these keys.
fn name(row: &EvalRow) -> String {
    format!("jacobi_{}", row.task)
}

/// The keys to add to the results; empty if nothing was scored.
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

/// The model as a directory name of the harness: two underscores for each run of characters not allowed in paths.
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
    // Standard error of a mean of zeros and ones, with the sample variance.
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
mod tests;
