//! Intervals against published values.

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
    assert!((found.low.unwrap() - 41.0).abs() < 3.0 && (found.high.unwrap() - 60.0).abs() < 3.0, "{found:?}");
}
