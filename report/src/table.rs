//! The result table: one line per model and decoder, the same cells on the terminal, in Markdown and in HTML.

use std::collections::BTreeSet;

use jacobi_datasets::schema::eval_row::{EvalRow, ModelRole};

use crate::text::{NOT_MEASURED, gaps, markdown_cell, number, percent, times};

/// Columns of text. The first `left` columns are names and align left, the others are figures and align right.
pub(crate) struct Table {
    pub(crate) header: Vec<String>,
    pub(crate) rows: Vec<Vec<String>>,
    pub(crate) left: usize,
}

/// The result table for a terminal: aligned, no colour, a newline at the end of each line.
/// There the speedup has its 95 % interval beside it, which the other forms give in detail.
pub fn terminal_table(rows: &[EvalRow]) -> String {
    Table::with_speedup(rows, "speedup, 95 %", speedup_and_interval).terminal()
}

fn speedup_and_interval(row: &EvalRow) -> String {
    let speedup = times(row.speedup_over_ar);
    row.speedup_interval.map_or(speedup.clone(), |of| format!("{speedup}, {:.2}–{:.2}", of.low, of.high))
}

impl Table {
    /// What the project exists for: speed and quality of each decoder. Where outputs may differ, how near a tie it was.
    pub(crate) fn results(rows: &[EvalRow]) -> Self {
        Self::with_speedup(rows, "speedup over ar", |row| times(row.speedup_over_ar))
    }

    fn with_speedup(rows: &[EvalRow], heading: &str, speedup: fn(&EvalRow) -> String) -> Self {
        let mut header = vec!["TPF", "tokens/s", heading, "accuracy", "exact match"];
        let diverging = rows.iter().any(EvalRow::may_diverge);
        if diverging {
            header.push("divergence gap");
        }
        Self::of_rows(rows, &header, |row| {
            let mut cells = vec![
                number(row.tpf),
                number(row.tps),
                speedup(row),
                percent(row.accuracy),
                percent(row.exact_match_ar),
            ];
            if diverging {
                cells.push(gaps(row.divergence_gap_median, row.divergence_gap_max));
            }
            cells
        })
    }

    /// What training changed: each row of a trained model beside the base model's under the same decoder on the same
    /// task. No lines if only one of the two was measured.
    pub(crate) fn before_and_after(rows: &[EvalRow]) -> Self {
        let header =
            ["TPF", "tokens/s", "over ar, decoding", "over ar, end to end", "accuracy", "exact match"];
        let changes = |after: &EvalRow| {
            let before = base_of(after, rows);
            let change = |figure: &dyn Fn(&EvalRow) -> String| {
                format!("{} → {}", before.map_or(NOT_MEASURED.to_owned(), figure), figure(after))
            };
            vec![
                change(&|row| number(row.tpf)),
                change(&|row| number(row.tps)),
                change(&|row| times(row.speedup_over_ar)),
                change(&|row| times(end_to_end_over_ar(row, rows))),
                change(&|row| percent(row.accuracy)),
                change(&|row| percent(row.exact_match_ar)),
            ]
        };
        let names = Names::of(rows);
        let are_both = rows.iter().any(|row| row.model_role == ModelRole::Base);
        let trained = rows.iter().filter(|row| are_both && row.model_role == ModelRole::Trained);
        // Of one trained model nobody needs to be told which.
        let models = trained.clone().map(|row| row.model.as_str()).collect::<BTreeSet<_>>().len();
        let skipped = usize::from(models < 2);
        let lines =
            trained.map(|row| names.cells(row).into_iter().skip(skipped).chain(changes(row)).collect());
        let header: Vec<&str> = names.header().iter().skip(skipped).chain(&header).copied().collect();
        Self { left: names.header().len() - skipped, ..Self::of(&header, lines.collect()) }
    }

    /// A line per row: its names, then `cells` under `header`.
    pub(crate) fn of_rows(
        rows: &[EvalRow],
        header: &[&str],
        cells: impl Fn(&EvalRow) -> Vec<String>,
    ) -> Self {
        let names = Names::of(rows);
        let header: Vec<&str> = names.header().iter().chain(header).copied().collect();
        let line = |row: &EvalRow| names.cells(row).into_iter().chain(cells(row)).collect();
        Self { left: names.header().len(), ..Self::of(&header, rows.iter().map(line).collect()) }
    }

