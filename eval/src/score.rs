//! Samples to figures: agreement with the autoregressive decoder, means over all samples, intervals.

use std::collections::{BTreeMap, BTreeSet};

use jacobi_datasets::schema::eval_row::{EvalRow, EvalSample, EvalWidth};
use jacobi_datasets::schema::eval_statistics::MemoryFloor;
use jacobi_datasets::{FinishReason, repeats};

use crate::interval::{bootstrap, median, wilson};
use crate::per_prompt::per_prompt;

/// The row of one decoder. `samples` and `autoregressive` hold the same prompts in the same order; for the
/// autoregressive row itself they are the same samples. A prompt that either could not answer counts as answered wrongly
/// and is in no figure of speed or fidelity. `None` if there are no samples.
pub fn row(samples: &[EvalSample], autoregressive: &[EvalSample], dtype: &str, seed: u64) -> Option<EvalRow> {
    assert_eq!(samples.len(), autoregressive.len(), "every decoder runs on every prompt");
    let scored: Vec<bool> = samples.iter().filter_map(|sample| sample.correct).collect();
    let right = scored.iter().filter(|correct| **correct).count();
    let answered = samples.iter().zip(autoregressive).filter(|(a, b)| a.error.is_none() && b.error.is_none());
    let (own, reference): (Vec<EvalSample>, Vec<EvalSample>) =
        answered.map(|(own, reference)| (own.clone(), reference.clone())).unzip();
    let first = samples.first()?;
    let row = EvalRow {
        model: first.model.clone(),
        model_role: first.model_role,
        task: first.task.clone(),
        decoder: first.decoder.clone(),
        decoder_settings: first.decoder_settings.clone(),
        samples: samples.len(),
        dtype: dtype.to_owned(),
        accuracy: ratio(right as f64, scored.len() as f64),
        accuracy_interval: wilson(right, scored.len()),
        failed: samples.iter().filter(|sample| sample.error.is_some()).count(),
        stopped_by_length: samples.iter().filter(|sample| is_cut(sample)).count(),
        sittings: samples.iter().map(|sample| sample.sitting).collect::<BTreeSet<_>>().len(),
        ..answers(&own, &reference, seed)
    };
    Some(row)
}

/// The figures of samples that all have a response.
fn answers(samples: &[EvalSample], autoregressive: &[EvalSample], seed: u64) -> EvalRow {
    let all: Vec<usize> = (0..samples.len()).collect();
    let baseline = samples.iter().all(|sample| sample.matches_ar.is_none());
    let divergence = if baseline { None } else { divergence(samples) };
    let gaps = sorted(samples, |sample| sample.divergence_gap);
    let divergences = sorted(samples, |sample| sample.first_divergence.map(|at| at as f64));
    let speedup = |drawn: &[usize]| Some(tps(samples, drawn)? / tps(autoregressive, drawn)?);
    let circles = samples.iter().filter(|sample| is_degenerate(sample)).count();
    EvalRow {
        tpf: tpf(samples, &all),
        tps: tps(samples, &all),
        speedup_over_ar: speedup(&all),
        exact_match_ar: divergence.map(|d| d.exact_match),
        divergences_per_1k_tokens: divergence.and_then(|d| d.per_1k_tokens),
        divergence_gap_median: median(&gaps),
        divergence_gap_max: gaps.last().copied(),
        tpf_macro: mean(samples, tpf),
        tps_macro: mean(samples, tps),
        tpf_interval: bootstrap(samples.len(), seed, |drawn| tpf(samples, drawn)),
        speedup_interval: if baseline { None } else { bootstrap(samples.len(), seed, speedup) },
        tokens: samples.iter().map(decoded_tokens).sum(),
        forwards: samples.iter().map(|sample| sample.forwards).sum(),
        decode_seconds: sum(samples, |s| s.decode_seconds),
        prefill_seconds: sum(samples, |s| s.prefill_seconds),
        accepted_from: sources(samples),
        widths: widths(samples),
        acceptance: acceptance(samples),
        tps_interval: bootstrap(samples.len(), seed, |drawn| tps(samples, drawn)),
        tps_end_to_end: tps_end_to_end(samples),
        prefill_tps: ratio(sum(samples, |s| s.prompt_tokens as f64), sum(samples, |s| s.prefill_seconds)),
        per_prompt: per_prompt(samples, autoregressive, seed),
        first_divergence_median: median(&divergences),
        degenerate: ratio(circles as f64, samples.len() as f64),
        memory_floor: memory_floor(samples),
        ..EvalRow::default()
    }
}

fn is_cut(sample: &EvalSample) -> bool {
    sample.error.is_none() && sample.finish_reason == FinishReason::Length
}

/// Most tokens of a run that repeats itself, how often it follows itself, and the tokens that makes at least.
const CIRCLE: (usize, usize, usize) = (64, 4, 32);

