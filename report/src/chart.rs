//! SVG charts, drawn without system fonts. Colours are plain attributes that look right on white; `style.css` maps the
//! same attributes to dark colours when a chart stands inside `report.html`.

use std::ops::Range;

use jacobi_datasets::schema::eval_row::{EvalRow, ModelRole};
use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::ReportError;
use crate::figures::Compared;
use crate::metrics::{TrainingCurve, TrainingPoint};
use crate::passes;
use crate::table::{model_label, tasks};
use crate::text::number;

mod frontier;
pub(crate) mod tune;

const WIDTH: u32 = 480;
const FONT: &str = "system-ui, -apple-system, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif";

const TEXT: RGBColor = RGBColor(0x1f, 0x29, 0x37);
const FAINT: RGBColor = RGBColor(0x6b, 0x72, 0x80);
const GRID: RGBColor = RGBColor(0xe5, 0xe7, 0xeb);
const BASE: RGBColor = RGBColor(0x94, 0xa3, 0xb8);
const TRAINED: RGBColor = RGBColor(0x25, 0x63, 0xeb);
const THIRD: RGBColor = RGBColor(0xd9, 0x77, 0x06);

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
    /// The drawing.
    pub(crate) svg: String,
}

/// Every chart the rows and curves give.
pub(crate) fn charts(rows: &[EvalRow], training: &[TrainingCurve]) -> Result<Vec<Chart>, ReportError> {
    let mut charts = vec![
        bars("tpf.svg", "Tokens per forward pass", rows, |row| row.tpf)?,
        bars("iterations.svg", "Forward passes per token", rows, |row| row.tpf.map(|tpf| 1.0 / tpf))?,
        bars("speed.svg", "Tokens per second, decoding only", rows, |row| row.tps)?,
    ];
    charts.extend(frontier::frontiers(rows)?);
    // The two rows that the headline of the first task compares: more lines and bars could not be told apart.
    let compared = Compared::by_task(rows);
    let mut parallel: Vec<&EvalRow> =
        compared.iter().take(1).flat_map(|c| [c.base_parallel, c.after_parallel]).flatten().collect();
    parallel.dedup();
    parallel.retain(|row| row.acceptance.iter().any(|&count| count > 0));
    if !parallel.is_empty() {
        charts.push(acceptance(&parallel)?);
        charts.extend(positions(&parallel)?);
        charts.extend(widths(&parallel)?);
        charts.extend(ranks(&parallel)?);
    }
    for curve in training {
        charts.extend(loss(curve)?);
    }
    Ok(charts)
}

fn draw(
    file: &str,
    title: &str,
    height: u32,
    paint: impl FnOnce(&Area) -> DrawResult,
) -> Result<Chart, ReportError> {
    let mut svg = String::new();
    let painted = {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        area.fill(&WHITE).map_err(Into::into).and_then(|()| paint(&area)).and_then(|()| Ok(area.present()?))
    };
    painted.map_err(|source| ReportError::Chart { chart: file.to_owned(), source })?;
    Ok(Chart { file: file.to_owned(), title: title.to_owned(), svg })
}

fn role_color(row: &EvalRow) -> RGBColor {
    if row.model_role == ModelRole::Trained { TRAINED } else { BASE }
}

fn write(area: &Area, text: &str, at: (i32, i32), color: RGBColor, anchor: HPos) -> DrawResult {
    let style = (FONT, 16).into_font().color(&color).pos(Pos::new(anchor, VPos::Center));
    Ok(area.draw(&Text::new(text.to_owned(), at, style))?)
}

