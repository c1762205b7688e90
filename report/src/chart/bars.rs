//! Horizontal bars: a figure of every row, with its 95 % interval.

use jacobi_datasets::schema::eval_row::{EvalRow, Interval};
use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

use super::{Area, Chart, DrawResult, FAINT, TEXT, WIDTH, draw, role_color, write};
use crate::ReportError;
use crate::table::{model_label, tasks};
use crate::text::number;

const STEP: i32 = 42;
const HEADING: i32 = 24;
const LEFT: i32 = 8;

/// The charts of figures that can be compared between tasks.
pub(super) fn charts(rows: &[EvalRow]) -> Result<Vec<Chart>, ReportError> {
    let rows: Vec<&EvalRow> = rows.iter().collect();
    Ok(vec![
        bars("tpf.svg", "Tokens per forward pass", &rows, |row| Some((row.tpf?, row.tpf_interval)))?,
        bars("iterations.svg", "Forward passes per token", &rows, |row| {
            let inverse = |i: Interval| Interval { low: 1.0 / i.high, high: 1.0 / i.low };
            Some((1.0 / row.tpf?, row.tpf_interval.filter(|i| i.low > 0.0).map(inverse)))
        })?,
    ])
}

/// Tokens per second.
pub(super) fn speed(rows: &[&EvalRow]) -> Result<Chart, ReportError> {
    bars("speed.svg", "Tokens per second, decoding only", rows, |row| Some((row.tps?, row.tps_interval)))
}

/// A figure and its interval.
type Value = (f64, Option<Interval>);

/// One bar per row under its name, with its value at the end, grouped by task if there are several. A line
/// over the end of a bar is the interval.
fn bars(
    file: &str,
    title: &str,
    rows: &[&EvalRow],
    value: fn(&EvalRow) -> Option<Value>,
) -> Result<Chart, ReportError> {
    let right = WIDTH as i32 - 64;
    let highest = |(value, interval): Value| interval.map_or(value, |interval| interval.high.max(value));
    let largest = rows.iter().filter_map(|row| value(row).map(highest)).fold(f64::MIN_POSITIVE, f64::max);
    let place = |value: f64| LEFT + (f64::from(right - LEFT) * value / largest).round() as i32;
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
                let measured = value(row);
                let end = place(measured.map_or(0.0, |(value, _)| value));
                let bar = Rectangle::new([(LEFT, top + 19), (end, top + 35)], role_color(row).filled());
                area.draw(&bar)?;
                if let Some((_, Some(interval))) = measured {
                    whisker(area, [interval.low, interval.high].map(place), top + 27)?;
                }
                let beyond = place(measured.map_or(0.0, highest)) + 8;
                let text = number(measured.map(|(value, _)| value));
                write(area, &text, (beyond, top + 27), TEXT, HPos::Left)?;
                top += STEP;
            }
        }
        Ok(())
    })
}

/// An interval: a line with a stroke at both ends.
fn whisker(area: &Area, [low, high]: [i32; 2], y: i32) -> DrawResult {
    for line in [[(low, y), (high, y)], [(low, y - 4), (low, y + 4)], [(high, y - 4), (high, y + 4)]] {
        area.draw(&PathElement::new(line, TEXT))?;
    }
    Ok(())
}