/// Whether a response goes in circles.
fn is_degenerate(sample: &EvalSample) -> bool {
    let (longest, often, tokens) = CIRCLE;
    let mut repeats = repeats(&sample.response_ids, longest);
    repeats.any(|(times, period)| times >= often && times * period >= tokens)
}

fn sum(samples: &[EvalSample], figure: fn(&EvalSample) -> f64) -> f64 {
    samples.iter().map(figure).sum()
}

fn tps_end_to_end(samples: &[EvalSample]) -> Option<f64> {
    let seconds = sum(samples, |s| s.prefill_seconds + s.decode_seconds);
    ratio(sum(samples, |s| s.response_tokens as f64), seconds)
}

/// Tokens made by decode forwards: the first one comes from the prefill.
fn decoded_tokens(sample: &EvalSample) -> usize {
    sample.response_tokens.saturating_sub(1)
}

fn ratio(numerator: f64, denominator: f64) -> Option<f64> {
    (denominator > 0.0).then(|| numerator / denominator)
}

pub(crate) fn tpf(samples: &[EvalSample], chosen: &[usize]) -> Option<f64> {
    let forwards: usize = chosen.iter().map(|&i| samples[i].forwards).sum();
    ratio(tokens(samples, chosen), forwards as f64)
}

pub(crate) fn tps(samples: &[EvalSample], chosen: &[usize]) -> Option<f64> {
    let seconds = chosen.iter().map(|&i| samples[i].decode_seconds).sum();
    let tokens = tokens(samples, chosen);
    if tokens > 0.0 { ratio(tokens, seconds) } else { None }
}

fn tokens(samples: &[EvalSample], chosen: &[usize]) -> f64 {
    chosen.iter().map(|&i| decoded_tokens(&samples[i])).sum::<usize>() as f64
}

/// Mean of a figure over the samples that have it: a response of one token has no decode forward.
fn mean(samples: &[EvalSample], figure: fn(&[EvalSample], &[usize]) -> Option<f64>) -> Option<f64> {
    let values: Vec<f64> = (0..samples.len()).filter_map(|i| figure(samples, &[i])).collect();
    ratio(values.iter().sum(), values.len() as f64)
}

#[derive(Clone, Copy)]
struct Divergence {
    exact_match: f64,
    per_1k_tokens: Option<f64>,
}

fn divergence(samples: &[EvalSample]) -> Option<Divergence> {
    let diverged = samples.iter().filter(|sample| sample.first_divergence.is_some()).count();
    let compared = |sample: &EvalSample| sample.first_divergence.map_or(sample.response_tokens, |at| at + 1);
    let compared: usize = samples.iter().map(compared).sum();
    Some(Divergence {
        exact_match: ratio((samples.len() - diverged) as f64, samples.len() as f64)?,
        per_1k_tokens: ratio(1000.0 * diverged as f64, compared as f64),
    })
}

/// The values that samples have, ascending.
fn sorted(samples: &[EvalSample], figure: fn(&EvalSample) -> Option<f64>) -> Vec<f64> {
    let mut values: Vec<f64> = samples.iter().filter_map(figure).collect();
    values.sort_by(f64::total_cmp);
    values
}

fn sources(samples: &[EvalSample]) -> BTreeMap<String, usize> {
    let mut total = BTreeMap::new();
    for (source, tokens) in samples.iter().flat_map(|sample| &sample.accepted_from) {
        *total.entry(source.clone()).or_default() += tokens;
    }
    total
}

fn acceptance(samples: &[EvalSample]) -> Vec<usize> {
    let longest = samples.iter().map(|sample| sample.acceptance.len()).max().unwrap_or(0);
    let at = |accepted| samples.iter().filter_map(|s| s.acceptance.get(accepted)).sum();
    (0..longest).map(at).collect()
}

fn widths(samples: &[EvalSample]) -> Vec<EvalWidth> {
    let mut total: BTreeMap<usize, EvalWidth> = BTreeMap::new();
    for width in samples.iter().flat_map(|sample| &sample.widths) {
        let of = total.entry(width.rows).or_insert(EvalWidth { rows: width.rows, forwards: 0, seconds: 0.0 });
        of.forwards += width.forwards;
        of.seconds += width.seconds;
    }
    total.into_values().collect()
}

