//! `report.md`: for a terminal, a pull request, a wiki.

use crate::content::{Content, figure_list, method};
use crate::details::details;
use crate::passes::{Statistic, statistics};
use crate::samples::{Pair, caption};
use crate::table::Table;
use crate::text::{code_block, markdown_cell};

/// The whole report as Markdown.
pub(crate) fn render(content: &Content) -> String {
    let rows = &content.results.rows;
    let mut text = String::from("# Evaluation\n\n");
    for (task, figures) in content.headlines() {
        text += &figure_list(task, &figures);
    }
    text += &format!("\n{}\n", Table::results(rows).markdown());
    text += "## What was measured\n\n";
    for sentence in method(rows) {
        text += &format!("- {sentence}\n");
    }
    text += "\n";
    text += &statistics_section("In detail", &details(content.results));
    text += &statistics_section("What the passes did", &statistics(rows));
    if !content.training.is_empty() {
        text += "## Training\n\n";
        for curve in content.training {
            text += &format!("- {}\n", curve.summary());
        }
        text += "\n";
    }
    text += "## Charts\n\n";
    for chart in content.charts {
        text += &format!("![{}]({})\n\n", chart.title, chart.file);
    }
    text += &samples_section(&content.pairs);
    text += "## Command\n\n";
    text += &code_block(&content.results.command);
    text += "\n## Environment\n\n| name | value |\n| :--- | :--- |\n";
    for (name, value) in content.environment() {
        text += &format!("| {} | {} |\n", markdown_cell(name), markdown_cell(&value));
    }
    text
}

fn statistics_section(title: &str, statistics: &[Statistic]) -> String {
    let mut text = String::new();
    for (index, Statistic { heading, note, table }) in statistics.iter().enumerate() {
        if index == 0 {
            text += &format!("## {title}\n\n");
        }
        text += &format!("### {heading}\n\n{note}\n\n{}\n", table.markdown());
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chart::Chart;
    use crate::fixtures::{results, samples};
    use crate::metrics::TrainingCurve;

    #[test]
    fn report_says_what_how_and_shows_text() {
        let curve = TrainingCurve { label: "round-1".to_owned(), points: Vec::new() };
        let chart = Chart { file: "tpf.svg".to_owned(), title: "Tokens".to_owned(), svg: String::new() };
        let (results, samples) = (results(), samples());
        let text = render(&Content::of(&results, &samples, &[curve], &[chart]));
        let parts = [
            "# Evaluation\n\n- **2.71** tokens per forward pass (jacobi n=16): 1.08 before training, 2.51 times that\n",
            "| trained | jacobi n=16 | 2.71 | 95.2 | 2.32x | 92.2 % | 98.4 % | 0.031, at most 0.031 |\n",
            "- 64 prompts of task gsm8k, greedy, in float32,",
            "## What the passes did\n\n### Tokens accepted by one pass\n\nShare of passes.\n\n| model | decoder | 1 | 2 |",
            "- round-1: no steps logged\n",
            "![Tokens](tpf.svg)\n",
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
