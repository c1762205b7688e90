//! Charts of training: evaluations over samples and over steps, and the loss.

use plotters::prelude::*;

use super::lines::{Line, Lines};
use super::{BASE, Chart, FOURTH, THIRD, TRAINED, slug};
use crate::ReportError;
use crate::metrics::{EvaluationPoint, TrainingCurve, TrainingPoint};

const COLORS: [RGBColor; 4] = [TRAINED, THIRD, FOURTH, BASE];

/// Maximum number of points of a loss line; each is the mean of consecutive steps.
const LOSS_POINTS: usize = 120;

/// All charts of the curves.
pub(crate) fn charts(curves: &[TrainingCurve]) -> Result<Vec<Chart>, ReportError> {
    let title = "Tokens per forward pass of held-out prompts, by samples trained on";
    let samples = tpf(curves, "training-tpf-samples.svg", title, "samples trained on", |curve, at| {
        curve.samples(at.step) as f64
    });
    let title = "Tokens per forward pass of held-out prompts, by steps";
    let steps = tpf(curves, "training-tpf-steps.svg", title, "steps", |_, at| at.step as f64);
    let mut charts = Vec::from_iter(samples.draw()?);
    charts.extend(steps.draw()?);
    for curve in curves {
        charts.extend(loss(curve)?);
    }
    Ok(charts)
}

/// TPF at every evaluation, a line per curve.
fn tpf<'a>(
    curves: &[TrainingCurve],
    file: &'a str,
    title: &'a str,
    x_title: &'a str,
    x: fn(&TrainingCurve, &EvaluationPoint) -> f64,
) -> Lines<'a> {
    let line = |(curve, &color): (&TrainingCurve, &RGBColor)| {
        let point = |at: &EvaluationPoint| (x(curve, at), at.tpf);
        Line { name: curve.label.clone(), color, points: curve.evaluations.iter().map(point).collect() }
    };
    let lines = curves.iter().zip(COLORS.iter().cycle()).map(line).collect();
    Lines { y_from: 1.0, ..Lines::new(file, title, x_title, lines) }
}

/// The loss and its parts over steps.
fn loss(curve: &TrainingCurve) -> Result<Option<Chart>, ReportError> {
    type Get = fn(&TrainingPoint) -> Option<f64>;
    const PARTS: [(&str, RGBColor, Get); 3] = [
        ("loss", TRAINED, |p| p.loss),
        ("autoregressive", THIRD, |p| p.loss_ar),
        ("consistency", BASE, |p| p.loss_pc),
    ];
    let together = curve.points.len().div_ceil(LOSS_POINTS).max(1);
    let points = |get: Get| {
        let logged: Vec<(f64, f64)> =
            curve.points.iter().filter_map(|p| Some((p.step as f64, get(p)?))).collect();
        logged.chunks(together).map(mean).collect()
    };
    let means = if together > 1 { format!(", means of {together} logged steps") } else { String::new() };
    let line = |(name, color, get): (&str, RGBColor, Get)| Line {
        name: name.to_owned(),
        color,
        points: points(get),
    };
    let lines = PARTS.map(line).into();
    let title = format!("Training loss, {}{means}", curve.label);
    Lines::new(&format!("loss-{}.svg", slug(&curve.label)), &title, "step", lines).draw()
}

/// Mean of consecutive points.
fn mean(points: &[(f64, f64)]) -> (f64, f64) {
    let (x, y) = points.iter().fold((0.0, 0.0), |(x, y), point| (x + point.0, y + point.1));
    (x / points.len() as f64, y / points.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::curve;

    #[test]
    fn a_run_has_charts_of_tpf_and_of_its_loss() {
        let charts = charts(&[curve("round 1/a", 20), curve("round-2", 10)]).unwrap();
        let files: Vec<&str> = charts.iter().map(|chart| chart.file.as_str()).collect();
        let expected =
            ["training-tpf-samples.svg", "training-tpf-steps.svg", "loss-round-1-a.svg", "loss-round-2.svg"];
        assert_eq!(files, expected);
        let [samples, steps, loss, _] = &charts[..] else { unreachable!() };
        assert!(samples.svg.contains("samples trained on") && samples.svg.contains("round-2"));
        // 20 steps of 8 samples.
        let holds = |svg: &str, number: &str| svg.lines().any(|line| line == number);
        assert!(holds(&samples.svg, "150") && holds(&steps.svg, "20") && !holds(&steps.svg, "50"));
        assert!(loss.svg.contains("consistency") && !loss.title.contains("means"), "{}", loss.title);
    }

    #[test]
    fn missing_figures_have_no_chart() {
        assert!(charts(&[]).unwrap().is_empty());
        let mut curve = curve("a", 1);
        curve.evaluations.truncate(1);
        assert!(charts(&[curve]).unwrap().is_empty());
    }

    #[test]
    fn a_long_loss_is_drawn_as_means() {
        let title = |steps| charts(&[curve("a", steps)]).unwrap().swap_remove(2).title;
        assert_eq!(title(120), "Training loss, a");
        assert_eq!(title(121), "Training loss, a, means of 2 logged steps");
        assert_eq!(mean(&[(1.0, 2.0), (2.0, 4.0)]), (1.5, 3.0));
    }
}
