//! Charts of the passes of a few rows, those of the headline: more lines and bars would be unreadable.

use jacobi_datasets::schema::eval_row::{EvalRow, ModelRole};
use plotters::prelude::*;

use super::lines::{Line, Lines};
use super::{Axes, Chart, Legend, PLOT_HEIGHT, THIRD, draw, percent_of, plot, role_color};
use crate::ReportError;
use crate::figures::Compared;
use crate::passes;

/// A row and its colour.
type Shown<'a> = (&'a EvalRow, RGBColor);

/// The charts of the rows of one task; none without a parallel decoder.
pub(super) fn charts(rows: &[&EvalRow]) -> Result<Vec<Chart>, ReportError> {
    let mut shown = shown(rows);
    shown.retain(|(row, _)| row.acceptance.iter().any(|&count| count > 0));
    if shown.is_empty() {
        return Ok(Vec::new());
    }
    let lines = [positions(&shown), widths(&shown), ranks(&shown)];
    let mut charts = vec![acceptance(&shown)?];
    for chart in lines {
        charts.extend(chart.draw()?);
    }
    Ok(charts)
}

/// The fastest decoder of the trained model, and the fastest that both models were measured with, before and
/// after training. They are the same, unless a decoder was tuned for the trained model.
fn shown<'a>(rows: &[&'a EvalRow]) -> Vec<Shown<'a>> {
    let whole = Compared::of(rows);
    let Some(fastest) = whole.after_parallel else { return Vec::new() };
    if whole.base_parallel.is_some() {
        let pair = whole.base_parallel.into_iter().chain([fastest]);
        let mut shown: Vec<Shown> = pair.map(|row| (row, role_color(row))).collect();
        shown.dedup_by(|a, b| std::ptr::eq(a.0, b.0));
        return shown;
    }
    let of_both = |row: &&&EvalRow| {
        let in_base = |base: &&&EvalRow| base.model_role == ModelRole::Base && base.is_decoded_as(row);
        row.model_role == ModelRole::Base || rows.iter().any(|base| in_base(&base))
    };
    let of_both: Vec<&EvalRow> = rows.iter().filter(of_both).copied().collect();
    let pair = Compared::of(&of_both);
    let pair = [pair.base_parallel, pair.after_parallel].into_iter().flatten();
    let mut shown: Vec<Shown> = pair.map(|row| (row, role_color(row))).collect();
    shown.push((fastest, if shown.is_empty() { role_color(fastest) } else { THIRD }));
    shown
}

/// Share of forwards by number of accepted tokens, one bar per decoder at each number.
fn acceptance(rows: &[Shown]) -> Result<Chart, ReportError> {
    let colored: Vec<(String, RGBColor)> = rows.iter().map(|&(row, color)| (name(row), color)).collect();
    let shares: Vec<Vec<f64>> = rows
        .iter()
        .map(|(row, _)| {
            let forwards = row.acceptance.iter().sum::<usize>() as f64;
            row.acceptance.iter().map(|&count| count as f64 / forwards).collect()
        })
        .collect();
    let used = |s: &Vec<f64>| s.iter().rposition(|&share| share > 0.0).unwrap_or(1);
    let most = shares.iter().map(used).max().unwrap_or(1).max(1);
    let top = shares.iter().flatten().copied().fold(0.0, f64::max) * 1.05;
    let legend = Legend::of(colored.iter().map(|(name, color)| (name.as_str(), *color)));
    let title = "Tokens accepted by one forward pass, share of passes";
    draw("acceptance.svg", title, legend.height + PLOT_HEIGHT, |area| {
        legend.draw(area)?;
        let axes = Axes {
            x: 0.5..most as f64 + 0.5,
            y: 0.0..top,
            x_title: "tokens accepted",
            x_ticks: most.min(16),
            y_label: percent_of,
        };
        let mut chart = plot(area, legend.height, axes)?;
        let width = 0.8 / rows.len() as f64;
        for (index, (share, (_, color))) in shares.iter().zip(&colored).enumerate() {
            chart.draw_series(share.iter().enumerate().skip(1).filter(|(_, share)| **share > 0.0).map(
                |(accepted, &share)| {
                    let start = accepted as f64 - 0.4 + width * index as f64;
                    Rectangle::new([(start, 0.0), (start + width, share)], color.filled())
                },
            ))?;
        }
        Ok(())
    })
}

/// Share of passes that accepted the draft up to each position. The first token of a pass is always right.
fn positions(rows: &[Shown]) -> Lines<'static> {
    let title = "Draft right up to this position, share of passes";
    let lines = lines(rows, |row| (1..).map(f64::from).zip(passes::reached(row)).collect());
    Lines { y_label: percent_of, ..Lines::new("positions.svg", title, "position in the draft", lines) }
}

/// Time of a pass by the rows fed.
fn widths(rows: &[Shown]) -> Lines<'static> {
    let points = |row: &EvalRow| passes::widths(row).values().map(|w| (w.rows, w.milliseconds)).collect();
    let title = "Milliseconds of one forward pass by the rows fed";
    Lines::new("widths.svg", title, "rows", lines(rows, points))
}

/// Share of rejected drafts with the right token among the k most probable.
fn ranks(rows: &[Shown]) -> Lines<'static> {
    let title = "Right token among the k most probable, share of rejected drafts";
    let lines = lines(rows, |row| (1..).map(f64::from).zip(passes::cumulative_ranks(row)).collect());
    Lines { y_label: percent_of, ..Lines::new("ranks.svg", title, "k", lines) }
}

/// A line per row.
fn lines(rows: &[Shown], points: impl Fn(&EvalRow) -> Vec<(f64, f64)>) -> Vec<Line> {
    rows.iter().map(|&(row, color)| Line { name: name(row), color, points: points(row) }).collect()
}

/// The model's role and the decoder.
fn name(row: &EvalRow) -> String {
    format!("{} {}", row.model_role.as_str(), row.decoder_label())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::rows;

    fn names(rows: &[EvalRow]) -> Vec<String> {
        shown(&rows.iter().collect::<Vec<_>>()).into_iter().map(|(row, _)| name(row)).collect()
    }

    #[test]
    fn charts_compare_before_and_after_also_with_a_tuned_decoder() {
        let mut rows = rows();
        assert_eq!(names(&rows), ["base jacobi n=16", "trained jacobi n=16"]);
        assert_eq!(names(&rows[..2]), ["base jacobi n=16"]);
        assert_eq!(names(&rows[2..]), ["trained jacobi n=16"]);
        let mut tuned = EvalRow { tps: Some(200.0), ..rows[3].clone() };
        tuned.decoder_settings.insert("block_size".to_owned(), 8.into());
        rows.push(tuned);
        assert_eq!(names(&rows), ["base jacobi n=16", "trained jacobi n=16", "trained jacobi n=8"]);
        assert!(names(&rows[..1]).is_empty());
    }
}
