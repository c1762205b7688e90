//! What the passes of the two rows did that the headline of a task compares: more lines and bars could not be told apart.

use jacobi_datasets::schema::eval_row::EvalRow;
use plotters::prelude::*;

use super::lines::{Line, Lines};
use super::{Axes, Chart, Legend, PLOT_HEIGHT, draw, percent_of, plot, role_color};
use crate::ReportError;
use crate::figures::Compared;
use crate::passes;
use crate::text::number;

/// The charts of one task, whose rows these are; none if no parallel decoder ran.
pub(super) fn charts(rows: &[&EvalRow]) -> Result<Vec<Chart>, ReportError> {
    let compared = Compared::of(rows);
    let mut rows: Vec<&EvalRow> =
        [compared.base_parallel, compared.after_parallel].into_iter().flatten().collect();
    rows.dedup();
    rows.retain(|row| row.acceptance.iter().any(|&count| count > 0));
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let lines = [positions(&rows), widths(&rows), ranks(&rows)];
    let mut charts = vec![acceptance(&rows)?];
    for chart in lines {
        charts.extend(chart.draw()?);
    }
    Ok(charts)
}

/// Share of forwards by the number of tokens they accepted, one bar per decoder at each number.
fn acceptance(rows: &[&EvalRow]) -> Result<Chart, ReportError> {
    let colored: Vec<(String, RGBColor)> = rows.iter().map(|row| (name(row), role_color(row))).collect();
    let shares: Vec<Vec<f64>> = rows
        .iter()
        .map(|row| {
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
fn positions(rows: &[&EvalRow]) -> Lines<'static> {
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
fn widths(rows: &[&EvalRow]) -> Lines<'static> {
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
fn ranks(rows: &[&EvalRow]) -> Lines<'static> {
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
fn lines(rows: &[&EvalRow], points: impl Fn(&EvalRow) -> Vec<(f64, f64)>) -> Vec<Line> {
    rows.iter().map(|row| Line { name: name(row), color: role_color(row), points: points(row) }).collect()
}

/// The decoder with its model's role.
fn name(row: &EvalRow) -> String {
    format!("{} {}", row.model_role.as_str(), row.decoder_label())
}
