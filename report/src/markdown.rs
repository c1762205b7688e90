//! `report.md`.

use serde_json::{Map, Value};

use crate::chart::Chart;
use crate::content::{Content, headline_list, listed};
use crate::details::details;
use crate::metrics::TrainingCurve;
use crate::passes::{Statistic, statistics};
use crate::samples::{Pair, caption};
use crate::table::Table;
use crate::text::{code_block, markdown_cell};
use crate::training::evaluations;

/// The whole report as Markdown.
pub(crate) fn render(content: &Content) -> String {
    let rows = &content.results.rows;
    let mut text = String::from("# Evaluation\n\n");
    for headline in content.headlines() {
        text += &headline_list(&headline);
    }
    let changes = Table::before_and_after(rows);
    if !changes.rows.is_empty() {
        text += &format!("\n## Before and after training\n\n{}\n", changes.markdown());
        for curve in content.training {
            text += &format!("- Training, {}\n", curve.cost());
        }
    }
    text += &format!("\n## Results\n\n{}\n", Table::results(rows).markdown());
    text += &sentences("Tuning", &content.tuning());
    text += &sentences("Method", &content.method());
    text += &statistics_section("Details", &details(content.results));
    text += &statistics_section("Statistics of the passes", &statistics(rows));
    if !content.training.is_empty() {
        text += &format!("## Training\n\n{}", training(content.training, content.training_charts));
    }
    text += &format!("## Charts\n\n{}", figures(content.charts));
    text += &samples_section(&content.pairs);
    text + &command_and_environment(&content.results.command, &content.results.environment)
}

/// A section of sentences; nothing without any.
pub(crate) fn sentences(title: &str, sentences: &[String]) -> String {
    if sentences.is_empty() {
        return String::new();
    }
    let list: String = sentences.iter().map(|sentence| format!("- {sentence}\n")).collect();
    format!("## {title}\n\n{list}\n")
}

/// The sections about how the results were made.
pub(crate) fn command_and_environment(command: &str, environment: &Map<String, Value>) -> String {
    let values = pairs("name", listed(environment));
    format!("## Command\n\n{}\n## Environment\n\n{values}", code_block(command))
}

/// A table of names and values.
pub(crate) fn pairs<'a>(heading: &str, pairs: impl Iterator<Item = (&'a str, String)>) -> String {
    let row =
        |(name, value): (&str, String)| format!("| {} | {} |\n", markdown_cell(name), markdown_cell(&value));
    format!("| {heading} | value |\n| :--- | :--- |\n{}", pairs.map(row).collect::<String>())
}

/// Cost and results of training, with its charts.
pub(crate) fn training(curves: &[TrainingCurve], charts: &[Chart]) -> String {
    let mut text: String = curves.iter().map(|curve| format!("- {}\n", curve.summary())).collect();
    text += &format!("\n{}", figures(charts));
    text.extend(evaluations(curves).iter().map(statistic));
    text
}

/// The charts, those of each task under its name.
pub(crate) fn figures(charts: &[Chart]) -> String {
    let figure = |chart: &Chart| format!("![{}]({})\n\n", chart.title, chart.file);
    let of_task = |charts: &[Chart]| {
        let task = charts[0].task.as_deref();
        let heading = task.map_or_else(String::new, |task| format!("### {}\n\n", markdown_cell(task)));
        heading + &charts.iter().map(figure).collect::<String>()
    };
    charts.chunk_by(|a, b| a.task == b.task).map(of_task).collect()
}

fn statistics_section(title: &str, statistics: &[Statistic]) -> String {
    if statistics.is_empty() {
        return String::new();
    }
    format!("## {title}\n\n{}", statistics.iter().map(statistic).collect::<String>())
}

fn statistic(Statistic { heading, note, table }: &Statistic) -> String {
    format!("### {heading}\n\n{note}\n\n{}\n", table.markdown())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{curve, results, samples};

    #[test]
    fn the_report_has_every_section() {
        let chart = |file: &str, task: Option<&str>| Chart {
            file: file.to_owned(),
            title: "Tokens".to_owned(),
            task: task.map(str::to_owned),
            svg: String::new(),
        };
        let (results, samples) = (results(), samples());
        let charts = [chart("tpf.svg", None), chart("widths-a.svg", Some("a"))];
        let curves = [curve("round-1", 20)];
        let training = [chart("training-tpf-samples.svg", None)];
        let text = render(&Content::of(&results, &samples, &curves, [&charts, &training]));
        let parts = [
            "# Evaluation\n\n- **2.71** tokens per forward pass (jacobi n=16): 1.08 before training, 2.51 times that\n",
            "| trained | jacobi n=16 | 2.71 | 95.2 | 2.32x | 92.2 % | 98.4 % | 0.031, at most 0.031 |\n",
            "- 64 prompts of task gsm8k, greedy, in float32,",
            "## Statistics of the passes\n\n### Tokens accepted by one pass\n\nShare of passes.\n\n| model | decoder | 1 | 2 |",
            "- round-1: 20 steps, 160 samples, 3.0 h, loss 2.25 to 0.15 (",
            "\n\n![Tokens](training-tpf-samples.svg)\n\n### Evaluations during training\n",
            "## Charts\n\n![Tokens](tpf.svg)\n\n### a\n\n![Tokens](widths-a.svg)\n",
            "## Before and after training\n\n| decoder | TPF |",
            "\n\n- Training, round-1: 20 steps, 160 samples, 3.0 h\n\n## Results\n",
            "### q1\n\n```text\nWhat is <b>2</b> + 2?\n```\n",
            "**trained model, jacobi n=16**: 8 tokens, 3 passes, 2.33 tokens per pass, 28.0 tokens/s, right\n",
            "```text\nTwo & two make 4. #### 4\n```\n",
            "## Command\n\n```text\njacobi run --config configs/quickstart.toml\n```\n",
            "| device | cpu &lt;2 cores> |\n| threads | 2 |\n",
        ];
        for part in parts {
            assert!(text.contains(part), "missing {part:?} in:\n{text}");
        }
    }
}
