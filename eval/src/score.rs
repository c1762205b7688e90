//! Samples to figures: agreement with the autoregressive decoder, means over all samples, intervals.

use std::collections::BTreeMap;

use jacobi_datasets::schema::eval_row::{EvalRow, EvalSample, EvalWidth};
use jacobi_datasets::{FinishReason, repeats};
use jacobi_decoder::{DecodeStats, WidthStats};

use crate::interval::{bootstrap, median, wilson};
use crate::per_prompt::per_prompt;

/// A sample with the statistics of its forwards.
#[derive(Clone, Debug)]
pub struct Record {
    /// The sample.
    pub sample: EvalSample,
    /// What its decoder did.
    pub stats: DecodeStats,
}

/// The row of one decoder. `records` and `autoregressive` hold the same prompts in the same order; for the
/// autoregressive row itself they are the same records. `None` if there are no records.
pub fn row(records: &[Record], autoregressive: &[Record], dtype: &str, seed: u64) -> Option<EvalRow> {
    assert_eq!(records.len(), autoregressive.len(), "every decoder runs on every prompt");
    let first = &records.first()?.sample;
    let all: Vec<usize> = (0..records.len()).collect();
    let baseline = first.matches_ar.is_none();
    let divergence = (!baseline).then(|| divergence(records));
    let gaps = sorted(records, |sample| sample.divergence_gap);
    let divergences = sorted(records, |sample| sample.first_divergence.map(|at| at as f64));
    let speedup = |drawn: &[usize]| Some(tps(records, drawn)? / tps(autoregressive, drawn)?);
    let scored: Vec<bool> = records.iter().filter_map(|record| record.sample.correct).collect();
    let right = scored.iter().filter(|correct| **correct).count();
    let stats: DecodeStats = records.iter().map(|record| &record.stats).sum();
    let cut = |record: &&Record| record.sample.finish_reason == FinishReason::Length;
    Some(EvalRow {
        model: first.model.clone(),
        model_role: first.model_role,
        task: first.task.clone(),
        task_version: None,
        decoder: first.decoder.clone(),
        decoder_settings: first.decoder_settings.clone(),
        samples: records.len(),
        dtype: dtype.to_owned(),
        tpf: tpf(records, &all),
        tps: tps(records, &all),
        speedup_over_ar: speedup(&all),
        accuracy: ratio(right as f64, scored.len() as f64),
        exact_match_ar: divergence.map(|d| d.exact_match),
        divergences_per_1k_tokens: divergence.and_then(|d| d.per_1k_tokens),
        divergence_gap_median: median(&gaps),
        divergence_gap_max: gaps.last().copied(),
        tpf_macro: mean(records, tpf),
        tps_macro: mean(records, tps),
        tpf_interval: bootstrap(records.len(), seed, |drawn| tpf(records, drawn)),
        speedup_interval: if baseline { None } else { bootstrap(records.len(), seed, speedup) },
        accuracy_interval: wilson(right, scored.len()),
        tokens: records.iter().map(decoded_tokens).sum(),
        forwards: stats.forwards,
        decode_seconds: stats.decode_seconds,
        prefill_seconds: stats.prefill_seconds,
        stopped_by_length: records.iter().filter(cut).count(),
        accepted_from: by_name(&stats),
        widths: widths(&stats),
        acceptance: stats.acceptance,
        rejection_ranks: Vec::new(),
        tps_interval: bootstrap(records.len(), seed, |drawn| tps(records, drawn)),
        tps_end_to_end: tps_end_to_end(records),
        prefill_tps: ratio(sum(records, |s| s.prompt_tokens as f64), sum(records, |s| s.prefill_seconds)),
        per_prompt: per_prompt(records, autoregressive, seed),
        first_divergence_median: median(&divergences),
        degenerate: ratio(records.iter().filter(|r| is_degenerate(r)).count() as f64, records.len() as f64),
        memory_floor: None,
    })
}

/// Most tokens of a run that repeats itself, how often it follows itself, and the tokens that makes at least.
const CIRCLE: (usize, usize, usize) = (64, 4, 32);

/// Whether a response goes in circles.
fn is_degenerate(record: &Record) -> bool {
    let (longest, often, tokens) = CIRCLE;
    let mut repeats = repeats(&record.sample.response_ids, longest);
    repeats.any(|(times, period)| times >= often && times * period >= tokens)
}

fn sum(records: &[Record], figure: fn(&EvalSample) -> f64) -> f64 {
    records.iter().map(|record| figure(&record.sample)).sum()
}

fn tps_end_to_end(records: &[Record]) -> Option<f64> {
    let seconds = sum(records, |s| s.prefill_seconds + s.decode_seconds);
    ratio(sum(records, |s| s.response_tokens as f64), seconds)
}

