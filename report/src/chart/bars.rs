//! Horizontal bars: a figure of every row.

use jacobi_datasets::schema::eval_row::EvalRow;
use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

use super::{Chart, FAINT, TEXT, WIDTH, draw, role_color, write};
use crate::ReportError;
use crate::table::{model_label, tasks};
use crate::text::number;

const STEP: i32 = 42;
const HEADING: i32 = 24;
const LEFT: i32 = 8;

/// The figures that can be compared between tasks.
pub(super) fn charts(rows: &[EvalRow]) -> Result<Vec<Chart>, ReportError> {
    let rows: Vec<&EvalRow> = rows.iter().collect();
    Ok(vec![
        bars("tpf.svg", "Tokens per forward pass", &rows, |row| row.tpf)?,
        bars("iterations.svg", "Forward passes per token", &rows, |row| row.tpf.map(|tpf| 1.0 / tpf))?,
    ])
}

/// Tokens per second.
pub(super) fn speed(rows: &[&EvalRow]) -> Result<Chart, ReportError> {
    bars("speed.svg", "Tokens per second, decoding only", rows, |row| row.tps)
}

/// One bar per row, each under its name with its value at the end; and under the name of their task where there are
/// several.
fn bars(
    file: &str,
    title: &str,
    rows: &[&EvalRow],
    value: fn(&EvalRow) -> Option<f64>,
) -> Result<Chart, ReportError> {
    let right = WIDTH as i32 - 64;
    let largest = rows.iter().filter_map(|row| value(row)).fold(f64::MIN_POSITIVE, f64::max);
    let tasks = tasks(rows.iter().copied());
    let headings = if tasks.len() > 1 { tasks.len() } else { 0 };
    let height = 8 + STEP * rows.len() as i32 + HEADING * headings as i32;
    draw(file, title, height, |area| {
        let mut top = 4;
        for task in tasks {
            if headings > 0 {
                write(area, task, (LEFT, top + HEADING / 2), FAINT, HPos::Left)?;
                top += HEADING;
            }
            for row in rows.iter().filter(|row| row.task == task) {
                let name = format!("{}  {}", model_label(row, rows.iter().copied()), row.decoder_label());
                write(area, &name, (LEFT, top + 9), TEXT, HPos::Left)?;
                let share = value(row).unwrap_or(0.0) / largest;
                let end = LEFT + (f64::from(right - LEFT) * share).round() as i32;
                let bar = Rectangle::new([(LEFT, top + 19), (end, top + 35)], role_color(row).filled());
                area.draw(&bar)?;
                write(area, &number(value(row)), (end + 8, top + 27), TEXT, HPos::Left)?;
                top += STEP;
            }
        }
        Ok(())
    })
}
