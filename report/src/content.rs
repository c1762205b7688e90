//! The content of a report, for Markdown and HTML.

use jacobi_datasets::schema::eval_row::{EvalRow, EvalSample, Results};
use jacobi_datasets::schema::tuned::TunedModel;
use serde_json::{Map, Value};

use crate::chart::Chart;
use crate::figures::{Compared, Figure};
use crate::metrics::TrainingCurve;
use crate::samples::{Pair, pairs};
use crate::table::{distinct, model_label, tasks};
use crate::text::{markdown_cell, number, times};
use crate::tune::{choice, pass_cost};

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

    /// The headline of each task.
    pub(crate) fn headlines(&self) -> Vec<Headline<'a>> {
        headlines_of(&self.compared, &self.results.tuned_models)
    }

    /// How tuning chose the decoders, in sentences.
    pub(crate) fn tuning(&self) -> Vec<String> {
        self.results.tuned_models.iter().flat_map(|model| choice(&model.model, &model.tuned)).collect()
    }

    /// As [`method`], and the rows of question files that could not be read.
    pub(crate) fn method(&self) -> Vec<String> {
        let left_out = self.results.environment.get(ROWS_LEFT_OUT).and_then(Value::as_str);
        let sentence = |left_out| format!("Rows of the question files that could not be used: {left_out}.");
        method(&self.results.rows).into_iter().chain(left_out.map(sentence)).collect()
    }
}

/// The headline of a task.
pub(crate) struct Headline<'a> {
    /// Its name, if there are several.
    pub(crate) task: Option<&'a str>,
    /// Whether no decoder beat `ar`, and why.
    pub(crate) remark: Option<String>,
    pub(crate) figures: Vec<Figure>,
}

/// The headline of each task of `rows`.
pub(crate) fn headlines<'a>(rows: &'a [EvalRow], tuned_models: &[TunedModel]) -> Vec<Headline<'a>> {
    headlines_of(&Compared::by_task(rows), tuned_models)
}

fn headlines_of<'a>(compared: &[Compared<'a>], tuned_models: &[TunedModel]) -> Vec<Headline<'a>> {
    let several = compared.len() > 1;
    let headline = |of: &Compared<'a>| {
        let after = of.after_parallel?;
        let of_model =
            |tuned: &&TunedModel| (&tuned.model, tuned.model_role) == (&after.model, after.model_role);
        let tuned = tuned_models.iter().find(of_model).filter(|_| of.has_winning_ar());
        let why = tuned.and_then(|model| pass_cost(&model.tuned.latency));
        let bound = number(after.tpf);
        let explained = |remark: String| match why {
            Some(why) => {
                format!("{remark} {why} If wider passes cost nothing, the speedup would be TPF, {bound}.")
            }
            None => remark,
        };
        let remark = of.remark().map(explained);
        Some(Headline { task: several.then_some(after.task.as_str()), remark, figures: of.figures() })
    };
    compared.iter().filter_map(headline).collect()
}

/// A headline as Markdown: its remark, then its figures as a list, under the name of the task if it is given.
pub(crate) fn headline_list(headline: &Headline) -> String {
    let line = |figure: &Figure| format!("- **{}** {}: {}\n", figure.value, figure.label, figure.note);
    let lines: String = headline.figures.iter().map(line).collect();
    let remark = headline.remark.as_ref().map_or_else(String::new, |remark| format!("**{remark}**\n\n"));
    match headline.task {
        Some(task) => format!("{}:\n\n{remark}{lines}\n", markdown_cell(task)),
        None => remark + &lines,
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
        "Intervals, in charts the lines over the ends of bars, are 95 %: bootstrap over prompts for speed, Wilson for accuracy and ends.".to_owned(),
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
