//! `jacobi report`: finished evaluations side by side, or one report written anew.

use std::path::PathBuf;

use jacobi_report::{terminal_table, training_table, write_report, write_training};

use crate::comparing::{MeasuredRun, differences, merge, training_of};
use crate::exit::UsageError;
use crate::output;
use crate::pipeline::training_curves;
use crate::run_dir::{DirLock, RunDir, command_line};

/// Compare finished evaluations, or write the report of one anew
///
/// Reads results.json, samples.jsonl and what training logged; nothing is measured. Evaluations are compared when they
/// asked the same questions in the same dtype on the same machine; models, decoders and seeds may differ. A run that is
/// not evaluated yet has a report of its training.
#[derive(Debug, clap::Args)]
pub struct ReportArgs {
    /// Report directories, or run directories with a report in them
    #[arg(required = true, value_name = "DIR")]
    reports: Vec<PathBuf>,
    /// Where the comparison goes; by default comparison. The report of one goes where it was, that of its training into
    /// training of the run directory
    #[arg(long, short, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Compare although they differ in what makes figures comparable
    #[arg(long)]
    anyway: bool,
}

/// Writes the report and prints the table.
///
/// # Errors
/// [`UsageError`] when evaluations cannot be compared; a report that cannot be read or written.
pub fn run(args: &ReportArgs) -> anyhow::Result<()> {
    if let [dir] = &args.reports[..]
        && is_trained_only(&RunDir::new(dir))
    {
        return report_training(&RunDir::new(dir), args);
    }
    let runs = MeasuredRun::read_all(&args.reports)?;
    let unlike = differences(&runs);
    if !unlike.is_empty() && !args.anyway {
        return Err(UsageError(format!(
            "these evaluations cannot be compared:\n  {}\nmeasure them alike, or give --anyway",
            unlike.join("\n  ")
        ))
        .into());
    }
    let (target, results, samples) = match &runs[..] {
        [one] => (one.report.clone(), one.results.clone(), one.samples.clone()),
        _ => {
            let (results, samples) = merge(&runs, command_line(), &unlike);
            ("comparison".into(), results, samples)
        }
    };
    let target = args.output.clone().unwrap_or(target);
    let _lock = DirLock::take(&target)?;
    write_report(&target, &results, &samples, &training_of(&runs))?;
    output::status(&format!("report in {}", target.display()));
    Ok(output::result(&terminal_table(&results.rows))?)
}

/// Whether a run trained and is not evaluated.
fn is_trained_only(run: &RunDir) -> bool {
    let is_evaluated = [run.root(), &run.report()].iter().any(|dir| dir.join("results.json").is_file());
    !is_evaluated && run.round(1).join("metrics.jsonl").is_file()
}

fn report_training(run: &RunDir, args: &ReportArgs) -> anyhow::Result<()> {
    let curves = training_curves(run)?;
    let target = args.output.clone().unwrap_or_else(|| run.training());
    write_training(&target, &curves)?;
    output::status(&format!("not evaluated yet: a report of its training in {}", target.display()));
    Ok(output::result(&training_table(&curves))?)
}