    /// Model and decoder, then figures.
    pub(crate) fn of(header: &[&str], rows: Vec<Vec<String>>) -> Self {
        Self { header: header.iter().map(|h| (*h).to_owned()).collect(), rows, left: 2 }
    }

    /// Aligned with spaces.
    pub(crate) fn terminal(&self) -> String {
        let widths: Vec<usize> = (0..self.header.len())
            .map(|column| {
                let cells = self.rows.iter().map(|row| &row[column]).chain([&self.header[column]]);
                cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
            })
            .collect();
        let rule: Vec<String> = widths.iter().map(|&width| "─".repeat(width)).collect();
        let mut text = String::new();
        for cells in [&self.header, &rule].into_iter().chain(&self.rows) {
            let padded: Vec<String> =
                (cells.iter().zip(&widths).enumerate())
                    .map(|(column, (cell, &width))| {
                        if column < self.left { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
                    })
                    .collect();
            text.push_str(padded.join("  ").trim_end());
            text.push('\n');
        }
        text
    }

    /// As a Markdown table.
    pub(crate) fn markdown(&self) -> String {
        let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
        let align = |column: usize| if column < self.left { ":---" } else { "---:" };
        let mut text = line(self.header.iter().map(|h| markdown_cell(h)).collect());
        text += &line((0..self.header.len()).map(|column| align(column).to_owned()).collect());
        for row in &self.rows {
            text += &line(row.iter().map(|cell| markdown_cell(cell)).collect());
        }
        text
    }
}

/// The base model's row that a trained one's is held against: of the same evaluation where several are compared.
fn base_of<'a>(after: &EvalRow, rows: &'a [EvalRow]) -> Option<&'a EvalRow> {
    let is_before = |row: &&EvalRow| {
        row.model_role == ModelRole::Base && row.task == after.task && row.is_decoded_as(after)
    };
    let before = || rows.iter().filter(is_before);
    before().find(|row| row.model == after.model).or_else(|| before().next())
}

/// Tokens per second with the prefill, over those of the same model's autoregressive row.
fn end_to_end_over_ar(row: &EvalRow, rows: &[EvalRow]) -> Option<f64> {
    let is_baseline = |ar: &&EvalRow| {
        ar.is_autoregressive()
            && (&ar.model, ar.model_role, &ar.task) == (&row.model, row.model_role, &row.task)
    };
    Some(row.tps_end_to_end? / rows.iter().find(is_baseline)?.tps_end_to_end?)
}

/// What tells the rows of a table apart: the model, the task where there are several, the decoder.
pub(crate) struct Names<'a> {
    rows: &'a [EvalRow],
    header: &'static [&'static str],
}

impl<'a> Names<'a> {
    pub(crate) fn of(rows: &'a [EvalRow]) -> Self {
        let several = tasks(rows).len() > 1;
        Self { rows, header: if several { &["model", "task", "decoder"] } else { &["model", "decoder"] } }
    }

    pub(crate) fn header(&self) -> &'static [&'static str] {
        self.header
    }

    pub(crate) fn cells(&self, row: &EvalRow) -> Vec<String> {
        let task = (self.header.len() > 2).then(|| row.task.clone());
        [model_label(row, self.rows)].into_iter().chain(task).chain([row.decoder_label()]).collect()
    }
}

/// The tasks of `rows`, each once, in their order.
pub(crate) fn tasks<'a>(rows: impl IntoIterator<Item = &'a EvalRow>) -> Vec<&'a str> {
    let mut tasks: Vec<&str> = Vec::new();
    for row in rows {
        if !tasks.contains(&row.task.as_str()) {
            tasks.push(&row.task);
        }
    }
    tasks
}

