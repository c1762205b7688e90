//! SVG charts, drawn without system fonts. Colours are plain attributes that look right on white; `style.css` maps the
//! same attributes to dark colours when a chart stands inside `report.html`.

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
/// Of text in a list, legends and names of points.
const LINE: i32 = 22;
/// Of the axes with their titles.
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
    /// What it shows, for a heading and for those who cannot see it.
    pub(crate) title: String,
    /// The task it is about, where there are charts of several.
    pub(crate) task: Option<String>,
    /// The drawing.
    pub(crate) svg: String,
}

/// Every chart that rows give: what tasks are compared in, then task by task.
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
    /// As one of several tasks.
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
    if row.model_role == ModelRole::Trained { TRAINED } else { BASE }
}

fn write(area: &Area, text: &str, at: (i32, i32), color: RGBColor, anchor: HPos) -> DrawResult {
    let style = (FONT, 16).into_font().color(&color).pos(Pos::new(anchor, VPos::Center));
    Ok(area.draw(&Text::new(text.to_owned(), at, style))?)
}

/// Names with their colours, in as many lines as they take.
struct Legend<'a> {
    /// Where each square stands.
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

/// What the axes of a chart cover, and how they are written.
struct Axes<'a> {
    x: Range<f64>,
    y: Range<f64>,
    x_title: &'a str,
    x_ticks: usize,
    y_label: fn(f64) -> String,
}

/// The axes below what takes up `top`, ready to draw on.
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

/// A label as a part of a file name.
fn slug(label: &str) -> String {
    label.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::rows;

    #[test]
    fn every_chart_is_one_svg_with_its_labels() {
        let charts = charts(&rows()).unwrap();
        let files: Vec<&str> = charts.iter().map(|chart| chart.file.as_str()).collect();
        let expected =
            ["tpf", "iterations", "speed", "frontier", "acceptance", "positions", "widths", "ranks"];
        assert_eq!(files, expected.map(|name| format!("{name}.svg")));
        let svg = |file: &str| &charts.iter().find(|chart| chart.file == file).unwrap().svg;
        for chart in &charts {
            assert!(
                chart.svg.starts_with("<svg") && chart.svg.trim_end().ends_with("</svg>"),
                "{}",
                chart.file
            );
        }
        assert!(svg("tpf.svg").contains("trained  jacobi n=16") && svg("tpf.svg").contains("2.71"));
        assert!(svg("iterations.svg").contains("0.37"));
        // A line and two ends over each bar, of those that have an interval.
        let mut bare = rows();
        bare.iter_mut().for_each(|row| row.tpf_interval = None);
        let lines = |svg: &str| svg.matches("<polyline").count();
        let bare = super::charts(&bare).unwrap();
        for (with, without) in charts[..2].iter().zip(&bare) {
            assert_eq!((lines(&with.svg), lines(&without.svg)), (12, 0), "{}", with.file);
        }
        assert!(svg("frontier.svg").contains("trained  jacobi n=16"));
        assert!(svg("acceptance.svg").contains("tokens accepted"));
        assert!(svg("positions.svg").contains("position in the draft"));
        assert!(svg("widths.svg").contains("rows") && svg("ranks.svg").contains("80 %"));
        // The base model's ranks were not asked for.
        assert!(!svg("ranks.svg").contains("base jacobi"));
    }

    #[test]
    fn nothing_measured_still_draws() {
        let mut rows = rows();
        for row in &mut rows {
            (row.tpf, row.tps, row.acceptance) = (None, None, Vec::new());
            (row.widths, row.rejection_ranks) = (Vec::new(), Vec::new());
        }
        let left = charts(&rows).unwrap();
        let files: Vec<&str> = left.iter().map(|chart| chart.file.as_str()).collect();
        assert_eq!(files, ["tpf.svg", "iterations.svg", "speed.svg"]);
        assert!(charts(&[]).unwrap().is_empty());
    }

    #[test]
    fn each_of_several_tasks_has_every_chart_of_its_own() {
        let mut rows = rows();
        assert!(!charts(&rows).unwrap()[0].svg.contains("gsm8k"));
        let second = rows.clone().into_iter().map(|row| EvalRow { task: "Math 500".to_owned(), ..row });
        rows.extend(second);
        let charts = charts(&rows).unwrap();
        assert!(charts[0].svg.contains("gsm8k") && charts[0].svg.contains("Math 500"));
        let of = |task: Option<&str>| -> Vec<&str> {
            charts.iter().filter(|c| c.task.as_deref() == task).map(|c| c.file.as_str()).collect()
        };
        assert_eq!(of(None), ["tpf.svg", "iterations.svg"]);
        let names = ["speed", "frontier", "acceptance", "positions", "widths", "ranks"];
        assert_eq!(of(Some("gsm8k")), names.map(|name| format!("{name}-gsm8k.svg")));
        assert_eq!(of(Some("Math 500")), names.map(|name| format!("{name}-math-500.svg")));
    }

    #[test]
    fn every_colour_has_another_in_the_dark() {
        let style = include_str!("style.css");
        for chart in charts(&rows()).unwrap() {
            for attribute in ["fill=\"#", "stroke=\"#"] {
                for rest in chart.svg.split(attribute).skip(1) {
                    let rule = format!("svg [{attribute}{}\"]", &rest[..6]);
                    assert!(style.contains(&rule), "{rule} of {} is missing", chart.file);
                }
            }
        }
    }

    #[test]
    fn hostile_names_are_escaped_in_svg() {
        let mut rows = rows();
        rows[0].decoder = "<script>".to_owned();
        assert!(!charts(&rows).unwrap()[0].svg.contains("<script>"));
    }

    #[test]
    fn a_legend_takes_the_lines_it_needs_and_stays_within_the_chart() {
        let long = "trained multi_block n=16 K=2 pool=4 tree=64";
        let lines = |names: &[&'static str]| {
            let legend = Legend::of(names.iter().map(|name| (*name, TEXT)));
            let end = |&(x, _, name, _): &(i32, i32, &str, RGBColor)| x + 18 + name.len() as i32 * 8;
            assert!(legend.places.iter().all(|place| end(place) <= WIDTH as i32));
            let mut lines: Vec<i32> = legend.places.iter().map(|(_, y, ..)| *y).collect();
            lines.dedup();
            lines.len()
        };
        assert_eq!((lines(&["a", "b"]), lines(&[long, long]), lines(&["a", long, "b", "c"])), (1, 2, 2));
    }
}
