//! Medians, and 95 % intervals: how far a figure could be off because the prompts are a sample.

use jacobi_datasets::Rng;
use jacobi_datasets::schema::eval_row::Interval;

const RESAMPLES: usize = 1000;
/// The 97.5th percentile of the normal distribution.
const Z: f64 = 1.959_963_985;

/// Wilson's interval of a share (Wilson 1927): sensible at 0 and 1 too. `None` without trials.
pub(crate) fn wilson(successes: usize, trials: usize) -> Option<Interval> {
    if trials == 0 {
        return None;
    }
    let (n, p) = (trials as f64, successes as f64 / trials as f64);
    let center = (p + Z * Z / (2.0 * n)) / (1.0 + Z * Z / n);
    let half = Z / (1.0 + Z * Z / n) * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    Some(Interval { low: (center - half).max(0.0), high: (center + half).min(1.0) })
}

/// Of an even number of values, the mean of the middle two.
pub(crate) fn median(ascending: &[f64]) -> Option<f64> {
    let middle = ascending.len() / 2;
    let upper = *ascending.get(middle)?;
    Some(if ascending.len() % 2 == 1 { upper } else { (ascending[middle - 1] + upper) / 2.0 })
}

/// Percentile bootstrap of `statistic` over samples drawn with replacement, reproducible from `seed`. `None` with fewer
/// than two samples, or if the statistic has no value on some draw.
pub(crate) fn bootstrap(
    samples: usize,
    seed: u64,
    statistic: impl Fn(&[usize]) -> Option<f64>,
) -> Option<Interval> {
    if samples < 2 {
        return None;
    }
    let mut rng = Rng::new(&[seed]);
    let mut values = Vec::with_capacity(RESAMPLES);
    let mut drawn = vec![0; samples];
    for _ in 0..RESAMPLES {
        drawn.fill_with(|| rng.below(samples));
        values.push(statistic(&drawn)?);
    }
    values.sort_unstable_by(f64::total_cmp);
    let at = |share: f64| values[(share * (RESAMPLES - 1) as f64).round() as usize];
    Some(Interval { low: at(0.025), high: at(0.975) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wilson_matches_published_values() {
        // R: prop.test(k, n, correct = FALSE)$conf.int
        let rows = [(8, 10, 0.4902, 0.9433), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0)];
        for (k, n, low, high) in rows {
            let interval = wilson(k, n).unwrap();
            assert!((interval.low - low).abs() < 1e-4 && (interval.high - high).abs() < 1e-4, "{interval:?}");
        }
        assert_eq!(wilson(0, 0), None);
    }

    #[test]
    fn bootstrap_brackets_the_mean_and_repeats() {
        let values: Vec<f64> = (0..50).map(f64::from).collect();
        let mean = |drawn: &[usize]| Some(drawn.iter().map(|&i| values[i]).sum::<f64>() / drawn.len() as f64);
        let interval = bootstrap(50, 3, mean).unwrap();
        // Standard error of the mean is 14.43 / sqrt(50) = 2.04.
        assert!((interval.low - (24.5 - 4.0)).abs() < 1.0 && (interval.high - (24.5 + 4.0)).abs() < 1.0);
        assert_eq!(bootstrap(50, 3, mean), Some(interval));
        assert_eq!(bootstrap(1, 3, mean), None);
        assert_eq!(bootstrap(5, 3, |_| None), None);
    }
}
