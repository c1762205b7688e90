//! Training: its cost, the evaluations during it, the curves. A section of a report, and a separate page for
//! a run that is not evaluated yet.

use std::path::Path;

use crate::chart::{Chart, training::charts};
use crate::metrics::{EvaluationPoint, TrainingCurve};
use crate::passes::Statistic;
use crate::table::Table;
use crate::text::{number, percent};
use crate::write::write_files;
use crate::{ReportError, html, markdown};

/// Maximum number of listed evaluations of a curve: the first, the last, and others at even distances.
const LISTED: usize = 12;

/// Writes `training.md`, `training.html` and their charts into `dir`, which is created if missing.
///
/// # Errors
/// The directory or a file in it cannot be written, or a chart cannot be drawn.
pub fn write_training(dir: &Path, curves: &[TrainingCurve]) -> Result<(), ReportError> {
    let charts = charts(curves)?;
    write_files(dir, charts.iter().map(Chart::as_file))?;
    let markdown = format!("# Training\n\n{}", markdown::training(curves, &charts));
    let body = format!("<h1>Training</h1>\n{}", html::training(curves, &charts));
    let page = html::page("Training", &body);
    write_files(dir, [("training.md", &*markdown), ("training.html", &*page)])
}

/// The evaluations during training, for a terminal; empty without evaluations.
pub fn training_table(curves: &[TrainingCurve]) -> String {
    evaluations(curves).map_or_else(String::new, |evaluations| evaluations.table.terminal())
}

/// The evaluations during training, as a table of the report.
pub(crate) fn evaluations(curves: &[TrainingCurve]) -> Option<Statistic> {
    let header = ["run", "steps", "samples", "TPF", "exact match", "AR loss"];
    let line = |curve: &TrainingCurve, at: &EvaluationPoint| {
        vec![
            curve.label.clone(),
            at.step.to_string(),
            curve.samples(at.step).to_string(),
            number(Some(at.tpf)),
            percent(at.exact_match_ar),
            number(at.loss_ar),
        ]
    };
    let of_curve = |curve: &TrainingCurve| -> Vec<Vec<String>> {
        chosen(&curve.evaluations).into_iter().map(|at| line(curve, at)).collect()
    };
    let rows: Vec<Vec<String>> = curves.iter().flat_map(of_curve).collect();
    (!rows.is_empty()).then(|| Statistic {
        heading: "Evaluations during training",
        note: "Held-out prompts answered by Jacobi decoding with the weights of that step: few prompts, so a trend and \
               not a result.",
        table: Table { left: 1, ..Table::of(&header, rows) },
    })
}

fn chosen(evaluations: &[EvaluationPoint]) -> Vec<&EvaluationPoint> {
    if evaluations.len() <= LISTED {
        return evaluations.iter().collect();
    }
    let last = evaluations.len() - 1;
    (0..LISTED).map(|index| &evaluations[index * last / (LISTED - 1)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::curve;

    #[test]
    fn a_run_that_is_not_evaluated_has_a_page_of_its_training() {
        let dir = tempfile::tempdir().unwrap();
        write_training(&dir.path().join("training"), &[curve("round-1", 20)]).unwrap();
        let read = |name: &str| fs_err::read_to_string(dir.path().join("training").join(name)).unwrap();
        let text = read("training.md");
        for part in [
            "# Training\n\n- round-1: 20 steps, 160 samples, 3.0 h, loss 2.25 to 0.15",
            "| round-1 | 20 | 160 | 2.00 | 100 % | – |\n",
            "![Tokens per forward pass of held-out prompts, by samples trained on](training-tpf-samples.svg)",
        ] {
            assert!(text.contains(part), "missing {part:?} in:\n{text}");
        }
        let page = read("training.html");
        assert!(
            page.contains("<svg") && page.contains("Evaluations during training") && !page.contains("src=")
        );
        assert!(
            read("training-tpf-samples.svg").starts_with("<svg") && read("loss-round-1.svg").contains("step")
        );
    }

    #[test]
    fn at_most_twelve_evaluations_are_listed() {
        let mut curve = curve("a", 300);
        let at = |step: u64| EvaluationPoint { step, ..curve.evaluations[0] };
        curve.evaluations = (0..=100).map(at).collect();
        let steps: Vec<u64> = chosen(&curve.evaluations).iter().map(|at| at.step).collect();
        assert_eq!(steps, [0, 9, 18, 27, 36, 45, 54, 63, 72, 81, 90, 100]);
        assert_eq!(training_table(&[curve]).lines().count(), 14);
        assert_eq!(training_table(&[]), "");
    }
}
