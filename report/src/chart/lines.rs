//! Line charts of several series with a legend.

use plotters::prelude::*;

use super::{Axes, Chart, Legend, PLOT_HEIGHT, draw, plot};
use crate::ReportError;
use crate::text::number;

/// Lines of at most this many points have a marker at each point.
const MARKED: usize = 40;

/// One series.
pub(super) struct Line {
    pub(super) name: String,
    pub(super) color: RGBColor,
    pub(super) points: Vec<(f64, f64)>,
}

/// A line chart.
pub(super) struct Lines<'a> {
    pub(super) file: &'a str,
    pub(super) title: &'a str,
    pub(super) x_title: &'a str,
    /// Start of the y axis.
    pub(super) y_from: f64,
    pub(super) y_label: fn(f64) -> String,
    pub(super) lines: Vec<Line>,
}

impl<'a> Lines<'a> {
    /// A chart whose y axis starts at 0 and has plain numbers.
    pub(super) fn new(file: &'a str, title: &'a str, x_title: &'a str, lines: Vec<Line>) -> Self {
        Self { file, title, x_title, y_from: 0.0, y_label: |y| number(Some(y)), lines }
    }

    /// `None` if no line has two points to join.
    pub(super) fn draw(mut self) -> Result<Option<Chart>, ReportError> {
        self.lines.retain(|line| !line.points.is_empty());
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let (first, last) = points().fold((f64::MAX, f64::MIN), |(a, b), p| (a.min(p.0), b.max(p.0)));
        if first >= last {
            return Ok(None);
        }
        let top = points().map(|p| p.1).fold(f64::MIN_POSITIVE, f64::max).max(self.y_from);
        let bottom = points().map(|p| p.1).fold(self.y_from, f64::min);
        let legend = Legend::of(self.lines.iter().map(|line| (line.name.as_str(), line.color)));
        let chart = draw(self.file, self.title, legend.height + PLOT_HEIGHT, |area| {
            legend.draw(area)?;
            let (x, y) = (first..last, bottom..top + (top - bottom).max(0.01) * 0.05);
            let axes = Axes { x, y, x_title: self.x_title, x_ticks: 8, y_label: self.y_label };
            let mut chart = plot(area, legend.height, axes)?;
            for Line { color, points, .. } in &self.lines {
                chart.draw_series(LineSeries::new(points.iter().copied(), color.stroke_width(2)))?;
                if points.len() <= MARKED {
                    chart.draw_series(points.iter().map(|&at| Circle::new(at, 3, color.filled())))?;
                }
            }
            Ok(())
        })?;
        Ok(Some(chart))
    }
}
