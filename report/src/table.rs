//! The result table: one line per model and decoder, for the terminal, Markdown and HTML.

use std::collections::BTreeSet;

use jacobi_datasets::schema::eval_row::{EvalRow, ModelRole, Results};

use crate::content::{Headline, headlines};
use crate::figures::Figure;
use crate::text::{NOT_MEASURED, gaps, markdown_cell, number, percent, times};

/// Columns of text. The first `left` columns are names and align left, the others are figures and align right.
pub(crate) struct Table {
    pub(crate) header: Vec<String>,
    pub(crate) rows: Vec<Vec<String>>,
    pub(crate) left: usize,
}

/// The result table for a terminal: aligned, no colour, a newline at the end of each line.
/// The speedup has its 95 % interval, which the other forms have in a separate table.
pub fn terminal_table(rows: &[EvalRow]) -> String {
    Table::with_speedup(rows, "speedup, 95 %", speedup_and_interval).terminal()
}

/// The headline and the result table, for a terminal.
pub fn terminal_summary(results: &Results) -> String {
    let mut text = String::new();
    for Headline { task, remark, figures } in headlines(&results.rows, &results.tuned_models) {
        text += &task.map_or_else(String::new, |task| format!("{task}\n"));
        text += &remark.map_or_else(String::new, |remark| format!("{remark}\n"));
        for Figure { value, label, note } in figures {
            text += &format!("{value} {label}: {note}\n");
        }
        text += "\n";
    }
    text + &terminal_table(&results.rows)
}

fn speedup_and_interval(row: &EvalRow) -> String {
    let speedup = times(row.speedup_over_ar);
    row.speedup_interval.map_or(speedup.clone(), |of| format!("{speedup}, {:.2}–{:.2}", of.low, of.high))
}

impl Table {
    /// Speed and quality of each decoder, and the logit gaps of divergences if outputs may differ.
    pub(crate) fn results(rows: &[EvalRow]) -> Self {
        Self::with_speedup(rows, "speedup over ar", |row| times(row.speedup_over_ar))
    }

    fn with_speedup(rows: &[EvalRow], heading: &str, speedup: fn(&EvalRow) -> String) -> Self {
        let has_cycles = |row: &EvalRow| (1..row.forwards).contains(&row.cycles);
        let are_cycles_shown = rows.iter().any(has_cycles);
        let mut header = vec!["TPF", "tokens/s", heading, "accuracy", "exact match"];
        if are_cycles_shown {
            header.insert(1, "tokens per cycle");
        }
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
            if are_cycles_shown {
                let per_cycle = has_cycles(row).then(|| row.tokens as f64 / row.cycles as f64);
                cells.insert(1, number(per_cycle.or(row.tpf)));
            }
            if diverging {
                cells.push(gaps(row.divergence_gap_median, row.divergence_gap_max));
            }
            cells
        })
    }

    /// The effect of training: each row of a trained model with the base model's row for the same decoder and
    /// task. No lines without a base model, and only those of `ar` where a base model has no others.
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
        let base = || rows.iter().filter(|row| row.model_role == ModelRole::Base);
        let (has_base, has_its_drafts) = (base().count() > 0, base().any(|row| !row.is_autoregressive()));
        let is_compared = |row: &&EvalRow| has_its_drafts || row.is_autoregressive();
        let trained =
            rows.iter().filter(|row| has_base && row.model_role != ModelRole::Base).filter(is_compared);
        // A single trained model needs no name.
        let models = trained.clone().map(|row| row.model.as_str()).collect::<BTreeSet<_>>().len();
        let skipped = usize::from(models < 2);
        let lines =
            trained.map(|row| names.cells(row).into_iter().skip(skipped).chain(changes(row)).collect());
        let header: Vec<&str> = names.header.iter().skip(skipped).chain(&header).copied().collect();
        Self { left: names.header.len() - skipped, ..Self::of(&header, lines.collect()) }
    }

    /// A line per row: its names, then its cells under `header`.
    pub(crate) fn of_rows(
        rows: &[EvalRow],
        header: &[&str],
        cells: impl Fn(&EvalRow) -> Vec<String>,
    ) -> Self {
        let names = Names::of(rows);
        let header: Vec<&str> = names.header.iter().chain(header).copied().collect();
        let line = |row: &EvalRow| names.cells(row).into_iter().chain(cells(row)).collect();
        Self { left: names.header.len(), ..Self::of(&header, rows.iter().map(line).collect()) }
    }

    /// A table whose first two columns are names.
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

/// The base model's row to compare a trained model's row with: of the same evaluation if there are several.
fn base_of<'a>(after: &EvalRow, rows: &'a [EvalRow]) -> Option<&'a EvalRow> {
    let base = || rows.iter().filter(|row| row.model_role == ModelRole::Base && row.task == after.task);
    let has_own = base().any(|row| row.model == after.model);
    base().find(|row| row.is_decoded_as(after) && (!has_own || row.model == after.model))
}

/// Tokens per second including prefill, relative to the model's autoregressive row.
fn end_to_end_over_ar(row: &EvalRow, rows: &[EvalRow]) -> Option<f64> {
    let is_baseline = |ar: &&EvalRow| {
        ar.is_autoregressive()
            && (&ar.model, ar.model_role, &ar.task) == (&row.model, row.model_role, &row.task)
    };
    Some(row.tps_end_to_end? / rows.iter().find(is_baseline)?.tps_end_to_end?)
}

/// The columns that identify a row: the model, the task if there are several, the decoder.
pub(crate) struct Names<'a> {
    rows: &'a [EvalRow],
    pub(crate) header: &'static [&'static str],
}

impl<'a> Names<'a> {
    pub(crate) fn of(rows: &'a [EvalRow]) -> Self {
        let several = tasks(rows).len() > 1;
        Self { rows, header: if several { &["model", "task", "decoder"] } else { &["model", "decoder"] } }
    }

    pub(crate) fn cells(&self, row: &EvalRow) -> Vec<String> {
        let task = (self.header.len() > 2).then(|| row.task.clone());
        [model_label(row, self.rows)].into_iter().chain(task).chain([shown_decoder(row)]).collect()
    }
}

/// The decoder of a row, and whether tuning chose it.
pub(crate) fn shown_decoder(row: &EvalRow) -> String {
    if row.tuned { format!("{}, tuned", row.decoder_label()) } else { row.decoder_label() }
}

/// The tasks of `rows`, each once, in order.
pub(crate) fn tasks<'a>(rows: impl IntoIterator<Item = &'a EvalRow>) -> Vec<&'a str> {
    distinct(rows, |row| &row.task)
}

/// The values of a text field of `rows`, each once, in order.
pub(crate) fn distinct<'a>(
    rows: impl IntoIterator<Item = &'a EvalRow>,
    field: fn(&'a EvalRow) -> &'a str,
) -> Vec<&'a str> {
    let mut values = Vec::new();
    for value in rows.into_iter().map(field) {
        if !values.contains(&value) {
            values.push(value);
        }
    }
    values
}

/// The role of the model, with its name if several models have that role. If all models have one role, only the name.
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
mod tests;