/// The floor of all samples together: each sitting measured its own.
fn memory_floor(samples: &[EvalSample]) -> Option<MemoryFloor> {
    let floors: Vec<(f64, MemoryFloor)> =
        samples.iter().filter_map(|s| Some((decoded_tokens(s) as f64, s.memory_floor?))).collect();
    let weight_bytes = floors.first()?.1.weight_bytes;
    let tokens: f64 = floors.iter().map(|(tokens, _)| tokens).sum();
    let seconds: f64 = floors.iter().map(|(tokens, floor)| tokens / floor.tokens_per_second).sum();
    let tokens_per_second = ratio(tokens, seconds)?;
    let copy_bytes_per_second = tokens_per_second * weight_bytes as f64;
    Some(MemoryFloor { weight_bytes, copy_bytes_per_second, tokens_per_second })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::sample;

    #[test]
    fn micro_and_macro_by_hand() {
        // Decoded tokens 20 and 10; ar at 10 tokens/s each.
        let ar = [sample("ar", 21, 20, 2.0), sample("ar", 11, 10, 1.0)];
        let mut jacobi = [sample("jacobi", 21, 5, 0.5), sample("jacobi", 11, 10, 1.5)];
        // The second leaves ar at its fourth token: 1 divergence in 21 + 4 tokens compared.
        jacobi[1].first_divergence = Some(3);
        jacobi[1].matches_ar = Some(false);
        jacobi[1].finish_reason = FinishReason::Length;
        jacobi[0].acceptance = vec![0, 1, 2];
        jacobi[0].accepted_from = [("own".to_owned(), 10), ("tree".to_owned(), 5)].into();
        let width = |rows, forwards, seconds| EvalWidth { rows, forwards, seconds };
        jacobi[0].widths = vec![width(1, 2, 0.125), width(8, 3, 0.375)];
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
    fn a_prompt_that_one_could_not_answer_is_wrong_and_has_no_speed() {
        let judged = |mut sample: EvalSample, correct| {
            sample.correct = Some(correct);
            sample
        };
        let ar = [judged(sample("ar", 21, 20, 2.0), true), judged(sample("ar", 11, 10, 1.0), true)];
        let mut jacobi =
            [judged(sample("jacobi", 21, 5, 0.5), true), judged(sample("jacobi", 1, 0, 9.0), false)];
        (jacobi[1].error, jacobi[1].matches_ar) = (Some("out of memory".to_owned()), None);
        let mut ar = ar;
        ar[1].finish_reason = FinishReason::Length;
        // Cut at the limit is a figure of all samples of a decoder, whatever became of the others.
        assert_eq!(super::row(&ar, &jacobi, "float32", 1).unwrap().stopped_by_length, 1);
        let row = super::row(&jacobi, &ar, "float32", 1).unwrap();
        assert_eq!((row.samples, row.failed, row.accuracy), (2, 1, Some(0.5)));
        assert_eq!((row.tpf, row.speedup_over_ar, row.exact_match_ar), (Some(4.0), Some(4.0), Some(1.0)));
        assert_eq!((row.decode_seconds, row.per_prompt.tps.unwrap().low), (0.5, None));
    }

    #[test]
    fn each_sitting_has_its_own_memory_floor() {
        let floor = |rate: f64| MemoryFloor {
            weight_bytes: 100,
            copy_bytes_per_second: 100.0 * rate,
            tokens_per_second: rate,
        };
        let mut ar = [sample("ar", 21, 20, 2.0), sample("ar", 11, 10, 1.0)];
        (ar[0].memory_floor, ar[1].memory_floor, ar[1].sitting) = (Some(floor(20.0)), Some(floor(5.0)), 2);
        let row = super::row(&ar, &ar, "float32", 1).unwrap();
        // 20 tokens at 20 per second and 10 at 5: 30 in 3 seconds, which is what they took.
        assert_eq!((row.sittings, row.memory_floor, row.over_floor()), (2, Some(floor(10.0)), Some(1.0)));
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
            let mut one = sample("jacobi", 8, 4, 1.0);
            one.response_ids = ids;
            assert_eq!(is_degenerate(&one), expected, "{:?}", one.response_ids);
            let row = super::row(&[one.clone(), sample("jacobi", 8, 4, 1.0)], &[one.clone(), one], "", 1);
            assert_eq!(row.unwrap().degenerate, Some(if expected { 0.5 } else { 0.0 }));
        }
    }

    #[test]
    fn gaps_are_those_of_the_samples_that_diverge() {
        let check = |gaps: &[Option<f64>], median, max| {
            let with_gap = |gap: &Option<f64>| {
                let mut record = sample("jacobi", 21, 5, 0.5);
                record.divergence_gap = *gap;
                record
            };
            let records: Vec<EvalSample> = gaps.iter().map(with_gap).collect();
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
        let ar = [sample("ar", 21, 20, 2.0)];
        let row = super::row(&ar, &ar, "float32", 1).unwrap();
        assert_eq!((row.tpf, row.speedup_over_ar), (Some(1.0), Some(1.0)));
        assert_eq!(
            (row.exact_match_ar, row.divergences_per_1k_tokens, row.speedup_interval),
            (None, None, None)
        );
    }

    #[test]
    fn a_response_of_one_token_has_no_speed() {
        let one = [sample("jacobi", 1, 0, 0.0)];
        let row = super::row(&one, &one, "float32", 1).unwrap();
        assert_eq!((row.tpf, row.tps, row.speedup_over_ar, row.tpf_macro), (None, None, None, None));
        assert_eq!(row.exact_match_ar, Some(1.0));
        assert!(super::row(&[], &[], "float32", 1).is_none());
    }
}
