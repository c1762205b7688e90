//! The charts of tuning: time of a forward pass by width, and the objective by block size and width.

use jacobi_datasets::schema::tuned::{Latency, Objective, Trial, Trials};
use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

use super::{Area, BASE, Chart, DrawResult, FAINT, FONT, GRID, Legend, TEXT, THIRD, TRAINED, draw, write};
use crate::ReportError;
use crate::text::number;

const HEIGHT: i32 = 340;

/// Colours of the contour, worst first.
const BANDS: [RGBColor; 7] = [
    RGBColor(0xef, 0xf6, 0xff),
    RGBColor(0xdb, 0xea, 0xfe),
    RGBColor(0xbf, 0xdb, 0xfe),
    RGBColor(0x93, 0xc5, 0xfd),
    RGBColor(0x60, 0xa5, 0xfa),
    RGBColor(0x3b, 0x82, 0xf6),
    RGBColor(0x1d, 0x4e, 0xd8),
];

/// All charts of the trials.
pub(crate) fn charts(trials: &Trials) -> Result<Vec<Chart>, ReportError> {
    let mut charts = Vec::new();
    if !trials.latency.widths.is_empty() {
        charts.push(latency(&trials.latency)?);
    }
    let places = places(trials);
    if !places.is_empty() {
        charts.push(contour(&places, trials.objective)?);
    }
    Ok(charts)
}

/// Milliseconds by rows, both on a log scale, with the knee.
fn latency(latency: &Latency) -> Result<Chart, ReportError> {
    let points: Vec<(f64, f64)> =
        latency.widths.iter().map(|w| ((w.rows as f64).log2(), (w.seconds * 1000.0).log2())).collect();
    let (first, last) = (points[0], points[points.len() - 1]);
    let height = |pick: fn(f64, f64) -> f64| points.iter().map(|p| p.1).fold(first.1, pick);
    let (low, high) = (height(f64::min).floor() - 0.2, height(f64::max).ceil() + 0.2);
    let knee = (latency.knee as f64).log2();
    let knee_label = format!("knee, width {}", latency.knee);
    let series = [("a forward pass", TRAINED), ("if width were free", BASE), (&*knee_label, THIRD)];
    let legend = Legend::of(series);
    draw("tune-latency.svg", "Forward pass by width", HEIGHT, |area| {
        legend.draw(area)?;
        let body = area.margin(legend.height, 4, 4, 24);
        let mut chart = ChartBuilder::on(&body)
            .x_label_area_size(40)
            .y_label_area_size(60)
            .build_cartesian_2d(0.0..last.0.max(1.0), low..high)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(GRID)
            .label_style((FONT, 15).into_font().color(&FAINT))
            .x_labels(points.len() + 1)
            .y_labels((high - low).ceil() as usize)
            .x_desc("rows of the pass")
            .y_desc("ms")
            .x_label_formatter(&power)
            .y_label_formatter(&|y| number(Some(y.exp2())))
            .draw()?;
        let mut line = |points: Vec<(f64, f64)>, color: RGBColor| -> DrawResult {
            chart.draw_series(LineSeries::new(points, color.stroke_width(2)))?;
            Ok(())
        };
        line(vec![(0.0, first.1), (last.0, first.1)], BASE)?;
        line(vec![(knee, low), (knee, high)], THIRD)?;
        line(points.clone(), TRAINED)?;
        chart.draw_series(points.iter().map(|&point| Circle::new(point, 4, TRAINED.filled())))?;
        Ok(())
    })
}

/// `8` at 3.0; nothing between whole powers of two.
fn power(exponent: &f64) -> String {
    if exponent.fract() == 0.0 { format!("{:.0}", exponent.exp2()) } else { String::new() }
}

/// A decoder at the logarithms of its block size and mean width, with its score.
struct Place {
    x: f64,
    y: f64,
    score: f64,
    /// Whether it is the best decoder.
    is_best: bool,
}

fn places(trials: &Trials) -> Vec<Place> {
    let chosen = trials.chosen();
    let place = |trial: &Trial| {
        let (x, y) = (trial.setting("block_size")?.log2(), trial.rows_per_forward()?.log2());
        let is_best = chosen.is_some_and(|chosen| std::ptr::eq(chosen, trial));
        Some(Place { x, y, score: trial.score(trials.objective)?, is_best })
    };
    trials.trials.iter().filter_map(place).collect()
}

/// The score at (x, y), interpolated with inverse-distance weights.
fn field(places: &[Place], x: f64, y: f64) -> f64 {
    let weight = |place: &Place| 1.0 / ((place.x - x).powi(2) + (place.y - y).powi(2) + 1e-3).powi(2);
    let sum: f64 = places.iter().map(weight).sum();
    places.iter().map(|place| place.score * weight(place)).sum::<f64>() / sum
}

