//! `report.md`: for a terminal, a pull request, a wiki.

use jacobi_datasets::schema::eval_row::{EvalRow, EvalSample, Results};
use serde_json::{Map, Value};

use crate::chart::Chart;
use crate::figures::Compared;
use crate::metrics::TrainingCurve;
use crate::samples::{Pair, caption, pairs};
use crate::table::Table;
use crate::text::{code_block, markdown_cell};

/// The whole report as Markdown.
pub(crate) fn render(
    results: &Results,
    samples: &[EvalSample],
    training: &[TrainingCurve],
    charts: &[Chart],
) -> String {
    let compared = Compared::of(&results.rows);
    let mut text = String::from("# Evaluation\n\n");
    for figure in compared.figures() {
        text += &format!("- **{}** {}: {}\n", figure.value, figure.label, figure.note);
    }
    text += &format!("\n{}\n", Table::results(&results.rows).markdown());
    text += "## What was measured\n\n";
    for sentence in method(&results.rows) {
        text += &format!("- {sentence}\n");
    }
    text += &format!("\n{}\n", Table::details(&results.rows).markdown());
    if !training.is_empty() {
        text += "## Training\n\n";
        for curve in training {
            text += &format!("- {}\n", curve.summary());
        }
        text += "\n";
    }
    text += "## Charts\n\n";
    for chart in charts {
        text += &format!("![{}]({})\n\n", chart.title, chart.file);
    }
    text += &samples_section(&pairs(&compared, samples));
    text += "## Command\n\n";
    text += &code_block(&results.command);
    text += "\n## Environment\n\n| name | value |\n| :--- | :--- |\n";
    for (name, value) in environment(&results.environment) {
        text += &format!("| {} | {} |\n", markdown_cell(&name), markdown_cell(&value));
    }
    text
}

fn samples_section(pairs: &[Pair]) -> String {
    if pairs.is_empty() {
        return String::new();
    }
    let mut text = String::from("## Samples\n\nThe first prompts of the file, not chosen.\n\n");
    for Pair { before, after } in pairs {
        text += &format!("### {}\n\n{}\n", markdown_cell(&before.sample_id), code_block(&before.prompt));
        for sample in [before, after] {
            let name = format!("{} model, {}", sample.model_role.as_str(), sample.decoder_label());
            text += &format!("**{name}**: {}\n\n{}\n", caption(sample), code_block(&sample.text));
        }
    }
    text
}

/// How the figures came about, in sentences that both reports print.
pub(crate) fn method(rows: &[EvalRow]) -> Vec<String> {
    let Some(first) = rows.first() else { return vec!["Nothing: there are no rows.".to_owned()] };
    let mut dtypes: Vec<&str> = rows.iter().map(|row| row.dtype.as_str()).collect();
    dtypes.dedup();
    let mut sentences = vec![
        format!(
            "{} prompts of task {}, greedy, in {}, the same prompts for every model and decoder.",
            first.samples,
            first.task,
            dtypes.join(" and ")
        ),
        "TPF is tokens per decode forward and tokens/s is tokens per second of decoding, each as sum over sum; the \
         prefill, its time and the one token it gives are apart."
            .to_owned(),
        "The ar rows are our own autoregressive loop with KV cache in the same program. Decoders take turns prompt by \
         prompt, after a warm-up that is not counted; speedup compares with ar on the same model in the same run."
            .to_owned(),
        "Every sample counts, also those cut at the length limit.".to_owned(),
        "Exact match is the share of samples whose token ids all equal those of ar.".to_owned(),
        "Intervals are 95 %: bootstrap over prompts for TPF and speedup, Wilson for accuracy.".to_owned(),
    ];
    if dtypes.contains(&"bfloat16") {
        sentences.push(
            "In bfloat16 near-ties can fall differently with the number of tokens in a forward, so exact match below \
             100 % is expected there; in float32 it is not."
                .to_owned(),
        );
    }
    sentences
}

/// The environment as names and values; nested values are written as JSON.
pub(crate) fn environment(environment: &Map<String, Value>) -> Vec<(String, String)> {
    let value = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    environment.iter().map(|(name, v)| (name.clone(), value(v))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{results, samples};

    #[test]
    fn report_says_what_how_and_shows_text() {
        let curve = TrainingCurve { label: "round-1".to_owned(), points: Vec::new() };
        let chart = Chart { file: "tpf.svg".to_owned(), title: "Tokens".to_owned(), svg: String::new() };
        let text = render(&results(), &samples(), &[curve], &[chart]);
        let parts = [
            "# Evaluation\n\n- **2.71** tokens per forward (jacobi n=16): 1.08 before training, 2.51 times that\n",
            "| trained | jacobi n=16 | 2.71 | 95.2 | 2.32x | 92.2 % | 98.4 % |\n",
            "- 64 prompts of task gsm8k, greedy, in float32,",
            "- round-1: no steps logged\n",
            "![Tokens](tpf.svg)\n",
            "### q1\n\n```text\nWhat is <b>2</b> + 2?\n```\n",
            "**trained model, jacobi n=16**: 8 tokens, 3 forwards, 2.33 tokens per forward, 28.0 tokens/s, right\n",
            "```text\nTwo & two make 4. #### 4\n```\n",
            "## Command\n\n```text\njacobi run --config configs/quickstart.toml\n```\n",
            "| device | cpu &lt;2 cores> |\n| threads | 2 |\n",
        ];
        for part in parts {
            assert!(text.contains(part), "missing {part:?} in:\n{text}");
        }
    }

    #[test]
    fn bfloat16_is_explained_and_no_rows_is_said() {
        let mut rows = results().rows;
        assert!(!method(&rows).join(" ").contains("near-ties"));
        rows[0].dtype = "bfloat16".to_owned();
        assert!(method(&rows).join(" ").contains("near-ties"));
        assert_eq!(method(&[]), ["Nothing: there are no rows."]);
    }
}