/// The role, with the name where two models share a role; the name alone where there is but one role, since nothing was
/// trained from another then.
pub(crate) fn model_label<'a>(row: &EvalRow, rows: impl IntoIterator<Item = &'a EvalRow>) -> String {
    let role = row.model_role.as_str();
    let (mut is_shared, mut is_only) = (false, true);
    for other in rows {
        is_shared |= other.model_role == row.model_role && other.model != row.model;
        is_only &= other.model_role == row.model_role;
    }
    match (is_shared, is_only) {
        (false, false) => role.to_owned(),
        (true, false) => format!("{role} {}", row.model),
        (_, true) => row.model.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::rows;

    #[test]
    fn terminal_table_is_aligned() {
        let expected = "\
model    decoder       TPF  tokens/s     speedup, 95 %  accuracy  exact match        divergence gap
───────  ───────────  ────  ────────  ────────────────  ────────  ───────────  ────────────────────
base     ar           1.00      41.2             1.00x    93.8 %            –                     –
base     jacobi n=16  1.08      40.0  0.97x, 0.00–1.00    93.8 %        100 %                     –
trained  ar           1.00      41.0             1.00x    92.2 %            –                     –
trained  jacobi n=16  2.71      95.2  2.32x, 2.00–3.00    92.2 %       98.4 %  0.031, at most 0.031
";
        assert_eq!(terminal_table(&rows()), expected);
        assert!(expected.lines().all(|line| line.chars().count() <= 100));
    }

    #[test]
    fn markdown_table() {
        let expected = "\
| model | decoder | TPF | tokens/s | speedup over ar | accuracy | exact match |
| :--- | :--- | ---: | ---: | ---: | ---: | ---: |
| tiny | ar | 1.00 | 41.2 | 1.00x | 93.8 % | – |
";
        assert_eq!(Table::results(&rows()[..1]).markdown(), expected);
    }

    #[test]
    fn training_changed_what_stands_before_and_after_the_arrow() {
        let expected = "\
| decoder | TPF | tokens/s | over ar, decoding | over ar, end to end | accuracy | exact match |
| :--- | ---: | ---: | ---: | ---: | ---: | ---: |
| ar | 1.00 → 1.00 | 41.2 → 41.0 | 1.00x → 1.00x | 1.00x → 1.00x | 93.8 % → 92.2 % | – → – |
| jacobi n=16 | 1.08 → 2.71 | 40.0 → 95.2 | 0.97x → 2.32x | 0.97x → 2.31x | 93.8 % → 92.2 % | 100 % → 98.4 % |
";
        assert_eq!(Table::before_and_after(&rows()).markdown(), expected);
        assert!(Table::before_and_after(&rows()[..2]).rows.is_empty());
        assert!(Table::before_and_after(&rows()[2..]).rows.is_empty());
    }

    #[test]
    fn a_compared_model_is_held_against_the_base_of_its_own_evaluation() {
        let mut rows = rows();
        let other = rows.clone().into_iter().map(|row| EvalRow {
            model: "other".to_owned(),
            tpf: row.tpf.map(|tpf| tpf + 1.0),
            ..row
        });
        rows.extend(other);
        // A decoder that the base model was not measured under.
        rows[7].decoder_settings.insert("block_size".to_owned(), 8.into());
        let lines = Table::before_and_after(&rows).rows;
        let starts: Vec<String> = lines.iter().map(|line| line[..3].join(", ")).collect();
        assert_eq!(
            starts,
            [
                "trained tiny, ar, 1.00 → 1.00",
                "trained tiny, jacobi n=16, 1.08 → 2.71",
                "trained other, ar, 2.00 → 2.00",
                "trained other, jacobi n=8, – → 3.71"
            ]
        );
    }

    #[test]
    fn several_tasks_have_a_column() {
        let mut rows = rows();
        rows[1].task = "math500".to_owned();
        let table = terminal_table(&rows[..2]);
        assert!(
            table.contains("\ntiny   gsm8k    ar ") && table.contains("\ntiny   math500  jacobi n=16 "),
            "{table}"
        );
    }

    #[test]
    fn two_models_of_one_role_are_named() {
        let mut rows = rows();
        rows[1].model = "other".to_owned();
        assert_eq!(model_label(&rows[0], &rows), "base tiny");
        assert_eq!(model_label(&rows[2], &rows), "trained");
        assert_eq!(
            (model_label(&rows[0], &rows[..2]), model_label(&rows[1], &rows[..2])),
            ("tiny".into(), "other".into())
        );
        // One model alone was trained from nothing that is here.
        assert_eq!(model_label(&rows[0], &rows[..1]), "tiny");
    }

    #[test]
    fn no_rows_is_a_header() {
        assert_eq!(terminal_table(&[]).lines().count(), 2);
    }
}
