//! Medians, and 95 % intervals: the uncertainty of a figure because the prompts are a sample.

use jacobi_datasets::Rng;
use jacobi_datasets::schema::eval_row::Interval;
use jacobi_datasets::schema::eval_statistics::Median;

const RESAMPLES: usize = 1000;
/// The 97.5th percentile of the normal distribution.
const Z: f64 = 1.959_963_985;

/// Wilson's interval of a share (Wilson 1927), which is meaningful at 0 and 1 too. `None` without trials.
pub(crate) fn wilson(successes: usize, trials: usize) -> Option<Interval> {
    if trials == 0 {
        return None;
    }
    let (n, p) = (trials as f64, successes as f64 / trials as f64);
    let center = (p + Z * Z / (2.0 * n)) / (1.0 + Z * Z / n);
    let half = Z / (1.0 + Z * Z / n) * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    Some(Interval { low: (center - half).max(0.0), high: (center + half).min(1.0) })
}

/// The median; of an even number of values the mean of the middle two.
pub(crate) fn median(ascending: &[f64]) -> Option<f64> {
    let middle = ascending.len() / 2;
    let upper = *ascending.get(middle)?;
    Some(if ascending.len() % 2 == 1 { upper } else { (ascending[middle - 1] + upper) / 2.0 })
}

/// Percentile bootstrap of `statistic` over samples drawn with replacement, reproducible from `seed`. `None`
/// with fewer than two samples, or if the statistic has no value on some draw.
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

/// The median of the values that exist, with its 95 % interval; `None` if there are none.
pub(crate) fn median_of(values: impl Iterator<Item = Option<f64>>, seed: u64) -> Option<Median> {
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
mod tests;
