//! What one prompt takes and gives: medians over prompts, which a few long responses cannot carry away as they do sums.

use jacobi_datasets::schema::eval_row::EvalSample;
use jacobi_datasets::schema::eval_statistics::{Median, PerPrompt};

use crate::interval::{bootstrap, median};
use crate::score::{tpf, tps};

/// The medians of `samples`; `autoregressive` holds the same prompts in the same order.
pub(crate) fn per_prompt(samples: &[EvalSample], autoregressive: &[EvalSample], seed: u64) -> PerPrompt {
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

/// Over the prompts that have a value: a response of one token has no decode forward.
fn median_of(values: impl Iterator<Item = Option<f64>>, seed: u64) -> Option<Median> {
    let values: Vec<f64> = values.flatten().collect();
    let of = |mut drawn: Vec<f64>| {
        drawn.sort_unstable_by(f64::total_cmp);
        median(&drawn)
    };
    let interval = bootstrap(values.len(), seed, |drawn| of(drawn.iter().map(|&i| values[i]).collect()));
    let (low, high) = (interval.map(|i| i.low), interval.map(|i| i.high));
    Some(Median { median: of(values)?, low, high })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_of_the_prompts_that_have_a_value() {
        let of = |values: &[Option<f64>]| median_of(values.iter().copied(), 3);
        assert_eq!(of(&[None, None]), None);
        assert_eq!(of(&[Some(2.0), None]), Some(Median { median: 2.0, low: None, high: None }));
        // Draws of two have the means 1, 2, 3.
        assert_eq!(
            of(&[Some(1.0), None, Some(3.0)]),
            Some(Median { median: 2.0, low: Some(1.0), high: Some(3.0) })
        );
        let one_long: Vec<Option<f64>> =
            (0..101).map(|i| Some(if i == 7 { 1e9 } else { f64::from(i) })).collect();
        let found = of(&one_long).unwrap();
        assert_eq!(found.median, 51.0);
        // The interval of a median by order statistics, 50 +- 1.96 * sqrt(101) / 2.
        assert!(
            (found.low.unwrap() - 41.0).abs() < 3.0 && (found.high.unwrap() - 60.0).abs() < 3.0,
            "{found:?}"
        );
    }
}
