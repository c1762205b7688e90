//! Detailed tables: intervals and medians, times, fidelity, paired tests.

use jacobi_datasets::schema::eval_row::{EvalRow, Results};
use jacobi_datasets::schema::eval_statistics::{Answerer, Median, PairedTest};

use crate::passes::Statistic;
use crate::table::{Table, model_label, tasks};
use crate::text::{NOT_MEASURED, interval, number, percent, times};

/// A column: its heading and the cell of a row.
type Column = (&'static str, fn(&EvalRow) -> String);

const SPEED: [Column; 8] = [
    ("TPF 95 %", |row| interval(row.tpf_interval, number)),
    ("TPF median", |row| median(row.per_prompt.tpf, number)),
    ("TPF macro", |row| number(row.tpf_macro)),
    ("tokens/s 95 %", |row| interval(row.tps_interval, number)),
    ("tokens/s median", |row| median(row.per_prompt.tps, number)),
    ("tokens/s macro", |row| number(row.tps_macro)),
    ("speedup 95 %", |row| interval(row.speedup_interval, times)),
    ("speedup median", |row| median(row.per_prompt.speedup_over_ar, times)),
];

const TIME: [Column; 10] = [
    ("prefill ms", |row| milliseconds(row.per_prompt.prefill_seconds)),
    ("decode ms", |row| milliseconds(row.per_prompt.decode_seconds)),
    ("end to end ms", |row| milliseconds(row.per_prompt.end_to_end_seconds)),
    ("prefill tokens/s", |row| number(row.prefill_tps)),
    ("end to end tokens/s", |row| number(row.tps_end_to_end)),
    ("tokens", |row| row.tokens.to_string()),
    ("passes", |row| row.forwards.to_string()),
    ("decode s", |row| number(Some(row.decode_seconds))),
    ("prefill s", |row| number(Some(row.prefill_seconds))),
    ("over memory floor", |row| times(row.over_floor())),
];

const FIDELITY: [Column; 5] = [
    ("accuracy 95 %", |row| interval(row.accuracy_interval, percent)),
    ("median first divergence", |row| {
        row.first_divergence_median.map_or(NOT_MEASURED.to_owned(), |at| format!("token {at:.0}"))
    }),
    ("divergences per 1k tokens", |row| number(row.divergences_per_1k_tokens)),
    ("in circles", |row| percent(row.degenerate)),
    ("cut at limit", |row| format!("{} of {}", row.stopped_by_length, row.samples)),
];

const ENDS: [Column; 3] = [
    ("end by themselves", |row| percent(row.ended)),
    ("95 %", |row| interval(row.ended_interval, percent)),
    ("mean tokens", |row| number(row.mean_response_tokens)),
];

/// The tables with heading and note.
pub(crate) fn details(results: &Results) -> Vec<Statistic> {
    let rows = &results.rows;
    let mut all = vec![
        Statistic {
            heading: "Speed: intervals and medians",
            note: "Intervals are 95 %, by bootstrap over prompts. The results above are sums over sums, so long \
                   responses weigh more; median and macro mean give every prompt the same weight.",
            table: columns(rows, &SPEED),
        },
        Statistic {
            heading: "Times",
            note: "The first three are medians over prompts. The memory floor is the time that reading the weights once \
                   per token takes at the copy bandwidth of this machine; an ar loop far above it would be a weak \
                   baseline.",
            table: columns(rows, &TIME),
        },
        Statistic {
            heading: "Fidelity to ar",
            note: "A divergence is a sample whose tokens differ from ar's. A response goes in circles when a run of at most 64 \
                   tokens follows itself at least 4 times over at least 32 tokens.",
            table: columns(rows, &FIDELITY),
        },
        Statistic {
            heading: "Paired tests of accuracy",
            note: "McNemar's exact test on the prompts that both answered: p is the probability of a split at least as uneven if \
                   both are equally good. With p above 0.05 there is no evidence of a difference.",
            table: paired(results),
        },
        Statistic {
            heading: "Ends of responses",
            note: "The share of responses that end with a stop token before the length limit, with Wilson's interval, and \
                   the mean length with that token. A model that has unlearned to stop runs into the limit more often.",
            table: columns(if rows.iter().any(|row| row.ended.is_some()) { rows } else { &[] }, &ENDS),
        },
    ];
    all.retain(|statistic| !statistic.table.rows.is_empty());
    all
}

fn columns(rows: &[EvalRow], columns: &[Column]) -> Table {
    let header: Vec<&str> = columns.iter().map(|(heading, _)| *heading).collect();
    Table::of_rows(rows, &header, |row| columns.iter().map(|(_, cell)| cell(row)).collect())
}

fn paired(results: &Results) -> Table {
    let several = tasks(&results.rows).len() > 1;
    let name = |of: &Answerer| {
        let is_of = |row: &&EvalRow| row.model == of.model && row.model_role == of.model_role;
        let row = results.rows.iter().find(is_of);
        let model =
            row.map_or_else(|| of.model_role.as_str().to_owned(), |row| model_label(row, &results.rows));
        format!("{model} {}", of.decoder_label())
    };
    let line = |test: &PairedTest| {
        let counts = [test.both, test.only_a, test.only_b, test.neither].map(|count| count.to_string());
        let p = if test.p_value < 0.001 { "< 0.001".to_owned() } else { format!("{:.3}", test.p_value) };
        let task = several.then(|| test.task.clone());
        [name(&test.a), name(&test.b)].into_iter().chain(task).chain(counts).chain([p]).collect()
    };
    let task = several.then_some("task");
    let header: Vec<&str> = ["a", "b"]
        .into_iter()
        .chain(task)
        .chain(["both right", "only a", "only b", "neither", "p"])
        .collect();
    let lines = results.paired_tests.iter().map(line).collect();
    Table { left: 2 + usize::from(several), ..Table::of(&header, lines) }
}

/// `41.2 (40.1 to 42.3)`.
fn median(value: Option<Median>, format: fn(Option<f64>) -> String) -> String {
    match value {
        None => NOT_MEASURED.to_owned(),
        Some(Median { median, low: Some(low), high: Some(high) }) => {
            format!("{} ({} to {})", format(Some(median)), format(Some(low)), format(Some(high)))
        }
        Some(Median { median, .. }) => format(Some(median)),
    }
}

fn milliseconds(value: Option<Median>) -> String {
    let scale = |m: Median| Median {
        median: m.median * 1000.0,
        low: m.low.map(|low| low * 1000.0),
        high: m.high.map(|high| high * 1000.0),
    };
    median(value.map(scale), number)
}

#[cfg(test)]
mod tests {
    use jacobi_datasets::schema::eval_row::Interval;

    use super::*;
    use crate::fixtures::results;

    #[test]
    fn each_table_has_its_line_per_row_and_the_tests_their_names() {
        let found: Vec<String> = details(&results()).iter().map(|d| d.table.terminal()).collect();
        let last = |index: usize| {
            found[index].lines().last().unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(
            last(0),
            "trained jacobi n=16 2.00 to 3.00 2.71 (2.00 to 3.00) 2.71 85.0 to 105.0 95.2 (95.0 to 96.0) 95.2 \
             2.00x to 3.00x 2.32x (0.50x to 3.50x)"
        );
        assert_eq!(
            last(1),
            "trained jacobi n=16 50.0 (40.0 to 60.0) 1000 – 120.0 83.0 6400 2361 67.0 3.50 –"
        );
        assert!(found[1].contains("1.13x"), "{}", found[1]);
        assert_eq!(last(2), "trained jacobi n=16 75.0 % to 96.9 % token 42 0.16 1.6 % 2 of 64");
        assert_eq!(last(3), "base jacobi n=16 trained jacobi n=16 55 5 4 0 1.000");
        assert!(found[3].contains("< 0.001"), "{}", found[3]);
        // Results of earlier versions have no share of ends.
        assert_eq!(found.len(), 4);
        let mut results = results();
        let last = results.rows.last_mut().unwrap();
        (last.ended, last.mean_response_tokens) = (Some(0.875), Some(41.25));
        last.ended_interval = Some(Interval { low: 0.75, high: 0.9375 });
        let table = details(&results)[4].table.terminal();
        let last: Vec<&str> = table.lines().last().unwrap().split_whitespace().collect();
        assert_eq!(last.join(" "), "trained jacobi n=16 87.5 % 75.0 % to 93.8 % 41.2");
    }

    #[test]
    fn without_tests_there_is_no_table_of_them() {
        let mut results = results();
        results.paired_tests.clear();
        assert_eq!(details(&results).len(), 3);
        results.rows.clear();
        assert!(details(&results).is_empty());
    }
}
