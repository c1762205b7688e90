//! The content of a report, for Markdown and HTML.

use jacobi_datasets::schema::eval_row::{EvalRow, EvalSample, Results};
use serde_json::{Map, Value};

use crate::chart::Chart;
use crate::figures::{Compared, Figure};
use crate::metrics::TrainingCurve;
use crate::samples::{Pair, pairs};
use crate::table::{distinct, model_label, tasks};
use crate::text::{markdown_cell, number, times};

/// Key of the environment of results under which unreadable rows of question files are counted.
pub const ROWS_LEFT_OUT: &str = "question_rows_left_out";

/// The measurements, with their charts and the chosen samples.
pub(crate) struct Content<'a> {
    pub(crate) results: &'a Results,
    pub(crate) training: &'a [TrainingCurve],
    /// Charts of the rows.
    pub(crate) charts: &'a [Chart],
    pub(crate) training_charts: &'a [Chart],
    /// One comparison per task.
    pub(crate) compared: Vec<Compared<'a>>,
    pub(crate) pairs: Vec<Pair<'a>>,
}

impl<'a> Content<'a> {
    pub(crate) fn of(
        results: &'a Results,
        samples: &'a [EvalSample],
        training: &'a [TrainingCurve],
        [charts, training_charts]: [&'a [Chart]; 2],
    ) -> Self {
        let compared = Compared::by_task(&results.rows);
        let pairs = compared.iter().flat_map(|compared| pairs(compared, samples)).collect();
        Self { results, training, charts, training_charts, compared, pairs }
    }

    /// The models and the tasks.
    pub(crate) fn title(&self) -> String {
        let rows = &self.results.rows;
        if rows.is_empty() {
            return "Evaluation".to_owned();
        }
        let models = distinct(rows, |row| &row.model);
        format!("{} on {}", models.join(", "), tasks(rows).join(", "))
    }

    /// The headline figures of each task, with the task's name if there are several.
    pub(crate) fn headlines(&self) -> impl Iterator<Item = (Option<&'a str>, Vec<Figure>)> {
        headlines(&self.compared)
    }

    /// As [`method`], and the rows of question files that could not be read.
    pub(crate) fn method(&self) -> Vec<String> {
        let left_out = self.results.environment.get(ROWS_LEFT_OUT).and_then(Value::as_str);
        let sentence = |left_out| format!("Rows of the question files that could not be used: {left_out}.");
        method(&self.results.rows).into_iter().chain(left_out.map(sentence)).collect()
    }
}

/// As [`Content::headlines`].
pub(crate) fn headlines<'a>(
    compared: &[Compared<'a>],
) -> impl Iterator<Item = (Option<&'a str>, Vec<Figure>)> {
    let several = compared.len() > 1;
    let task = move |of: &Compared<'a>| of.after_parallel.filter(|_| several).map(|row| row.task.as_str());
    compared.iter().map(move |of| (task(of), of.figures())).filter(|(_, figures)| !figures.is_empty())
}

/// Headline figures as a Markdown list, under the name of the task if it is given.
pub(crate) fn figure_list(task: Option<&str>, figures: &[Figure]) -> String {
    let line = |figure: &Figure| format!("- **{}** {}: {}\n", figure.value, figure.label, figure.note);
    let lines: String = figures.iter().map(line).collect();
    match task {
        Some(task) => format!("{}:\n\n{lines}\n", markdown_cell(task)),
        None => lines,
    }
}

/// Names and values as text; nested values as JSON.
pub(crate) fn listed(values: &Map<String, Value>) -> impl Iterator<Item = (&str, String)> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    values.iter().map(move |(name, value)| (name.as_str(), text(value)))
}