/// Tokens made by decode forwards: the first one comes from the prefill.
fn decoded_tokens(record: &Record) -> usize {
    record.sample.response_tokens.saturating_sub(1)
}

fn ratio(numerator: f64, denominator: f64) -> Option<f64> {
    (denominator > 0.0).then(|| numerator / denominator)
}

pub(crate) fn tpf(records: &[Record], chosen: &[usize]) -> Option<f64> {
    let forwards: usize = chosen.iter().map(|&i| records[i].sample.forwards).sum();
    ratio(tokens(records, chosen), forwards as f64)
}

pub(crate) fn tps(records: &[Record], chosen: &[usize]) -> Option<f64> {
    let seconds = chosen.iter().map(|&i| records[i].sample.decode_seconds).sum();
    let tokens = tokens(records, chosen);
    if tokens > 0.0 { ratio(tokens, seconds) } else { None }
}

fn tokens(records: &[Record], chosen: &[usize]) -> f64 {
    chosen.iter().map(|&i| decoded_tokens(&records[i])).sum::<usize>() as f64
}

/// Mean of a figure over the samples that have it: a response of one token has no decode forward.
fn mean(records: &[Record], figure: fn(&[Record], &[usize]) -> Option<f64>) -> Option<f64> {
    let values: Vec<f64> = (0..records.len()).filter_map(|i| figure(records, &[i])).collect();
    ratio(values.iter().sum(), values.len() as f64)
}

#[derive(Clone, Copy)]
struct Divergence {
    exact_match: f64,
    per_1k_tokens: Option<f64>,
}

fn divergence(records: &[Record]) -> Divergence {
    let diverged = records.iter().filter(|record| record.sample.first_divergence.is_some()).count();
    let compared = |record: &Record| {
        let sample = &record.sample;
        sample.first_divergence.map_or(sample.response_tokens, |at| at + 1)
    };
    let compared: usize = records.iter().map(compared).sum();
    Divergence {
        exact_match: (records.len() - diverged) as f64 / records.len() as f64,
        per_1k_tokens: ratio(1000.0 * diverged as f64, compared as f64),
    }
}

/// The values that samples have, ascending.
fn sorted(records: &[Record], figure: fn(&EvalSample) -> Option<f64>) -> Vec<f64> {
    let mut values: Vec<f64> = records.iter().filter_map(|record| figure(&record.sample)).collect();
    values.sort_by(f64::total_cmp);
    values
}

fn by_name(stats: &DecodeStats) -> BTreeMap<String, usize> {
    stats.accepted_from.iter().map(|(source, &tokens)| (source.as_str().to_owned(), tokens)).collect()
}

