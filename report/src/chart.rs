//! SVG charts, drawn without system fonts. Colours are attributes for a white background; within
//! `report.html`, `style.css` maps them to dark colours.

use std::ops::Range;

use jacobi_datasets::schema::eval_row::{EvalRow, ModelRole};
use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::ReportError;
use crate::table::tasks;

mod bars;
mod frontier;
mod lines;
mod passes;
pub(crate) mod training;
pub(crate) mod tune;

const WIDTH: u32 = 480;
const FONT: &str = "system-ui, -apple-system, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif";
/// Height of a line of text in legends and lists.
const LINE: i32 = 22;
/// Height of the axes with their titles.
const PLOT_HEIGHT: i32 = 270;

const TEXT: RGBColor = RGBColor(0x1f, 0x29, 0x37);
const FAINT: RGBColor = RGBColor(0x6b, 0x72, 0x80);
const GRID: RGBColor = RGBColor(0xe5, 0xe7, 0xeb);
const BASE: RGBColor = RGBColor(0x94, 0xa3, 0xb8);
const TRAINED: RGBColor = RGBColor(0x25, 0x63, 0xeb);
const THIRD: RGBColor = RGBColor(0xd9, 0x77, 0x06);
const FOURTH: RGBColor = RGBColor(0x0d, 0x94, 0x88);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Plot<'a> = ChartContext<'a, SVGBackend<'a>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;
type Failure = Box<dyn std::error::Error + Send + Sync>;
type DrawResult = Result<(), Failure>;

/// A finished chart.
pub(crate) struct Chart {
    /// File name.
    pub(crate) file: String,
    /// Heading, and description for screen readers.
    pub(crate) title: String,
    /// Its task, if there are charts of several tasks.
    pub(crate) task: Option<String>,
    /// The drawing.
    pub(crate) svg: String,
}

/// All charts of the rows: first those that compare tasks, then those of each task.
pub(crate) fn charts(rows: &[EvalRow]) -> Result<Vec<Chart>, ReportError> {
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let mut charts = bars::charts(rows)?;
    let tasks = tasks(rows);
    for &task in &tasks {
        let of_task: Vec<&EvalRow> = rows.iter().filter(|row| row.task == task).collect();
        let about = [bars::speed(&of_task)?].into_iter().chain(frontier::chart(rows, task)?);
        let about = about.chain(passes::charts(&of_task)?);
        match tasks.len() {
            1 => charts.extend(about),
            _ => charts.extend(about.map(|chart| chart.about(task))),
        }
    }
    Ok(charts)
}

impl Chart {
    /// Its file name and content.
    pub(crate) fn as_file(&self) -> (&str, &str) {
        (&self.file, &self.svg)
    }

    /// The chart with its task, for charts of several tasks.
    fn about(self, task: &str) -> Self {
        let stem = self.file.trim_end_matches(".svg");
        Self { file: format!("{stem}-{}.svg", slug(task)), task: Some(task.to_owned()), ..self }
    }
}

fn draw(
    file: &str,
    title: &str,
    height: i32,
    paint: impl FnOnce(&Area) -> DrawResult,
) -> Result<Chart, ReportError> {
    let mut svg = String::new();
    let painted = {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, height.unsigned_abs())).into_drawing_area();
        area.fill(&WHITE).map_err(Into::into).and_then(|()| paint(&area)).and_then(|()| Ok(area.present()?))
    };
    painted.map_err(|source| ReportError::Chart { chart: file.to_owned(), source })?;
    Ok(Chart { file: file.to_owned(), title: title.to_owned(), task: None, svg })
}

fn role_color(row: &EvalRow) -> RGBColor {
    if row.model_role == ModelRole::Base { BASE } else { TRAINED }
}

fn write(area: &Area, text: &str, at: (i32, i32), color: RGBColor, anchor: HPos) -> DrawResult {
    let style = (FONT, 16).into_font().color(&color).pos(Pos::new(anchor, VPos::Center));
    Ok(area.draw(&Text::new(text.to_owned(), at, style))?)
}

/// Names with their colours, in as many lines as needed.
struct Legend<'a> {
    /// Position, name and colour of each square.
    places: Vec<(i32, i32, &'a str, RGBColor)>,
    height: i32,
}

impl<'a> Legend<'a> {
    fn of(series: impl IntoIterator<Item = (&'a str, RGBColor)>) -> Self {
        let (mut x, mut y) = (12, 15);
        let mut places = Vec::new();
        for (name, color) in series {
            let width = 18 + name.chars().count() as i32 * 8 + 16;
            if x > 12 && x + width > WIDTH as i32 {
                (x, y) = (12, y + LINE);
            }
            places.push((x, y, name, color));
            x += width;
        }
        Self { places, height: y + LINE / 2 + 2 }
    }

    fn draw(&self, area: &Area) -> DrawResult {
        for &(x, y, name, color) in &self.places {
            area.draw(&Rectangle::new([(x, y - 6), (x + 12, y + 6)], color.filled()))?;
            write(area, name, (x + 18, y), TEXT, HPos::Left)?;
        }
        Ok(())
    }
}

/// Ranges and labels of the axes.
struct Axes<'a> {
    x: Range<f64>,
    y: Range<f64>,
    x_title: &'a str,
    x_ticks: usize,
    y_label: fn(f64) -> String,
}

/// Draws axes below the first `top` pixels.
fn plot<'a>(area: &Area<'a>, top: i32, axes: Axes) -> Result<Plot<'a>, Failure> {
    let body = area.margin(top, 4, 4, 24);
    let mut chart = ChartBuilder::on(&body)
        .x_label_area_size(40)
        .y_label_area_size(48)
        .build_cartesian_2d(axes.x, axes.y)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(GRID)
        .label_style((FONT, 15).into_font().color(&FAINT))
        .x_labels(axes.x_ticks)
        .y_labels(6)
        .x_desc(axes.x_title)
        .x_label_formatter(&|x| if x.fract() == 0.0 { format!("{x:.0}") } else { String::new() })
        .y_label_formatter(&|y| (axes.y_label)(*y))
        .draw()?;
    Ok(chart)
}

fn percent_of(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

/// A label as part of a file name.
fn slug(label: &str) -> String {
    label.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect()
}

#[cfg(test)]
mod tests;
