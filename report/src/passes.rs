//! Statistics of the passes of each decoder: accepted tokens and their sources, time by width, and the rank
//! of the right token where a draft was wrong. Tables of one line per model and decoder.

use std::collections::BTreeMap;

use jacobi_datasets::schema::eval_row::EvalRow;

use crate::table::{Names, Table};
use crate::text::{number, percent};

/// One statistic of every decoder.
pub(crate) struct Statistic {
    pub(crate) heading: &'static str,
    pub(crate) note: &'static str,
    pub(crate) table: Table,
}

/// The k of the columns of [`ranks`]: the right token is among the k most probable.
const TOP: [usize; 8] = [2, 3, 4, 6, 8, 10, 16, 32];

/// The keys of [`EvalRow::limited_by`] with their columns.
const LIMITS: [(&str, &str); 6] = [
    ("draft", "wrong draft"),
    ("filler", "no draft"),
    ("window", "all right"),
    ("drafting", "only drafted"),
    ("tie", "near-tie"),
    ("end", "end"),
];

/// All statistics that at least one row has.
pub(crate) fn statistics(rows: &[EvalRow]) -> Vec<Statistic> {
    let share = |_, share| percent(Some(share));
    let accepted = table(rows, acceptance, |&tokens| bucket_label(tokens), share);
    let limits = table(rows, limits, |&limit| LIMITS[limit].1.to_owned(), |_, share| percent(Some(share)));
    let sources = table(rows, sources, |source| (*source).to_owned(), |_, share| percent(Some(share)));
    let milliseconds = |row: &EvalRow| {
        widths(row)
            .into_iter()
            .map(|(bucket, width)| (bucket, width.milliseconds))
            .collect::<BTreeMap<_, _>>()
    };
    let widths = table(rows, milliseconds, |&rows| bucket_label(rows), |_, mean| number(Some(mean)));
    let top = |&top: &usize| if top == 0 { "rejections".to_owned() } else { format!("top {top}") };
    let cell = |top, value| if top == 0 { format!("{value:.0}") } else { percent(Some(value)) };
    let ranks = table(rows, ranks, top, cell);
    let all = [
        ("Tokens accepted by one pass", "Share of passes.", accepted),
        (
            "What limited a pass",
            "Share of passes: the next drafted token was wrong, nothing was drafted for the next position, all drafts were right, \
             it only drafted, a near-tie was left to a pass over one token, the response ended.",
            limits,
        ),
        (
            "Where tokens came from",
            "Share of tokens. Every pass gives one token of the model's own; the others are accepted draft tokens: of the \
             current block (own), of blocks ahead of it (pseudo), of recycled drafts, of the token tree.",
            sources,
        ),
        ("Milliseconds per pass", "Mean, by the rows fed: draft tokens, branches included.", widths),
        (
            "Rank of the right token where a draft was wrong",
            "Cumulative share: how often it was among the k most probable tokens of the pass before, \
             so that a token tree of k branches would have held it. Measured in separate, untimed runs on the first prompts.",
            ranks,
        ),
    ];
    let measured = all.into_iter().filter(|(_, _, table)| !table.rows.is_empty());
    measured.map(|(heading, note, table)| Statistic { heading, note, table }).collect()
}

/// A column per occurring key, a line per row with any key.
fn table<'a, K: Ord + Copy>(
    rows: &'a [EvalRow],
    values: impl Fn(&'a EvalRow) -> BTreeMap<K, f64>,
    label: impl Fn(&K) -> String,
    cell: impl Fn(K, f64) -> String,
) -> Table {
    let found: Vec<(&EvalRow, BTreeMap<K, f64>)> = rows.iter().map(|row| (row, values(row))).collect();
    let keys: BTreeMap<K, String> =
        found.iter().flat_map(|(_, values)| values.keys()).map(|key| (*key, label(key))).collect();
    let names = Names::of(rows);
    let line = |(row, values): &(&EvalRow, BTreeMap<K, f64>)| {
        let cells =
            keys.keys().map(|key| values.get(key).map_or_else(String::new, |value| cell(*key, *value)));
        names.cells(row).into_iter().chain(cells).collect()
    };
    let lines = found.iter().filter(|(_, values)| !values.is_empty()).map(line).collect();
    let header = names.header.iter().map(|name| (*name).to_owned()).chain(keys.values().cloned()).collect();
    Table { header, rows: lines, left: names.header.len() }
}

