//! What tuning found, for the terminal and as `tune.md` with its charts.

use std::path::Path;

use jacobi_datasets::atomic::write_atomic;
use jacobi_datasets::schema::tuned::{Objective, Trial, Trials};

use crate::ReportError;
use crate::chart::{Chart, tune::charts};
use crate::content::listed;
use crate::table::Table;
use crate::text::{code_block, markdown_cell, number, times};

/// The best decoder beside what is had without tuning, for a terminal.
pub fn tune_table(trials: &Trials) -> String {
    table(trials, |trial, place| place == 0 || trial.is_default).terminal()
}

/// Writes `tune.json`, its charts and `tune.md` into `dir`, which is made if missing. The measurements go first: if a
/// drawing fails, they are kept.
///
/// # Errors
/// The directory or a file in it cannot be written, or a chart cannot be drawn.
pub fn write_tune_report(dir: &Path, trials: &Trials) -> Result<(), ReportError> {
    fs_err::create_dir_all(dir).map_err(|source| ReportError::Directory { path: dir.to_owned(), source })?;
    let write = |name: &str, text: &str| write_atomic(&dir.join(name), |out| out.write_all(text.as_bytes()));
    let json = serde_json::to_string_pretty(trials)
        .map_err(|source| ReportError::Json { file: "tune.json", source })?;
    write("tune.json", &(json + "\n"))?;
    let charts = charts(trials)?;
    for chart in &charts {
        write(&chart.file, &chart.svg)?;
    }
    write("tune.md", &render(trials, &charts))?;
    Ok(())
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
    for chart in charts {
        text += &format!("![{}]({})\n\n", chart.title, chart.file);
    }
    text += &format!("## Every decoder tried\n\n{}\n", table(trials, |_, _| true).markdown());
    text += "## Command\n\n";
    text += &code_block(&trials.command);
    text += "\n## Environment\n\n| name | value |\n| :--- | :--- |\n";
    for (name, value) in listed(&trials.environment) {
        text += &format!("| {} | {} |\n", markdown_cell(name), markdown_cell(&value));
    }
    text
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
            "A forward pass of one row takes {} ms behind {} cached tokens; the knee is at width {}, {} ms: the widest \
             pass that costs at most 1.5 times one row.",
            number(Some(one.seconds * 1000.0)),
            latency.cached,
            latency.knee,
            number(Some(knee.seconds * 1000.0))
        ));
    }
    sentences.push(
        "Found by successive halving: every candidate decodes the first prompts, the better half twice as many, and so \
         on; ar and the defaults stay to the end. Decoders take turns prompt by prompt. A speedup compares with ar on \
         the same prompts."
            .to_owned(),
    );
    sentences
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::trials;

    #[test]
    fn the_terminal_shows_the_best_and_the_defaults() {
        let expected = "\
settings  decoder                    TPF  tokens/s  speedup over ar  rows per pass  prompts
────────  ────────────────────────  ────  ────────  ───────────────  ─────────────  ───────
best      jacobi n=8                3.00     150.0            1.50x           8.00        4
default   ar                        1.00     100.0            1.00x           1.00        4
default   multi_block n=16 tree=32  3.00      50.0            0.50x           40.0        4
";
        assert_eq!(tune_table(&trials()), expected);
    }

    #[test]
    fn the_report_says_what_was_found_and_everything_tried() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("tune");
        write_tune_report(&target, &trials()).unwrap();
        let mut names: Vec<String> = fs_err::read_dir(&target)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["tune-contour.svg", "tune-latency.svg", "tune.json", "tune.md"]);
        let json = fs_err::read_to_string(target.join("tune.json")).unwrap();
        assert_eq!(serde_json::from_str::<Trials>(&json).unwrap(), trials());
        let text = fs_err::read_to_string(target.join("tune.md")).unwrap();
        for part in [
            "- Best by tokens per second: **jacobi n=8**, 150.0 tokens/s, 1.50x that of ar, TPF 3.00, over 4 prompts,",
            "one row takes 2.00 ms behind 90 cached tokens; the knee is at width 16, 3.00 ms",
            "![Forward pass by width](tune-latency.svg)\n",
            "|  | jacobi n=64 | 2.00 |",
            "## Command\n\n```text\njacobi tune --config a.toml\n```\n",
            "| threads | 2 |\n",
        ] {
            assert!(text.contains(part), "missing {part:?} in:\n{text}");
        }
    }
}