/// Horizontal bars, one per row, each under its name with its value at the end; and under the name of their task where
/// there are several.
fn bars(
    file: &str,
    title: &str,
    rows: &[EvalRow],
    value: fn(&EvalRow) -> Option<f64>,
) -> Result<Chart, ReportError> {
    const STEP: i32 = 42;
    const LEFT: i32 = 8;
    let right = WIDTH as i32 - 64;
    let largest = rows.iter().filter_map(value).fold(f64::MIN_POSITIVE, f64::max);
    let tasks = tasks(rows);
    let headings = if tasks.len() > 1 { tasks.len() } else { 0 };
    let height = 8 + STEP * rows.len().max(1) as i32 + 24 * headings as i32;
    draw(file, title, height as u32, |area| {
        let mut top = 4;
        for task in tasks {
            if headings > 0 {
                write(area, task, (LEFT, top + 12), FAINT, HPos::Left)?;
                top += 24;
            }
            for row in rows.iter().filter(|row| row.task == task) {
                let name = format!("{}  {}", model_label(row, rows), row.decoder_label());
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

/// A row of coloured squares with names.
fn legend(area: &Area, series: &[(String, RGBColor)]) -> DrawResult {
    let mut x = 12;
    for (name, color) in series {
        area.draw(&Rectangle::new([(x, 9), (x + 12, 21)], color.filled()))?;
        write(area, name, (x + 18, 15), TEXT, HPos::Left)?;
        x += 18 + (name.chars().count() as i32 * 15) / 2 + 24;
    }
    Ok(())
}

/// Share of forwards by the number of tokens they accepted, one bar per decoder at each number.
fn acceptance(rows: &[&EvalRow]) -> Result<Chart, ReportError> {
    let colored: Vec<(String, RGBColor)> =
        rows.iter().map(|row| (decoder_name(row), role_color(row))).collect();
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
    draw("acceptance.svg", "Tokens accepted by one forward pass, share of passes", 300, |area| {
        legend(area, &colored)?;
        let axes = Axes {
            x: 0.5..most as f64 + 0.5,
            y: 0.0..top,
            x_title: "tokens accepted",
            x_ticks: most.min(16),
            y_label: percent_of,
        };
        let mut chart = plot(area, axes)?;
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
fn positions(rows: &[&EvalRow]) -> Result<Option<Chart>, ReportError> {
    let points = |row: &EvalRow| (1..).map(f64::from).zip(passes::reached(row)).collect();
    let chart = Lines {
        file: "positions.svg",
        title: "Draft right up to this position, share of passes",
        x_title: "position in the draft",
        y_label: percent_of,
        lines: lines_of(rows, points),
    };
    chart.draw()
}

/// Time of a pass by the rows fed.
fn widths(rows: &[&EvalRow]) -> Result<Option<Chart>, ReportError> {
    let points = |row: &EvalRow| passes::widths(row).values().map(|w| (w.rows, w.milliseconds)).collect();
    let chart = Lines {
        file: "widths.svg",
        title: "Milliseconds of one forward pass by the rows fed",
        x_title: "rows",
        y_label: |y| number(Some(y)),
        lines: lines_of(rows, points),
    };
    chart.draw()
}

/// How often the right token was among the most probable ones where a draft was wrong.
fn ranks(rows: &[&EvalRow]) -> Result<Option<Chart>, ReportError> {
    let points = |row: &EvalRow| (1..).map(f64::from).zip(passes::cumulative_ranks(row)).collect();
    let chart = Lines {
        file: "ranks.svg",
        title: "Right token among the k most probable, share of rejected drafts",
        x_title: "k",
        y_label: percent_of,
        lines: lines_of(rows, points),
    };
    chart.draw()
}

/// The loss and its parts over steps.
fn loss(curve: &TrainingCurve) -> Result<Option<Chart>, ReportError> {
    type Get = fn(&TrainingPoint) -> Option<f64>;
    const PARTS: [(&str, RGBColor, Get); 3] = [
        ("loss", TRAINED, |p| p.loss),
        ("autoregressive", THIRD, |p| p.loss_ar),
        ("consistency", BASE, |p| p.loss_pc),
    ];
    let points = |get: Get| curve.points.iter().filter_map(|p| Some((p.step as f64, get(p)?))).collect();
    let chart = Lines {
        file: &format!("loss-{}.svg", slug(&curve.label)),
        title: &format!("Training loss, {}", curve.label),
        x_title: "step",
        y_label: |y| number(Some(y)),
        lines: PARTS
            .iter()
            .map(|&(name, color, get)| Line { name: name.to_owned(), color, points: points(get) })
            .collect(),
    };
    chart.draw()
}

struct Line {
    name: String,
    color: RGBColor,
    points: Vec<(f64, f64)>,
}

/// A line per decoder.
fn lines_of(rows: &[&EvalRow], points: impl Fn(&EvalRow) -> Vec<(f64, f64)>) -> Vec<Line> {
    let line = |row: &&EvalRow| Line { name: decoder_name(row), color: role_color(row), points: points(row) };
    rows.iter().map(line).collect()
}

/// A line chart.
struct Lines<'a> {
    file: &'a str,
    title: &'a str,
    x_title: &'a str,
    y_label: fn(f64) -> String,
    lines: Vec<Line>,
}

impl Lines<'_> {
    /// None if there is nothing to join.
    fn draw(mut self) -> Result<Option<Chart>, ReportError> {
        self.lines.retain(|line| !line.points.is_empty());
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let (first, last) = points().fold((f64::MAX, f64::MIN), |(a, b), p| (a.min(p.0), b.max(p.0)));
        if first >= last {
            return Ok(None);
        }
        let top = points().map(|p| p.1).fold(f64::MIN_POSITIVE, f64::max);
        let names: Vec<_> = self.lines.iter().map(|line| (line.name.clone(), line.color)).collect();
        let chart = draw(self.file, self.title, 300, |area| {
            legend(area, &names)?;
            let (x, y) = (first..last, 0.0..top * 1.05);
            let axes = Axes { x, y, x_title: self.x_title, x_ticks: 8, y_label: self.y_label };
            let mut chart = plot(area, axes)?;
            for line in self.lines {
                chart.draw_series(LineSeries::new(line.points, line.color.stroke_width(2)))?;
            }
            Ok(())
        })?;
        Ok(Some(chart))
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

/// The axes below the legend, ready to draw on.
fn plot<'a>(area: &Area<'a>, axes: Axes) -> Result<Plot<'a>, Failure> {
    let body = area.margin(28, 4, 4, 24);
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

/// The decoder with its model's role, for legends.
fn decoder_name(row: &EvalRow) -> String {
    format!("{} {}", row.model_role.as_str(), row.decoder_label())
}

/// A label as a part of a file name.
fn slug(label: &str) -> String {
    label.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::rows;

    pub(crate) fn curve() -> TrainingCurve {
        let point = |step: u64| TrainingPoint {
            step,
            loss: Some(3.0 / step as f64),
            loss_ar: Some(1.0 / step as f64),
            loss_pc: Some(2.0 / step as f64),
            tokens_per_second: None,
        };
        TrainingCurve { label: "round 1/a".to_owned(), points: (1..=20).map(point).collect() }
    }

    #[test]
    fn every_chart_is_one_svg_with_its_labels() {
        let charts = charts(&rows(), &[curve()]).unwrap();
        let files: Vec<&str> = charts.iter().map(|chart| chart.file.as_str()).collect();
        assert_eq!(
            files,
            [
                "tpf.svg",
                "iterations.svg",
                "speed.svg",
                "frontier.svg",
                "acceptance.svg",
                "positions.svg",
                "widths.svg",
                "ranks.svg",
                "loss-round-1-a.svg"
            ]
        );
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
        assert!(svg("acceptance.svg").contains("tokens accepted"));
        assert!(svg("positions.svg").contains("position in the draft"));
        assert!(svg("widths.svg").contains("rows") && svg("ranks.svg").contains("80 %"));
        // The base model's ranks were not asked for.
        assert!(!svg("ranks.svg").contains("base jacobi"));
        assert!(svg("loss-round-1-a.svg").contains("consistency"));
    }

    #[test]
    fn nothing_measured_still_draws() {
        let mut rows = rows();
        for row in &mut rows {
            (row.tpf, row.tps, row.acceptance) = (None, None, Vec::new());
            (row.widths, row.rejection_ranks) = (Vec::new(), Vec::new());
        }
        let empty = TrainingCurve { label: "x".to_owned(), points: Vec::new() };
        let left = charts(&rows, &[empty]).unwrap();
        let files: Vec<&str> = left.iter().map(|chart| chart.file.as_str()).collect();
        assert_eq!(files, ["tpf.svg", "iterations.svg", "speed.svg"]);
        assert_eq!(charts(&[], &[]).unwrap().len(), 3);
    }

    #[test]
    fn bars_of_several_tasks_stand_under_their_names() {
        let mut rows = rows();
        assert!(!charts(&rows, &[]).unwrap()[0].svg.contains("gsm8k"));
        rows[0].task = "math500".to_owned();
        let svg = &charts(&rows, &[]).unwrap()[0].svg;
        assert!(svg.contains("gsm8k") && svg.contains("math500"));
    }

    #[test]
    fn hostile_names_are_escaped_in_svg() {
        let mut rows = rows();
        rows[0].decoder = "<script>".to_owned();
        assert!(!charts(&rows, &[]).unwrap()[0].svg.contains("<script>"));
    }
}
