//! What the passes of the rows did that the headline of a task is about: more lines and bars could not be told apart.

use jacobi_datasets::schema::eval_row::{EvalRow, ModelRole};
use plotters::prelude::*;

use super::lines::{Line, Lines};
use super::{Axes, Chart, Legend, PLOT_HEIGHT, THIRD, draw, percent_of, plot, role_color};
use crate::ReportError;
use crate::figures::Compared;
use crate::passes;
use crate::text::number;

/// A row and the colour of its lines.
type Shown<'a> = (&'a EvalRow, RGBColor);

/// The charts of one task, whose rows these are; none if no parallel decoder ran.
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

/// The fastest decoder of the trained model, and before and after training the fastest that both models were measured
/// under: the same one, unless it was tuned for the trained model.
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

/// Share of forwards by the number of tokens they accepted, one bar per decoder at each number.
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

/// How often a pass accepted a draft at least this far. The first token of a pass is right whatever was drafted.
fn positions(rows: &[Shown]) -> Lines<'static> {
    Lines {
        file: "positions.svg",
        title: "Draft right up to this position, share of passes",
        x_title: "position in the draft",
        y_from: 0.0,
        y_label: percent_of,
        lines: lines(rows, |row| (1..).map(f64::from).zip(passes::reached(row)).collect()),
    }
}

/// Time of a pass by the rows fed.
fn widths(rows: &[Shown]) -> Lines<'static> {
    let points = |row: &EvalRow| passes::widths(row).values().map(|w| (w.rows, w.milliseconds)).collect();
    Lines {
        file: "widths.svg",
        title: "Milliseconds of one forward pass by the rows fed",
        x_title: "rows",
        y_from: 0.0,
        y_label: |y| number(Some(y)),
        lines: lines(rows, points),
    }
}

/// How often the right token was among the most probable ones where a draft was wrong.
fn ranks(rows: &[Shown]) -> Lines<'static> {
    Lines {
        file: "ranks.svg",
        title: "Right token among the k most probable, share of rejected drafts",
        x_title: "k",
        y_from: 0.0,
        y_label: percent_of,
        lines: lines(rows, |row| (1..).map(f64::from).zip(passes::cumulative_ranks(row)).collect()),
    }
}

/// A line per row.
fn lines(rows: &[Shown], points: impl Fn(&EvalRow) -> Vec<(f64, f64)>) -> Vec<Line> {
    rows.iter().map(|&(row, color)| Line { name: name(row), color, points: points(row) }).collect()
}

/// The decoder with its model's role.
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
    fn what_is_shown_has_a_before_whatever_was_tuned() {
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
