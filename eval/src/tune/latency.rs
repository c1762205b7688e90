//! Latency of forward passes by their width on this machine: flat while reading the weights dominates, rising once
//! arithmetic does. The widest pass that costs little more than one row is the knee.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use jacobi_datasets::schema::tuned::{Latency, WidthLatency};
use jacobi_model::{LanguageModel, Place, Rows, Work};

/// The knee is the widest pass that costs at most this many times a pass over one row.
const KNEE_COST: f64 = 1.5;

/// The widest pass that is measured.
const WIDEST: usize = 512;

/// A pass that costs more than this many times one row is the last one measured: no model accepts that many tokens.
const MAX_COST: f64 = 16.0;

/// Counted passes of each width.
const REPEATS: usize = 7;

/// Times passes of 1, 2, 4, .. rows after the cached tokens `text`, each width once or more until `is_over`. If the model
/// has an adapter, half of the rows use it, as in decoding. `None` if the stop flag ended it.
pub(crate) fn measure(
    model: &dyn LanguageModel,
    text: &[u32],
    stop: &AtomicBool,
    is_over: &dyn Fn() -> bool,
) -> Option<Latency> {
    let widest = WIDEST.min(model.context_length().saturating_sub(text.len()));
    let mut session = model.session(1, text.len() + widest);
    let prompt = Rows::chain(text);
    session.forward(&[Work { slot: 0, place: Place::End, rows: &prompt, first_output: text.len() - 1 }]);
    session.keep(0, &(0..text.len()).collect::<Vec<_>>());
    let tokens: Vec<u32> = text.iter().cycle().take(widest).copied().collect();
    let widths = medians(widest, is_over, &mut |rows| {
        if stop.load(Ordering::Relaxed) {
            return None;
        }
        let adapted = if model.has_adapter() { rows / 2 } else { 0 };
        let (own, adapted) = (Rows::chain(&tokens[..rows - adapted]), Rows::chain(&tokens[..adapted]));
        let work = [(Place::End, &own), (Place::Adapted(text.len() + 1), &adapted)];
        let work = work.map(|(place, rows)| Work { slot: 0, place, rows, first_output: 0 });
        let started = Instant::now();
        // No row is kept, so every pass follows the same tokens. `greedy` waits for the result.
        session.forward(if adapted.is_empty() { &work[..1] } else { &work }).greedy();
        Some(started.elapsed().as_secs_f64())
    })?;
    Some(Latency { cached: text.len(), knee: knee(&widths), widths })
}

/// The median of several passes of each width. The first round warms up and finds the widest pass to measure;
/// the others go up and down in turn, so that drift of the machine affects all widths alike.
fn medians(
    widest: usize,
    is_over: &dyn Fn() -> bool,
    time: &mut dyn FnMut(usize) -> Option<f64>,
) -> Option<Vec<WidthLatency>> {
    time(1)?;
    let mut one = None;
    let mut seconds: Vec<(usize, Vec<f64>)> = Vec::new();
    for rows in std::iter::successors(Some(1), |rows| Some(rows * 2)).take_while(|&rows| rows <= widest) {
        let took = time(rows)?;
        seconds.push((rows, Vec::with_capacity(REPEATS)));
        if took > MAX_COST * *one.get_or_insert(took) {
            break;
        }
    }
    for repeat in 0..REPEATS {
        if repeat > 0 && is_over() {
            break;
        }
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

#[cfg(test)]
mod tests;