fn widths(stats: &DecodeStats) -> Vec<EvalWidth> {
    let width = |(&rows, &WidthStats { forwards, seconds }): (&usize, &WidthStats)| EvalWidth {
        rows,
        forwards,
        seconds,
    };
    stats.widths.iter().map(width).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::sample;
    use jacobi_decoder::Source;

    /// A sample of `tokens` response tokens.
    fn record(decoder: &str, tokens: usize, forwards: usize, seconds: f64) -> Record {
        let sample = sample(decoder, tokens, forwards, seconds);
        let stats = DecodeStats {
            forwards,
            tokens: tokens - 1,
            prefill_seconds: 0.5,
            decode_seconds: seconds,
            acceptance: vec![0, forwards],
            accepted_from: [(Source::Own, tokens - 1 - forwards)].into(),
            widths: [(1, WidthStats { forwards, seconds })].into(),
        };
        Record { sample, stats }
    }

    #[test]
    fn micro_and_macro_by_hand() {
        // Decoded tokens 20 and 10; ar at 10 tokens/s each.
        let ar = [record("ar", 21, 20, 2.0), record("ar", 11, 10, 1.0)];
        let mut jacobi = [record("jacobi", 21, 5, 0.5), record("jacobi", 11, 10, 1.5)];
        // The second leaves ar at its fourth token: 1 divergence in 21 + 4 tokens compared.
        jacobi[1].sample.first_divergence = Some(3);
        jacobi[1].sample.matches_ar = Some(false);
        jacobi[1].sample.finish_reason = FinishReason::Length;
        jacobi[0].stats.acceptance = vec![0, 1, 2];
        jacobi[0].stats.accepted_from = [(Source::Own, 10), (Source::Tree, 5)].into();
        let width = |forwards, seconds| WidthStats { forwards, seconds };
        jacobi[0].stats.widths = [(1, width(2, 0.125)), (8, width(3, 0.375))].into();
        let row = super::row(&jacobi, &ar, "float32", 1).unwrap();
        assert_eq!(row.tpf, Some(30.0 / 15.0));
        assert_eq!(row.tpf_macro, Some((4.0 + 1.0) / 2.0));
        assert_eq!(row.tps, Some(15.0));
        assert_eq!(row.tps_macro, Some((40.0 + 10.0 / 1.5) / 2.0));
        assert_eq!(row.speedup_over_ar, Some(1.5));
        assert_eq!(row.exact_match_ar, Some(0.5));
        assert_eq!(row.divergences_per_1k_tokens, Some(40.0));
        assert_eq!((row.tokens, row.forwards, row.samples, row.stopped_by_length), (30, 15, 2, 1));
        assert_eq!((row.decode_seconds, row.prefill_seconds), (2.0, 1.0));
        assert_eq!(row.acceptance, [0, 11, 2]);
        assert_eq!(row.accepted_from, [("own".to_owned(), 10), ("tree".to_owned(), 5)].into());
        let width = |rows, forwards, seconds| EvalWidth { rows, forwards, seconds };
        assert_eq!(row.widths, [width(1, 12, 1.625), width(8, 3, 0.375)]);
        assert_eq!((row.accuracy, row.accuracy_interval), (None, None));
        // Draws are {0, 0}, {0, 1}, {1, 1}: tpf 4, 2, 1; tps 40, 15, 10 / 1.5.
        let interval = row.tpf_interval.unwrap();
        assert_eq!((interval.low, interval.high), (1.0, 4.0));
        let interval = row.tps_interval.unwrap();
        assert_eq!((interval.low, interval.high), (10.0 / 1.5, 40.0));
        // 21 + 11 tokens in 1 + 2 seconds; 2 prompt tokens in 1 second.
        assert_eq!((row.tps_end_to_end, row.prefill_tps), (Some(32.0 / 3.0), Some(2.0)));
        assert_eq!((row.first_divergence_median, row.memory_floor), (Some(3.0), None));
    }

    #[test]
    fn a_response_in_circles_is_told_from_a_repetitive_one() {
        let looped = |run: &[u32], times: usize| [&[90, 91, 92][..], &run.repeat(times)].concat();
        let rows = [
            (looped(&[1, 2, 3, 4, 5, 6, 7, 8], 4), true),
            (looped(&[1, 2, 3, 4, 5, 6, 7, 8], 3), false),
            (looped(&[0], 32), true),
            (looped(&[0], 31), false),
            // A short run more often than a long one does not hide it.
            ([looped(&[0], 20), looped(&(1..=40).collect::<Vec<_>>(), 4)].concat(), true),
            (looped(&(1..=65).collect::<Vec<_>>(), 5), false),
            (vec![], false),
        ];
        for (ids, expected) in rows {
            let mut one = record("jacobi", 8, 4, 1.0);
            one.sample.response_ids = ids;
            assert_eq!(is_degenerate(&one), expected, "{:?}", one.sample.response_ids);
            let row = super::row(&[one.clone(), record("jacobi", 8, 4, 1.0)], &[one.clone(), one], "", 1);
            assert_eq!(row.unwrap().degenerate, Some(if expected { 0.5 } else { 0.0 }));
        }
    }

    #[test]
    fn gaps_are_those_of_the_samples_that_diverge() {
        let check = |gaps: &[Option<f64>], median, max| {
            let with_gap = |gap: &Option<f64>| {
                let mut record = record("jacobi", 21, 5, 0.5);
                record.sample.divergence_gap = *gap;
                record
            };
            let records: Vec<Record> = gaps.iter().map(with_gap).collect();
            let row = super::row(&records, &records, "bfloat16", 1).unwrap();
            assert_eq!((row.divergence_gap_median, row.divergence_gap_max), (median, max), "{gaps:?}");
        };
        check(&[None], None, None);
        check(&[None, Some(0.5)], Some(0.5), Some(0.5));
        check(&[Some(2.0), Some(0.0), Some(0.25)], Some(0.25), Some(2.0));
        check(&[Some(2.0), Some(0.5), None, Some(0.0), Some(0.25)], Some(0.375), Some(2.0));
    }

    #[test]
    fn the_baseline_is_not_compared_with_itself() {
        let ar = [record("ar", 21, 20, 2.0)];
        let row = super::row(&ar, &ar, "float32", 1).unwrap();
        assert_eq!((row.tpf, row.speedup_over_ar), (Some(1.0), Some(1.0)));
        assert_eq!(
            (row.exact_match_ar, row.divergences_per_1k_tokens, row.speedup_interval),
            (None, None, None)
        );
    }

    #[test]
    fn a_response_of_one_token_has_no_speed() {
        let one = [record("jacobi", 1, 0, 0.0)];
        let row = super::row(&one, &one, "float32", 1).unwrap();
        assert_eq!((row.tpf, row.tps, row.speedup_over_ar, row.tpf_macro), (None, None, None, None));
        assert_eq!(row.exact_match_ar, Some(1.0));
        assert!(super::row(&[], &[], "float32", 1).is_none());
    }
}
