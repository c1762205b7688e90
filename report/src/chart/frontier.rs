//! The speed-quality frontier: every decoder of every model as a point, with a line through the best.

use jacobi_datasets::schema::eval_row::EvalRow;
use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

use super::{
    Area, Axes, Chart, DrawResult, GRID, LINE, PLOT_HEIGHT, TEXT, THIRD, draw, percent_of, plot, role_color,
    write,
};
use crate::ReportError;
use crate::table::model_label;

/// Space above the axes, for the numbers of points.
const TOP: i32 = 12;

struct Place {
    tps: f64,
    accuracy: f64,
    color: RGBColor,
    label: String,
}

/// Accuracy over tokens per second on one task, if it has accuracies. Points are numbered and named in a list
/// below: names at the points would overlap.
pub(super) fn chart(rows: &[EvalRow], task: &str) -> Result<Option<Chart>, ReportError> {
    let places = places(rows, task);
    if places.is_empty() {
        return Ok(None);
    }
    frontier(&format!("Accuracy over tokens per second, {task}"), &places).map(Some)
}

fn places(rows: &[EvalRow], task: &str) -> Vec<Place> {
    let place = |row: &EvalRow| {
        let label = format!("{}  {}", model_label(row, rows), row.decoder_label());
        Some(Place { tps: row.tps?, accuracy: row.accuracy?, color: role_color(row), label })
    };
    rows.iter().filter(|row| row.task == task).filter_map(place).collect()
}

fn frontier(title: &str, places: &[Place]) -> Result<Chart, ReportError> {
    let fastest = places.iter().map(|place| place.tps).fold(f64::MIN_POSITIVE, f64::max);
    let accuracies = || places.iter().map(|place| place.accuracy);
    // At least a tenth, so that a difference of one prompt looks small.
    let (low, high) = (accuracies().fold(1.0, f64::min), accuracies().fold(0.0, f64::max));
    let room = ((high - low) * 0.2).max(0.05);
    let (low, high) = ((low - room).max(-0.02), high + room);
    let names_at = TOP + PLOT_HEIGHT;
    draw("frontier.svg", title, names_at + LINE * places.len() as i32 + 12, |area| {
        let (upper, _) = area.split_vertically(names_at);
        let axes = Axes {
            x: 0.0..fastest * 1.08,
            y: low..high,
            x_title: "tokens per second, decoding only",
            x_ticks: 8,
            // The margins for the numbers above points and for the lower halves of points are not shares.
            y_label: |share| match share {
                -1e-9..1.000_000_001 => percent_of(share),
                _ => String::new(),
            },
        };
        let mut chart = plot(&upper, TOP, axes)?;
        let steps = unbeaten(places);
        chart.draw_series(LineSeries::new(steps, THIRD.stroke_width(2)))?;
        let mut taken: Vec<(i32, i32)> = Vec::new();
        for (index, place) in places.iter().enumerate() {
            let at = (place.tps, place.accuracy);
            chart.draw_series([Circle::new(at, 5, place.color.filled())])?;
            let pixel = chart.backend_coord(&at);
            let spot = free_spot(pixel, &taken);
            taken.push(spot);
            if (spot.1 - pixel.1).abs() > 16 {
                area.draw(&PathElement::new([pixel, (spot.0, spot.1 + 8)], GRID))?;
            }
            write(area, &(index + 1).to_string(), spot, TEXT, HPos::Center)?;
        }
        names(area, places, names_at)
    })
}

/// The lowest place above a point where its number does not overlap another.
fn free_spot((x, y): (i32, i32), taken: &[(i32, i32)]) -> (i32, i32) {
    let free =
        |spot: &(i32, i32)| taken.iter().all(|t| (t.0 - spot.0).abs() > 18 || (t.1 - spot.1).abs() > 14);
    (0..).map(|step| (x, y - 15 - 15 * step)).find(free).unwrap_or((x, y - 15))
}

/// The Pareto frontier as a staircase: its corners, from the fastest point to the most accurate.
fn unbeaten(places: &[Place]) -> Vec<(f64, f64)> {
    let mut by_speed: Vec<&Place> = places.iter().collect();
    by_speed.sort_by(|a, b| b.tps.total_cmp(&a.tps).then(b.accuracy.total_cmp(&a.accuracy)));
    let mut steps: Vec<(f64, f64)> = Vec::new();
    for place in by_speed {
        match steps.last() {
            Some(&(_, best)) if place.accuracy <= best => {}
            Some(&(_, best)) => steps.extend([(place.tps, best), (place.tps, place.accuracy)]),
            None => steps.push((place.tps, place.accuracy)),
        }
    }
    if let Some(&(_, best)) = steps.last() {
        steps.push((0.0, best));
    }
    steps
}

/// The list of numbers and names.
fn names(area: &Area, places: &[Place], top: i32) -> DrawResult {
    for (index, place) in places.iter().enumerate() {
        let y = top + LINE * index as i32 + LINE / 2;
        area.draw(&Circle::new((22, y), 5, place.color.filled()))?;
        write(area, &(index + 1).to_string(), (46, y), TEXT, HPos::Right)?;
        write(area, &place.label, (58, y), TEXT, HPos::Left)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::rows;

    fn at(tps: f64, accuracy: f64) -> Place {
        Place { tps, accuracy, color: TEXT, label: String::new() }
    }

    #[test]
    fn the_frontier_holds_the_undominated_points() {
        let places = [at(10.0, 0.9), at(30.0, 0.8), at(20.0, 0.7), at(30.0, 0.75), at(5.0, 0.9)];
        assert_eq!(unbeaten(&places), [(30.0, 0.8), (10.0, 0.8), (10.0, 0.9), (0.0, 0.9)]);
        assert!(unbeaten(&[]).is_empty());
    }

    #[test]
    fn numbers_of_points_never_overlap() {
        let mut taken = Vec::new();
        for _ in 0..4 {
            let spot = free_spot((100, 100), &taken);
            assert!(taken.iter().all(|&(_, y): &(i32, i32)| (y - spot.1).abs() > 14));
            taken.push(spot);
        }
        assert_eq!(free_spot((200, 100), &taken), (200, 85));
    }

    #[test]
    fn a_task_without_accuracies_has_no_frontier() {
        let mut rows = rows();
        assert!(chart(&rows, "gsm8k").unwrap().unwrap().title.ends_with("gsm8k"));
        assert!(chart(&rows, "mbpp").unwrap().is_none());
        for row in &mut rows {
            row.accuracy = None;
        }
        assert!(chart(&rows, "gsm8k").unwrap().is_none());
    }
}
