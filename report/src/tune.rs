//! The results of tuning, for the terminal and as `tune.md` with its charts.

use std::path::Path;

use jacobi_datasets::schema::tuned::{
    DECIDING_PROMPTS, Latency, Objective, TRIALS_FILE, Trial, Trials, Tuned,
};

use crate::chart::{Chart, tune::charts};
use crate::table::Table;
use crate::text::{number, times};
use crate::write::write_files;
use crate::{ReportError, markdown};

/// The chosen decoder and the defaults, for a terminal, and what there is to say about the choice.
pub fn tune_table(trials: &Trials) -> String {
    let table = table(trials, |trial, is_chosen| is_chosen || trial.is_default).terminal();
    let remarks = trials.best().map_or_else(Vec::new, |tuned| remarks(&tuned));
    table + &remarks.iter().map(|remark| format!("{remark}\n")).collect::<String>()
}

/// Writes `tune.json`, its charts and `tune.md` into `dir`, which is created if missing. The measurements are
/// written first, so that they are kept if a chart cannot be drawn.
///
/// # Errors
/// The directory or a file in it cannot be written, or a chart cannot be drawn.
pub fn write_tune_report(dir: &Path, trials: &Trials) -> Result<(), ReportError> {
    let json = serde_json::to_string_pretty(trials)
        .map_err(|source| ReportError::Json { file: TRIALS_FILE, source })?;
    write_files(dir, [(TRIALS_FILE, &*(json + "\n"))])?;
    let charts = charts(trials)?;
    write_files(dir, charts.iter().map(Chart::as_file))?;
    write_files(dir, [("tune.md", &*render(trials, &charts))])
}

fn table(trials: &Trials, shown: impl Fn(&Trial, bool) -> bool) -> Table {
    let chosen = trials.chosen();
    let is_chosen = |trial: &Trial| chosen.is_some_and(|chosen| std::ptr::eq(chosen, trial));
    let header =
        vec!["settings", "decoder", "TPF", "tokens/s", "speedup over ar", "rows per pass", "prompts"];
    let line = |trial: &Trial| {
        let role = match (is_chosen(trial), trial.is_default) {
            (true, true) => "best, a default",
            (true, false) => "best",
            (false, true) => "default",
            (false, false) => "",
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
    let rows = trials.trials.iter().filter(|trial| shown(trial, is_chosen(trial)));
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
    let Some(tuned) = trials.best() else { return vec!["Nothing was tried.".to_owned()] };
    let best = &tuned.best;
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
    sentences.extend(remarks(&tuned));
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
    sentences.extend(pass_cost(latency));
    sentences.push(
        "Found by successive halving: every candidate decodes the first prompts, the better half twice as many, and so \
         on; ar and jacobi are never dropped. Decoders take turns prompt by prompt. A speedup compares with ar on \
         the same prompts."
            .to_owned(),
    );
    sentences
}

/// How tuning chose the decoder of `model`, in sentences.
pub(crate) fn choice(model: &str, tuned: &Tuned) -> Vec<String> {
    let best = &tuned.best;
    let effort = match tuned.race.decoders {
        0 => String::new(),
        decoders => format!(", of {decoders} decoders, in {} s", number(Some(tuned.race.seconds))),
    };
    let mut sentences = vec![format!(
        "Tuning chose {} for {model}: {} the tokens/s of ar, TPF {}, over the first {} prompts{effort}.",
        best.label(),
        times(best.speedup_over_ar),
        number(best.tpf),
        best.prompts
    )];
    sentences.extend(remarks(tuned));
    sentences.extend(pass_cost(&tuned.latency));
    sentences
}

/// That no decoder beat `ar`, and that the race was too short to say so.
pub(crate) fn remarks(tuned: &Tuned) -> Vec<String> {
    let Tuned { best, race, runner_up, .. } = tuned;
    let mut remarks = Vec::new();
    let parallel = runner_up.as_ref().unwrap_or(best);
    let is_slower = parallel.speedup_over_ar.is_some_and(|speedup| speedup <= 1.0);
    if best.is_autoregressive() || is_slower {
        let label = parallel.label();
        remarks.push(match parallel.is_autoregressive() {
            true => "No decoder beat ar.".to_owned(),
            false => format!(
                "No decoder beat ar: the best of the others, {label}, had {} its tokens/s.",
                times(parallel.speedup_over_ar)
            ),
        });
    }
    if race.decoders > 0 && !race.decided {
        let cause = if race.out_of_time { ", since tune.seconds were over" } else { "" };
        remarks.push(format!(
            "Not decided: {} is the fastest decoder so far other than ar. The race had {} prompts{cause}; {DECIDING_PROMPTS} are \
             needed to choose ar.",
            best.label(),
            race.prompts
        ));
    }
    remarks
}

/// What wider passes cost, which decides how much drafts can gain.
pub(crate) fn pass_cost(latency: &Latency) -> Option<String> {
    let four = latency.cost(4)?;
    let others = latency.widths.iter().filter(|width| [2, 8, 16, 32].contains(&width.rows));
    let others: Vec<String> = others
        .filter_map(|width| Some(format!("{}: {}", width.rows, number(Some(latency.cost(width.rows)?)))))
        .collect();
    let others = if others.is_empty() { String::new() } else { format!(" ({})", others.join(", ")) };
    Some(format!("A pass over 4 rows costs {} times one over 1 on this machine{others}.", number(Some(four))))
}

#[cfg(test)]
mod tests;
