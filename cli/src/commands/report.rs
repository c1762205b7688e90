//! `jacobi report`: compares finished evaluations, or rewrites one report.

use std::path::{Path, PathBuf};

use jacobi_report::{TrainingCurve, terminal_table, training_table, write_report, write_training};

use crate::comparing::{MeasuredRun, differences, merge, training_in, training_of};
use crate::exit::UsageError;
use crate::output;
use crate::run_dir::{DirLock, RunDir, command_line};

/// Default directory of a comparison.
const COMPARISON: &str = "comparison";

/// Compare finished evaluations, or rewrite the report of one
///
/// Reads results.json, samples.jsonl and the training logs; measures nothing. Evaluations are comparable when questions,
/// dtype and machine are the same; models, decoders and seeds may differ. A directory without an evaluation (a run, or
/// the output of `train --output`) adds its training curves; without any evaluation the report shows the training alone.
#[derive(Debug, clap::Args)]
pub struct ReportArgs {
    /// Report directories, run directories, training directories
    #[arg(required = true, value_name = "DIR")]
    reports: Vec<PathBuf>,
    /// Output directory; by default `comparison`. A single report is rewritten in place; a report on training goes to
    /// `training` in its directory
    #[arg(long, short, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Compare even if the figures are not comparable
    #[arg(long)]
    anyway: bool,
}

/// Writes the report and prints the table.
///
/// # Errors
/// [`UsageError`] when evaluations cannot be compared; a report that cannot be read or written.
pub fn run(args: &ReportArgs) -> anyhow::Result<()> {
    let (trained, evaluated): (Vec<PathBuf>, Vec<PathBuf>) =
        args.reports.iter().cloned().partition(|dir| is_trained_only(dir));
    let alone = training_in(&trained)?;
    if evaluated.is_empty() {
        return report_training(args, &alone);
    }
    let runs = MeasuredRun::read_all(&evaluated)?;
    let differing = differences(&runs);
    if !differing.is_empty() && !args.anyway {
        return Err(UsageError(format!(
            "these evaluations cannot be compared:\n  {}\nmeasure them with the same settings, or give --anyway",
            differing.join("\n  ")
        ))
        .into());
    }
    let (target, results, samples) = match &runs[..] {
        [one] => (one.report.clone(), one.results.clone(), one.samples.clone()),
        _ => {
            let (results, samples) = merge(&runs, command_line(), &differing);
            (COMPARISON.into(), results, samples)
        }
    };
    let target = args.output.clone().unwrap_or(target);
    let _lock = DirLock::take(&target)?;
    let training: Vec<TrainingCurve> = training_of(&runs).into_iter().chain(alone).collect();
    write_report(&target, &results, &samples, &training)?;
    output::status(&format!("report in {}", target.display()));
    Ok(output::result(&terminal_table(&results.rows))?)
}

/// Whether a directory has a training run and no evaluation.
fn is_trained_only(dir: &Path) -> bool {
    let run = RunDir::new(dir);
    let is_evaluated = [dir, &run.report()].iter().any(|dir| dir.join("results.json").is_file());
    !is_evaluated && [dir, &run.round(1)].iter().any(|dir| dir.join("metrics.jsonl").is_file())
}

fn report_training(args: &ReportArgs, curves: &[TrainingCurve]) -> anyhow::Result<()> {
    let target = match (&args.output, &args.reports[..]) {
        (Some(output), _) => output.clone(),
        (None, [run]) => RunDir::new(run).training(),
        (None, _) => COMPARISON.into(),
    };
    write_training(&target, curves)?;
    output::status(&format!("not evaluated yet: a report of the training in {}", target.display()));
    Ok(output::result(&training_table(curves))?)
}
