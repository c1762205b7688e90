//! What both renderings of a report show.

use jacobi_datasets::schema::eval_row::{EvalRow, EvalSample, Results};
use serde_json::{Map, Value};

use crate::chart::Chart;
use crate::figures::{Compared, Figure};
use crate::metrics::TrainingCurve;
use crate::samples::{Pair, pairs};
use crate::table::{model_label, tasks};
use crate::text::{markdown_cell, number, times};

/// What the environment of results calls the rows of question files that could not be read.
pub const ROWS_LEFT_OUT: &str = "question_rows_left_out";

/// Measurements with what is drawn and chosen from them.
pub(crate) struct Content<'a> {
    pub(crate) results: &'a Results,
    pub(crate) training: &'a [TrainingCurve],
    /// Of the rows, and of the training.
    pub(crate) charts: &'a [Chart],
    pub(crate) training_charts: &'a [Chart],
    /// By task.
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

    /// Which models on which tasks.
    pub(crate) fn title(&self) -> String {
        let rows = &self.results.rows;
        let mut models: Vec<&str> = Vec::new();
        for row in rows {
            if !models.contains(&row.model.as_str()) {
                models.push(&row.model);
            }
        }
        match models.len() {
            0 => "Evaluation".to_owned(),
            _ => format!("{} on {}", models.join(", "), tasks(rows).join(", ")),
        }
    }

    /// The headline figures of each task, with its name where there are several.
    pub(crate) fn headlines(&self) -> impl Iterator<Item = (Option<&'a str>, Vec<Figure>)> {
        headlines(&self.compared)
    }

    /// As [`method`], and what of the question files was not measured.
    pub(crate) fn method(&self) -> Vec<String> {
        let left_out = self.results.environment.get(ROWS_LEFT_OUT).and_then(Value::as_str);
        let sentence = |left_out| format!("Rows of the question files that are no samples: {left_out}.");
        method(&self.results.rows).into_iter().chain(left_out.map(sentence)).collect()
    }

    /// The environment.
    pub(crate) fn environment(&self) -> impl Iterator<Item = (&'a str, String)> {
        listed(&self.results.environment)
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

/// The figures of a headline as a Markdown list, under the name of their task if one is given.
pub(crate) fn figure_list(task: Option<&str>, figures: &[Figure]) -> String {
    let line = |figure: &Figure| format!("- **{}** {}: {}\n", figure.value, figure.label, figure.note);
    let lines: String = figures.iter().map(line).collect();
    match task {
        Some(task) => format!("{}:\n\n{lines}\n", markdown_cell(task)),
        None => lines,
    }
}

/// Names and values as text; nested values are written as JSON.
pub(crate) fn listed(values: &Map<String, Value>) -> impl Iterator<Item = (&str, String)> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    values.iter().map(move |(name, value)| (name.as_str(), text(value)))
}

/// How the figures came about, in sentences.
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
         prefill, its time and the one token it gives are apart."
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
             over one token gives them: near 0, the two were as good as tied."
                .to_owned(),
        );
    }
    if dtypes.contains(&"bfloat16") {
        sentences.push(
            "On a CPU a token's logits do not depend on what else is in a pass, in any dtype. On a GPU in bfloat16 \
             near-ties can fall differently with the number of tokens in a pass, so exact match below 100 % is \
             expected there; in float32 it is not."
                .to_owned(),
        );
    }
    sentences
}

/// What an interruption does to the figures.
fn sittings(rows: &[EvalRow]) -> Option<String> {
    let most = rows.iter().map(|row| row.sittings).max().filter(|sittings| *sittings > 1)?;
    Some(format!(
        "Measured in up to {most} sittings: the evaluation was interrupted and resumed. Each prompt was measured by all \
         decoders of a model in one sitting, after a warm-up of its own, so speedups compare like with like; tokens/s mix what \
         the machine gave in each."
    ))
}

/// What could not be measured.
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

/// How good the baseline is.
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
mod tests {
    use super::*;
    use crate::fixtures::{results, rows};

    #[test]
    fn bfloat16_is_explained_and_no_rows_is_said() {
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
    fn the_baseline_is_held_against_the_memory_floor() {
        let text = method(&rows()).join("\n");
        let expected = "The ar loop of the base model takes 1.13x the memory floor: 269 MB of weights read once per token at \
            12.5 GB/s, the copy bandwidth measured in the same process, would be 46.5 tokens/s.";
        assert!(text.contains(expected), "{text}");
    }

    #[test]
    fn interruptions_and_failures_are_said() {
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
    fn rows_that_could_not_be_read_are_said() {
        let mut results = results();
        let said = |results: &Results| Content::of(results, &[], &[], [&[], &[]]).method().join("\n");
        assert!(!said(&results).contains("no samples"));
        results.environment.insert(ROWS_LEFT_OUT.to_owned(), "1 of 9 rows of sums".into());
        assert!(said(&results).ends_with("that are no samples: 1 of 9 rows of sums."), "{}", said(&results));
    }

    #[test]
    fn nested_environment_is_json() {
        let mut results = results();
        results.environment.insert("gpu".to_owned(), serde_json::json!({"name": "x"}));
        let content = Content::of(&results, &[], &[], [&[], &[]]);
        let found: Vec<(&str, String)> = content.environment().collect();
        assert!(
            found.contains(&("gpu", r#"{"name":"x"}"#.to_owned()))
                && found.contains(&("threads", "2".into()))
        );
    }
}
