//! Figures from samples: accuracy, speed, agreement with the autoregressive decoder, and their intervals.

use std::collections::{BTreeMap, BTreeSet};

use jacobi_datasets::schema::eval_row::{EvalRow, EvalSample, EvalWidth};
use jacobi_datasets::schema::eval_statistics::{MemoryFloor, PerPrompt};
use jacobi_datasets::{FinishReason, repeats};

use crate::interval::{bootstrap, median, median_of, wilson};

/// The row of one decoder; `None` without samples. `samples` and `autoregressive` hold the same prompts in the
/// same order; for the autoregressive row itself they are the same samples. A prompt that one of the two failed
/// on counts in accuracy, but in no figure of speed or agreement.
pub fn row(samples: &[EvalSample], autoregressive: &[EvalSample], dtype: &str, seed: u64) -> Option<EvalRow> {
    assert_eq!(samples.len(), autoregressive.len(), "every decoder runs on every prompt");
    let scored: Vec<bool> = samples.iter().filter_map(|sample| sample.correct).collect();
    let right = scored.iter().filter(|correct| **correct).count();
    let answered = samples.iter().zip(autoregressive).filter(|(a, b)| a.error.is_none() && b.error.is_none());
    let (own, reference): (Vec<EvalSample>, Vec<EvalSample>) =
        answered.map(|(own, reference)| (own.clone(), reference.clone())).unzip();
    let responses: Vec<&EvalSample> = samples.iter().filter(|sample| sample.error.is_none()).collect();
    let cut = samples.iter().filter(|sample| is_cut(sample)).count();
    let ended = responses.len() - cut;
    let tokens: usize = responses.iter().map(|sample| sample.response_tokens).sum();
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
        stopped_by_length: cut,
        ended: ratio(ended as f64, responses.len() as f64),
        ended_interval: wilson(ended, responses.len()),
        mean_response_tokens: ratio(tokens as f64, responses.len() as f64),
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
    let degenerate = samples.iter().filter(|sample| is_degenerate(sample)).count();
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
        cycles: samples.iter().map(|sample| sample.cycles).sum(),
        decode_seconds: sum(samples, |s| s.decode_seconds),
        prefill_seconds: sum(samples, |s| s.prefill_seconds),
        accepted_from: summed(samples, |sample| &sample.accepted_from),
        limited_by: summed(samples, |sample| &sample.limited_by),
        widths: widths(samples),
        acceptance: acceptance(samples),
        tps_interval: bootstrap(samples.len(), seed, |drawn| tps(samples, drawn)),
        tps_end_to_end: tps_end_to_end(samples),
        prefill_tps: ratio(sum(samples, |s| s.prompt_tokens as f64), sum(samples, |s| s.prefill_seconds)),
        per_prompt: per_prompt(samples, autoregressive, seed),
        first_divergence_median: median(&divergences),
        degenerate: ratio(degenerate as f64, samples.len() as f64),
        memory_floor: memory_floor(samples),
        ..EvalRow::default()
    }
}

fn is_cut(sample: &EvalSample) -> bool {
    sample.error.is_none() && sample.finish_reason == FinishReason::Length
}

/// Whether a response loops: some run of at most 64 tokens occurs at least 4 times in a row, over at least 32 tokens.
fn is_degenerate(sample: &EvalSample) -> bool {
    repeats(&sample.response_ids, 64).any(|(times, period)| times >= 4 && times * period >= 32)
}

fn sum(samples: &[EvalSample], figure: fn(&EvalSample) -> f64) -> f64 {
    samples.iter().map(figure).sum()
}

fn tps_end_to_end(samples: &[EvalSample]) -> Option<f64> {
    let seconds = sum(samples, |s| s.prefill_seconds + s.decode_seconds);
    ratio(sum(samples, |s| s.response_tokens as f64), seconds)
}

/// Tokens from passes after the prefill, which gives the first token.
fn decoded_tokens(sample: &EvalSample) -> usize {
    sample.response_tokens.saturating_sub(1)
}

fn ratio(numerator: f64, denominator: f64) -> Option<f64> {
    (denominator > 0.0).then(|| numerator / denominator)
}

fn tpf(samples: &[EvalSample], chosen: &[usize]) -> Option<f64> {
    let forwards: usize = chosen.iter().map(|&i| samples[i].forwards).sum();
    ratio(tokens(samples, chosen), forwards as f64)
}

fn tps(samples: &[EvalSample], chosen: &[usize]) -> Option<f64> {
    let seconds = chosen.iter().map(|&i| samples[i].decode_seconds).sum();
    let tokens = tokens(samples, chosen);
    if tokens > 0.0 { ratio(tokens, seconds) } else { None }
}

fn tokens(samples: &[EvalSample], chosen: &[usize]) -> f64 {
    chosen.iter().map(|&i| decoded_tokens(&samples[i])).sum::<usize>() as f64
}

/// Mean of a figure over the samples that have it: a response of one token has no pass after the prefill.
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

/// The values that exist, ascending.
fn sorted(samples: &[EvalSample], figure: fn(&EvalSample) -> Option<f64>) -> Vec<f64> {
    let mut values: Vec<f64> = samples.iter().filter_map(figure).collect();
    values.sort_by(f64::total_cmp);
    values
}

fn summed(
    samples: &[EvalSample],
    counts: fn(&EvalSample) -> &BTreeMap<String, usize>,
) -> BTreeMap<String, usize> {
    let mut total = BTreeMap::new();
    for (name, count) in samples.iter().flat_map(counts) {
        *total.entry(name.clone()).or_default() += count;
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

/// Medians over prompts, which a few long responses do not dominate as they do sums.
fn per_prompt(samples: &[EvalSample], autoregressive: &[EvalSample], seed: u64) -> PerPrompt {
    let all = |figure: &dyn Fn(usize) -> Option<f64>| median_of((0..samples.len()).map(figure), seed);
    let seconds = |figure: fn(&EvalSample) -> f64| all(&|i| Some(figure(&samples[i])));
    PerPrompt {
        prefill_seconds: seconds(|s| s.prefill_seconds),
        decode_seconds: seconds(|s| s.decode_seconds),
        end_to_end_seconds: seconds(|s| s.prefill_seconds + s.decode_seconds),
        tpf: all(&|i| tpf(samples, &[i])),
        tps: all(&|i| tps(samples, &[i])),
        speedup_over_ar: all(&|i| Some(tps(samples, &[i])? / tps(autoregressive, &[i])?)),
    }
}

/// The floor over all samples, weighted by tokens: each sitting measured its own.
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
mod tests;
