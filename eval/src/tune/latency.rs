//! How long a forward pass takes by its width, on this machine: flat while the weights are what is waited for, rising
//! once the arithmetic is. The widest pass that costs little more than one row is the knee.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use jacobi_datasets::schema::tuned::{Latency, WidthLatency};
use jacobi_model::{LanguageModel, Place, Rows, Work};

/// At the knee a pass costs this many times one row.
const KNEE_COST: f64 = 1.5;

/// The widest pass that is looked at.
const WIDEST: usize = 512;

/// A pass that costs this many times one row is the last: no model accepts as many tokens as would pay for it.
const DEAREST: f64 = 16.0;

/// Passes of each width that count.
const REPEATS: usize = 7;

/// Times passes of 1, 2, 4, .. rows behind `text` as the cached tokens, through the model that decodes. None if the
/// stop flag ended it.
pub(crate) fn measure(model: &dyn LanguageModel, text: &[u32], stop: &AtomicBool) -> Option<Latency> {
    let widest = WIDEST.min(model.context_length().saturating_sub(text.len()));
    let mut session = model.session(1, text.len() + widest);
    let prompt = Rows::chain(text);
    session.forward(&[Work { slot: 0, place: Place::End, rows: &prompt, first_output: text.len() - 1 }]);
    session.keep(0, &(0..text.len()).collect::<Vec<_>>());
    let tokens: Vec<u32> = text.iter().cycle().take(widest).copied().collect();
    let widths = medians(widest, &mut |rows| {
        if stop.load(Ordering::Relaxed) {
            return None;
        }
        let rows = Rows::chain(&tokens[..rows]);
        let started = Instant::now();
        // Nothing is kept, so every pass stands behind the same tokens. Reading the answer is part of its time.
        session.forward(&[Work { slot: 0, place: Place::End, rows: &rows, first_output: 0 }]).greedy();
        Some(started.elapsed().as_secs_f64())
    })?;
    Some(Latency { cached: text.len(), knee: knee(&widths), widths })
}

/// The median of several passes of each width. The first round warms up and finds the widest that is worth looking at;
/// the others go up and down in turn, so that drift of the machine falls on all widths alike.
fn medians(widest: usize, time: &mut dyn FnMut(usize) -> Option<f64>) -> Option<Vec<WidthLatency>> {
    time(1)?;
    let mut one = None;
    let mut seconds: Vec<(usize, Vec<f64>)> = Vec::new();
    for rows in std::iter::successors(Some(1), |rows| Some(rows * 2)).take_while(|&rows| rows <= widest) {
        let took = time(rows)?;
        seconds.push((rows, Vec::with_capacity(REPEATS)));
        if took > DEAREST * *one.get_or_insert(took) {
            break;
        }
    }
    for repeat in 0..REPEATS {
        let mut order: Vec<usize> = (0..seconds.len()).collect();
        if repeat % 2 == 1 {
            order.reverse();
        }
        for at in order {
            let took = time(seconds[at].0)?;
            seconds[at].1.push(took);
        }
    }
    let median = |(rows, mut seconds): (usize, Vec<f64>)| {
        seconds.sort_by(f64::total_cmp);
        WidthLatency { rows, seconds: seconds[seconds.len() / 2] }
    };
    Some(seconds.into_iter().map(median).collect())
}

fn knee(widths: &[WidthLatency]) -> usize {
    let Some(one) = widths.first() else { return 1 };
    let cheap = widths.iter().filter(|width| width.seconds <= KNEE_COST * one.seconds);
    cheap.map(|width| width.rows).max().unwrap_or(1)
}

/// What a pass of `rows` costs in passes of one row: between measured widths on a straight line, beyond the widest in
/// proportion.
pub(crate) fn cost(latency: &Latency, rows: usize) -> f64 {
    let (Some(first), Some(last)) = (latency.widths.first(), latency.widths.last()) else { return 1.0 };
    let around = latency.widths.windows(2).find(|pair| rows <= pair[1].rows);
    let seconds = match around {
        _ if rows <= first.rows => first.seconds,
        Some(pair) => {
            let share = (rows - pair[0].rows) as f64 / (pair[1].rows - pair[0].rows) as f64;
            pair[0].seconds + share * (pair[1].seconds - pair[0].seconds)
        }
        None => last.seconds * rows as f64 / last.rows as f64,
    };
    seconds / first.seconds
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine with a roofline: flat to 16 rows, then in proportion. Every fifth pass is disturbed.
    fn roofline(widest: usize, disturbed: f64) -> (Vec<WidthLatency>, Vec<usize>) {
        let mut asked = Vec::new();
        let widths = medians(widest, &mut |rows| {
            asked.push(rows);
            let quiet = (rows as f64 / 16.0).max(1.0);
            Some(if asked.len() % 5 == 0 { quiet * disturbed } else { quiet })
        });
        (widths.unwrap(), asked)
    }

    #[test]
    fn widths_double_and_disturbances_do_not_count() {
        let (widths, asked) = roofline(100, 7.0);
        let expected = [(1, 1.0), (2, 1.0), (4, 1.0), (8, 1.0), (16, 1.0), (32, 2.0), (64, 4.0)];
        assert_eq!(widths.iter().map(|w| (w.rows, w.seconds)).collect::<Vec<_>>(), expected);
        // Warm-up, then up and down.
        assert_eq!(asked[..15], [1, 1, 2, 4, 8, 16, 32, 64, 1, 2, 4, 8, 16, 32, 64]);
        assert_eq!(asked[15..22], [64, 32, 16, 8, 4, 2, 1]);
        assert_eq!(asked.len(), 8 + 7 * REPEATS);
        assert_eq!(knee(&widths), 16);
    }

    #[test]
    fn what_nobody_would_pay_for_is_not_measured_further() {
        let (widths, _) = roofline(4096, 1.0);
        assert_eq!(widths.last().map(|w| (w.rows, w.seconds)), Some((512, 32.0)));
        assert_eq!(roofline(1, 1.0).0.len(), 1);
    }

    #[test]
    fn the_knee_is_the_widest_pass_of_one_and_a_half_rows() {
        let check = |seconds: &[f64], expected| {
            let width = |(at, &seconds): (usize, &f64)| WidthLatency { rows: 1 << at, seconds };
            assert_eq!(knee(&seconds.iter().enumerate().map(width).collect::<Vec<_>>()), expected);
        };
        check(&[], 1);
        check(&[2.0], 1);
        check(&[2.0, 3.5], 1);
        check(&[2.0, 3.0, 3.1], 2);
        check(&[2.0, 3.1, 2.9, 6.0], 4);
    }

    #[test]
    fn costs_between_and_beyond_the_measured_widths() {
        let widths = roofline(64, 1.0).0;
        let latency = Latency { cached: 1, knee: 16, widths };
        for (rows, expected) in [(1, 1.0), (3, 1.0), (16, 1.0), (24, 1.5), (48, 3.0), (64, 4.0), (128, 8.0)] {
            assert_eq!(cost(&latency, rows), expected, "{rows} rows");
        }
        assert_eq!(cost(&Latency::default(), 5), 1.0);
    }

    #[test]
    fn the_stop_flag_ends_it() {
        let mut left = 9;
        let widths = medians(8, &mut |_| {
            left -= 1;
            (left > 0).then_some(1.0)
        });
        assert_eq!(widths, None);
    }
}