/// How the figures were measured, in sentences.
pub(crate) fn method(rows: &[EvalRow]) -> Vec<String> {
    if rows.is_empty() {
        return vec!["Nothing: there are no rows.".to_owned()];
    }
    let mut dtypes: Vec<&str> = rows.iter().map(|row| row.dtype.as_str()).collect();
    dtypes.sort_unstable();
    dtypes.dedup();
    let prompts = |task: &str| rows.iter().find(|row| row.task == task).map_or(0, |row| row.samples);
    let tasks: Vec<String> =
        tasks(rows).into_iter().map(|task| format!("{} prompts of task {task}", prompts(task))).collect();
    let mut sentences = vec![
        format!(
            "{}, greedy, in {}, the same prompts for every model and decoder.",
            tasks.join(", "),
            dtypes.join(" and ")
        ),
        "TPF is tokens per forward pass and tokens/s is tokens per second of decoding, each as sum over sum; the \
         prefill, its time and the one token it gives are not counted."
            .to_owned(),
        "The ar rows are our own autoregressive loop with KV cache in the same program. Decoders take turns prompt by \
         prompt, after a warm-up that is not counted; speedup compares with ar on the same model in the same run."
            .to_owned(),
        "Every sample counts, also those cut at the length limit.".to_owned(),
        "Exact match is the share of samples whose token ids all equal those of ar.".to_owned(),
        "Intervals, in charts the lines over the ends of bars, are 95 %: bootstrap over prompts for speed, Wilson for accuracy.".to_owned(),
    ];
    sentences.extend(sittings(rows));
    sentences.extend(failed(rows));
    for floor in rows.iter().filter_map(|row| floor(row, rows)) {
        if !sentences.contains(&floor) {
            sentences.push(floor);
        }
    }
    if rows.iter().any(EvalRow::may_diverge) {
        sentences.push(
            "The logit gap of a divergence is the logit of ar's token less that of the other decoder's, as a pass \
             over one token gives them: near 0 means a near-tie."
                .to_owned(),
        );
    }
    if dtypes.contains(&"bfloat16") {
        sentences.push(
            "On a CPU a token's logits do not depend on the other tokens of a pass, in any dtype. On a GPU in bfloat16 \
             near-ties can fall differently with the number of tokens in a pass, so exact match below 100 % is \
             expected there; in float32 it is not."
                .to_owned(),
        );
    }
    sentences
}

/// The effect of an interruption on the figures.
fn sittings(rows: &[EvalRow]) -> Option<String> {
    let most = rows.iter().map(|row| row.sittings).max().filter(|sittings| *sittings > 1)?;
    Some(format!(
        "Measured in up to {most} sittings: the evaluation was interrupted and resumed. Each prompt was measured by all \
         decoders of a model in one sitting, after a warm-up of its own, so speedups are comparable; tokens/s mix the speeds of \
         all sittings."
    ))
}

/// Samples without a response.
fn failed(rows: &[EvalRow]) -> Option<String> {
    let of = |row: &EvalRow| {
        let label = format!("{} {} on {}", model_label(row, rows), row.decoder_label(), row.task);
        (row.failed > 0).then(|| format!("{} of {label}", row.failed))
    };
    let failed: Vec<String> = rows.iter().filter_map(of).collect();
    (!failed.is_empty()).then(|| {
        format!(
            "Samples without a response, counted as wrong and in no figure of speed or fidelity: {}. samples.jsonl has \
             the reason of each (error).",
            failed.join(", ")
        )
    })
}

/// The speed of the baseline relative to the memory floor.
fn floor(row: &EvalRow, rows: &[EvalRow]) -> Option<String> {
    let (floor, over) = (row.memory_floor?, row.over_floor()?);
    Some(format!(
        "The ar loop of the {} model takes {} the memory floor: {:.0} MB of weights read once per token at {} GB/s, the \
         copy bandwidth measured in the same process, would be {} tokens/s.",
        model_label(row, rows),
        times(Some(over)),
        floor.weight_bytes as f64 / 1e6,
        number(Some(floor.copy_bytes_per_second / 1e9)),
        number(Some(floor.tokens_per_second)),
    ))
}

#[cfg(test)]
mod tests;
