//! Latencies of a machine with a roofline.

use std::cell::RefCell;

use jacobi_model::{Predictions, Session};

use super::*;

/// A machine with a roofline: flat to 16 rows, then in proportion. Every fifth pass is disturbed.
fn roofline(widest: usize, disturbed: f64) -> (Vec<WidthLatency>, Vec<usize>) {
    let mut asked = Vec::new();
    let widths = medians(widest, &|| false, &mut |rows| {
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
fn widths_that_cost_too_much_end_the_measurement() {
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
fn each_width_is_counted_once_when_there_is_no_time() {
    let mut asked = 0;
    let widths = medians(8, &|| true, &mut |rows| {
        asked += 1;
        Some(rows as f64)
    });
    assert_eq!((asked, widths.unwrap().len()), (1 + 4 + 4, 4));
}

#[test]
fn the_stop_flag_ends_it() {
    let mut left = 9;
    let widths = medians(8, &|| false, &mut |_| {
        left -= 1;
        (left > 0).then_some(1.0)
    });
    assert_eq!(widths, None);
}

/// A model with an adapter. Keeps the number of rows of the base and of the adapter in every pass.
#[derive(Default)]
struct Watched(RefCell<Vec<(usize, usize)>>);

impl LanguageModel for Watched {
    fn vocab_size(&self) -> usize {
        9
    }

    fn context_length(&self) -> usize {
        64
    }

    fn has_adapter(&self) -> bool {
        true
    }

    fn cache_bytes_per_token(&self) -> usize {
        1
    }

    fn session<'a>(&'a self, _slots: usize, _capacity: usize) -> Box<dyn Session + 'a> {
        Box::new(WatchedSession(self))
    }
}

struct WatchedSession<'a>(&'a Watched);

impl Session for WatchedSession<'_> {
    fn cached(&self, _slot: usize) -> usize {
        3
    }

    fn truncate(&mut self, _slot: usize, _len: usize) {}

    fn keep(&mut self, _slot: usize, _rows: &[usize]) {}

    fn forward(&mut self, work: &[Work]) -> Box<dyn Predictions> {
        let of = |place: Place| {
            work.iter().filter(|work| work.place == place).map(|work| work.rows.len()).sum::<usize>()
        };
        self.0.0.borrow_mut().push((of(Place::End), of(Place::Adapted(4))));
        Box::new(NoTokens)
    }
}

struct NoTokens;

impl Predictions for NoTokens {
    fn greedy(&self) -> Vec<u32> {
        Vec::new()
    }

    fn top(&self, _rows: &[usize], _k: usize) -> Vec<Vec<(u32, f32)>> {
        unreachable!("latency needs no tokens")
    }

    fn logits(&self, _row: usize) -> Vec<f32> {
        unreachable!("latency needs no logits")
    }
}

#[test]
fn half_of_the_rows_use_the_adapter() {
    let model = Watched::default();
    measure(&model, &[1, 2, 3], &AtomicBool::new(false), &|| true).unwrap();
    let passes = model.0.into_inner();
    assert_eq!(passes[..4], [(3, 0), (1, 0), (1, 0), (1, 1)]);
    let is_half = |&(own, adapted): &(usize, usize)| adapted == (own + adapted) / 2;
    assert!(passes[1..].iter().all(is_half), "{passes:?}");
}