/// The smallest power of two that is at least `count`; 0 for 0.
fn bucket(count: usize) -> usize {
    if count == 0 { 0 } else { count.next_power_of_two() }
}

fn bucket_label(bucket: usize) -> String {
    if bucket <= 2 { bucket.to_string() } else { format!("{} to {bucket}", bucket / 2 + 1) }
}

fn shares<K: Ord>(counts: impl Iterator<Item = (K, usize)>) -> BTreeMap<K, f64> {
    let mut summed: BTreeMap<K, usize> = BTreeMap::new();
    counts.filter(|(_, count)| *count > 0).for_each(|(key, count)| *summed.entry(key).or_default() += count);
    let total: usize = summed.values().sum();
    summed.into_iter().map(|(key, count)| (key, count as f64 / total as f64)).collect()
}

fn acceptance(row: &EvalRow) -> BTreeMap<usize, f64> {
    if row.is_autoregressive() {
        return BTreeMap::new();
    }
    shares(row.acceptance.iter().enumerate().map(|(tokens, &passes)| (bucket(tokens), passes)))
}

/// `[k - 1]`: the share of passes whose draft was right up to position k.
pub(crate) fn reached(row: &EvalRow) -> Vec<f64> {
    let passes = row.acceptance.iter().sum::<usize>() as f64;
    let from = |accepted: usize| row.acceptance[accepted..].iter().sum::<usize>() as f64;
    (2..row.acceptance.len()).map(|accepted| from(accepted) / passes).collect()
}

/// By index in [`LIMITS`].
fn limits(row: &EvalRow) -> BTreeMap<usize, f64> {
    if row.is_autoregressive() {
        return BTreeMap::new();
    }
    let at = |name: &str| LIMITS.iter().position(|(known, _)| *known == name);
    shares(row.limited_by.iter().filter_map(|(name, &passes)| Some((at(name)?, passes))))
}

fn sources(row: &EvalRow) -> BTreeMap<&str, f64> {
    if row.accepted_from.is_empty() {
        return BTreeMap::new();
    }
    // A pass without accepted tokens left a near-tie to the next pass.
    let passes = row.forwards - row.acceptance.first().copied().unwrap_or(0);
    let drafted = row.accepted_from.iter().map(|(source, &tokens)| (source.as_str(), tokens));
    // This name sorts before the names of the sources.
    shares(drafted.chain([("one per pass", passes)]))
}

/// Passes of similar width.
#[derive(Default)]
pub(crate) struct Width {
    forwards: usize,
    seconds: f64,
    /// Mean rows.
    pub(crate) rows: f64,
    /// Mean time.
    pub(crate) milliseconds: f64,
}

/// Passes grouped by powers of two, because most single widths have few passes.
pub(crate) fn widths(row: &EvalRow) -> BTreeMap<usize, Width> {
    let mut widths: BTreeMap<usize, Width> = BTreeMap::new();
    for width in &row.widths {
        let of = widths.entry(bucket(width.rows)).or_default();
        let fed = of.rows * of.forwards as f64 + (width.rows * width.forwards) as f64;
        of.forwards += width.forwards;
        of.seconds += width.seconds;
        of.rows = fed / of.forwards as f64;
        of.milliseconds = 1000.0 * of.seconds / of.forwards as f64;
    }
    widths
}

/// At 0 the number of rejections, at k the share of them with the right token among the k most probable.
fn ranks(row: &EvalRow) -> BTreeMap<usize, f64> {
    let found = cumulative_ranks(row);
    let rejections = row.rejection_ranks.iter().sum::<usize>();
    if rejections == 0 {
        return BTreeMap::new();
    }
    let top = |&top: &usize| Some((top, *found.get(top - 1)?));
    TOP.iter().filter_map(top).chain([(0, rejections as f64)]).collect()
}

/// `[k - 1]`: the share of rejections with the right token among the k most probable.
pub(crate) fn cumulative_ranks(row: &EvalRow) -> Vec<f64> {
    let rejections = row.rejection_ranks.iter().sum::<usize>() as f64;
    // The last entry counts all higher ranks.
    let single_ranks = row.rejection_ranks.len().saturating_sub(1);
    let sums = row.rejection_ranks.iter().take(single_ranks).scan(0, |sum, count| {
        *sum += count;
        Some(*sum as f64 / rejections)
    });
    sums.collect()
}

#[cfg(test)]
mod tests;