/// The objective over block size and rows per pass, interpolated between the measured decoders, in bands.
fn contour(places: &[Place], objective: Objective) -> Result<Chart, ReportError> {
    const CELLS: usize = 56;
    let title = match objective {
        Objective::Tps => "Speedup over ar by block size and rows per pass",
        Objective::Tpf => "Tokens per forward pass by block size and rows per pass",
    };
    let range = |get: fn(&Place) -> f64| {
        let (low, high) = places
            .iter()
            .map(get)
            .fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(value), high.max(value)));
        (low, high.max(low + 1e-9))
    };
    let (worst, best) = range(|place| place.score);
    let (xs, ys) = (range(|place| place.x), range(|place| place.y));
    let (xs, ys) =
        ((xs.0.floor() - 0.5, xs.1.ceil() + 0.5), (ys.0.floor(), ys.1.ceil().max(ys.0.floor() + 1.0)));
    let band = |score: f64| {
        let share = (score - worst) / (best - worst);
        ((share * BANDS.len() as f64) as usize).min(BANDS.len() - 1)
    };
    draw("tune-contour.svg", title, HEIGHT, |area| {
        scale(area, worst, best)?;
        let body = area.margin(12, 4, 4, 92);
        let mut chart = ChartBuilder::on(&body)
            .x_label_area_size(40)
            .y_label_area_size(60)
            .build_cartesian_2d(xs.0..xs.1, ys.0..ys.1)?;
        let step = |(low, high): (f64, f64)| (high - low) / CELLS as f64;
        let (dx, dy) = (step(xs), step(ys));
        for row in 0..CELLS {
            let y = ys.0 + dy * row as f64;
            let bands: Vec<usize> = (0..CELLS)
                .map(|cell| band(field(places, xs.0 + dx * (cell as f64 + 0.5), y + dy / 2.0)))
                .collect();
            let mut x = xs.0;
            for run in bands.chunk_by(|a, b| a == b) {
                let end = x + dx * run.len() as f64;
                chart.draw_series([Rectangle::new([(x, y), (end, y + dy)], BANDS[run[0]].filled())])?;
                x = end;
            }
        }
        chart
            .configure_mesh()
            .disable_mesh()
            .axis_style(GRID)
            .label_style((FONT, 15).into_font().color(&FAINT))
            .x_labels((xs.1 - xs.0) as usize + 2)
            .y_labels((ys.1 - ys.0) as usize + 2)
            .x_desc("block size")
            .y_desc("rows of a pass, mean")
            .x_label_formatter(&power)
            .y_label_formatter(&power)
            .draw()?;
        for place in places {
            let (color, radius) = if place.is_best { (THIRD, 7) } else { (WHITE, 4) };
            chart.draw_series([Circle::new((place.x, place.y), radius, color.filled())])?;
            chart.draw_series([Circle::new((place.x, place.y), radius, TEXT)])?;
        }
        Ok(())
    })
}

/// The colour scale, best on top.
fn scale(area: &Area, worst: f64, best: f64) -> DrawResult {
    const LEFT: i32 = super::WIDTH as i32 - 80;
    const STEP: i32 = 26;
    for (index, color) in BANDS.iter().enumerate() {
        let bottom = 16 + STEP * (BANDS.len() - index) as i32;
        area.draw(&Rectangle::new([(LEFT, bottom - STEP), (LEFT + 16, bottom)], color.filled()))?;
    }
    for index in 0..=BANDS.len() {
        let value = worst + (best - worst) * index as f64 / BANDS.len() as f64;
        let at = 16 + STEP * (BANDS.len() - index) as i32;
        write(area, &number(Some(value)), (LEFT + 24, at), FAINT, HPos::Left)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::trials;

    #[test]
    fn both_charts_carry_their_labels() {
        let charts = charts(&trials()).unwrap();
        let files: Vec<&str> = charts.iter().map(|chart| chart.file.as_str()).collect();
        assert_eq!(files, ["tune-latency.svg", "tune-contour.svg"]);
        for part in ["knee, width 16", "rows of the pass", "\n32\n"] {
            assert!(charts[0].svg.contains(part), "{part}");
        }
        for part in ["block size", "rows of a pass, mean", "1.50", "0.50"] {
            assert!(charts[1].svg.contains(part), "{part}");
        }
    }

    #[test]
    fn few_trials_still_give_charts() {
        let mut trials = trials();
        trials.trials.truncate(1);
        trials.latency.widths.truncate(1);
        assert_eq!(charts(&trials).unwrap().len(), 2);
        trials.trials.clear();
        trials.latency.widths.clear();
        assert_eq!(charts(&trials).unwrap().len(), 0);
    }

    #[test]
    fn the_interpolation_equals_the_measurements_at_their_places() {
        let place = |x, y, score| Place { x, y, score, is_best: false };
        let places = [place(2.0, 2.0, 1.0), place(4.0, 5.0, 3.0)];
        assert!((field(&places, 2.0, 2.0) - 1.0).abs() < 0.01);
        assert!((field(&places, 4.0, 5.0) - 3.0).abs() < 0.01);
        assert!((field(&places, 3.0, 3.5) - 2.0).abs() < 0.01);
    }
}
