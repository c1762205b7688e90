//! The results of tuning, for the terminal and as `tune.md` with its charts.

use std::path::Path;

use jacobi_datasets::schema::tuned::{Objective, Trial, Trials};

use crate::chart::{Chart, tune::charts};
use crate::table::Table;
use crate::text::{number, times};
use crate::write::write_files;
use crate::{ReportError, markdown};

/// The best decoder and the defaults, for a terminal.
pub fn tune_table(trials: &Trials) -> String {
    table(trials, |trial, place| place == 0 || trial.is_default).terminal()
}

/// Writes `tune.json`, its charts and `tune.md` into `dir`, which is created if missing. The measurements are
/// written first, so that they are kept if a chart cannot be drawn.
///
/// # Errors
/// The directory or a file in it cannot be written, or a chart cannot be drawn.
pub fn write_tune_report(dir: &Path, trials: &Trials) -> Result<(), ReportError> {
    let json = serde_json::to_string_pretty(trials)
        .map_err(|source| ReportError::Json { file: "tune.json", source })?;
    write_files(dir, [("tune.json", &*(json + "\n"))])?;
    let charts = charts(trials)?;
    write_files(dir, charts.iter().map(Chart::as_file))?;
    write_files(dir, [("tune.md", &*render(trials, &charts))])
}

fn table(trials: &Trials, shown: impl Fn(&Trial, usize) -> bool) -> Table {
    let header =
        vec!["settings", "decoder", "TPF", "tokens/s", "speedup over ar", "rows per pass", "prompts"];
    let line = |(place, trial): (usize, &Trial)| {
        let role = match (place, trial.is_default) {
            (0, true) => "best, a default",
            (0, false) => "best",
            (_, true) => "default",
            (_, false) => "",
        };
        vec![
            role.to_owned(),
            trial.label(),
            number(trial.tpf),
            number(trial.tps),
            times(trial.speedup_over_ar),
            number(trial.rows_per_forward()),
            trial.prompts.to_string(),
        ]
    };
    let rows = trials.trials.iter().enumerate().filter(|(place, trial)| shown(trial, *place));
    Table::of(&header, rows.map(line).collect())
}

fn render(trials: &Trials, charts: &[Chart]) -> String {
    let mut text = String::from("# Tuning\n\n");
    for sentence in findings(trials) {
        text += &format!("- {sentence}\n");
    }
    text += "\n";
    text += &markdown::figures(charts);
    text += &format!("## Every decoder tried\n\n{}\n", table(trials, |_, _| true).markdown());
    text + &markdown::command_and_environment(&trials.command, &trials.environment)
}

fn findings(trials: &Trials) -> Vec<String> {
    let Some(best) = trials.trials.first() else { return vec!["Nothing was tried.".to_owned()] };
    let objective = match trials.objective {
        Objective::Tps => "tokens per second",
        Objective::Tpf => "tokens per forward pass",
    };
    let mut sentences = vec![format!(
        "Best by {objective}: **{}**, {} tokens/s, {} that of ar, TPF {}, over {} prompts, greedy, in {}.",
        best.label(),
        number(best.tps),
        times(best.speedup_over_ar),
        number(best.tpf),
        best.prompts,
        trials.dtype
    )];
    let latency = &trials.latency;
    if let (Some(one), Some(knee)) =
        (latency.widths.first(), latency.widths.iter().find(|width| width.rows == latency.knee))
    {
        sentences.push(format!(
            "A forward pass of one row takes {} ms after {} cached tokens; the knee is at width {}, {} ms: the widest \
             pass that costs at most 1.5 times one row.",
            number(Some(one.seconds * 1000.0)),
            latency.cached,
            latency.knee,
            number(Some(knee.seconds * 1000.0))
        ));
    }
    sentences.push(
        "Found by successive halving: every candidate decodes the first prompts, the better half twice as many, and so \
         on; ar and the defaults are never dropped. Decoders take turns prompt by prompt. A speedup compares with ar on \
         the same prompts."
            .to_owned(),
    );
    sentences
}

#[cfg(test)]
mod tests;
