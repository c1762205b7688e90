//! Sizes that depend on the device: on a CPU fixed numbers, on a GPU what its free memory holds and what a pass costs there.

use std::time::Instant;

use jacobi_model::{Device, LanguageModel, Place, Rows, Work, cache_budget, gpu_memory};

/// Rows of a pass on a CPU: wider ones are no faster per row.
const CPU_ROWS: usize = 512;

/// Samples side by side on a CPU: more are no faster.
const CPU_SAMPLES: usize = 128;

/// Widths that are timed on a GPU, in rising order.
const WIDTHS: [usize; 5] = [512, 1024, 2048, 4096, 8192];

/// The narrowest width whose row costs at most this many times the cheapest row is taken.
const KNEE_COST: f64 = 1.1;

/// Memory of a row of a pass beside the caches, per token id of the vocabulary: logits in fp32, and activations, which
/// take less.
const BYTES_PER_TOKEN_ID: usize = 8;

/// Timed passes of a width, after one that warms up.
const REPEATS: usize = 3;

/// What the device has for generation, beside the weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Capacity {
    /// Bytes for KV caches.
    pub(crate) caches: f64,
    /// Target number of rows of a pass.
    pub(crate) rows: usize,
    /// The most samples side by side.
    pub(crate) samples: usize,
}

impl Capacity {
    /// Of `device`, which holds the weights of `model`; values that are `given` are not measured.
    pub(crate) fn of(device: Device, model: &dyn LanguageModel, given: (Option<f64>, Option<usize>)) -> Self {
        let free = gpu_memory(device).map(|memory| memory.free);
        Self::within(free, model, given, &mut |rows| pass_seconds(model, rows))
    }

    /// With `free` bytes on a GPU; `None` for a CPU. `seconds` times a pass of that many rows.
    fn within(
        free: Option<u64>,
        model: &dyn LanguageModel,
        (caches, rows): (Option<f64>, Option<usize>),
        seconds: &mut dyn FnMut(usize) -> f64,
    ) -> Self {
        let caches = caches.unwrap_or_else(|| cache_budget(free));
        let Some(free) = free else {
            return Self { caches, rows: rows.unwrap_or(CPU_ROWS), samples: CPU_SAMPLES };
        };
        let rows = rows.unwrap_or_else(|| {
            // What caches leave is for logits and activations.
            let beside = (free as f64 - caches).max(0.0) as usize;
            let most = (beside / (BYTES_PER_TOKEN_ID * model.vocab_size())).min(model.context_length());
            let timed: Vec<(usize, f64)> =
                WIDTHS.into_iter().filter(|&rows| rows <= most).map(|rows| (rows, seconds(rows))).collect();
            knee(&timed).unwrap_or(CPU_ROWS)
        });
        // A sample has a row or more in every pass; blocks of 4 rows keep passes full.
        Self { caches, rows, samples: CPU_SAMPLES.max(rows / 4) }
    }
}

/// The narrowest of the timed widths, each with its seconds, at which a row costs little more than at the best one.
fn knee(timed: &[(usize, f64)]) -> Option<usize> {
    let per_row = |&(rows, seconds): &(usize, f64)| seconds / rows as f64;
    let best = timed.iter().map(per_row).fold(f64::INFINITY, f64::min);
    timed.iter().find(|width| per_row(width) <= KNEE_COST * best).map(|&(rows, _)| rows)
}

/// The shortest of a few passes over `rows` rows without a text before them.
fn pass_seconds(model: &dyn LanguageModel, rows: usize) -> f64 {
    // Two slots, as in a batch: a session of one sequence pads its passes.
    let mut session = model.session(2, rows);
    let text = Rows::chain(&vec![0; rows]);
    let mut pass = || {
        let started = Instant::now();
        // `greedy` waits for the result; no row is kept.
        session.forward(&[Work { slot: 0, place: Place::End, rows: &text, first_output: 0 }]).greedy();
        started.elapsed().as_secs_f64()
    };
    pass();
    (0..REPEATS).map(|_| pass()).fold(f64::INFINITY, f64::min)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::engine::tests::Sizes;

    /// A pass that costs the same up to `flat` rows, then in proportion.
    fn seconds(flat: f64) -> impl FnMut(usize) -> f64 {
        move |rows| (rows as f64 / flat).max(1.0)
    }

    #[test]
    fn a_cpu_has_fixed_sizes_and_times_nothing() {
        let time: &mut dyn FnMut(usize) -> f64 = &mut |_| unreachable!("nothing is timed");
        let cpu = Capacity { caches: 4e9, rows: 512, samples: 128 };
        assert_eq!(Capacity::within(None, &Sizes::new(100_000), (None, None), time), cpu);
        let given = Capacity { caches: 1e9, rows: 7, samples: 128 };
        assert_eq!(Capacity::within(None, &Sizes::new(100_000), (Some(1e9), Some(7)), time), given);
    }

    #[test]
    fn a_gpu_has_what_its_memory_holds_and_passes_as_wide_as_pays() {
        let of = |free: f64, flat| {
            Capacity::within(Some(free as u64), &Sizes::new(100_000), (None, None), &mut seconds(flat))
        };
        let large = of(60e9, 1900.0);
        assert_eq!((large.rows, large.samples), (2048, 512));
        assert!((40e9..60e9).contains(&large.caches), "{large:?}");
        assert_eq!(of(60e9, 100.0).rows, 512);
        assert_eq!(of(60e9, 1e6).rows, 8192);
        // No memory for wide passes: 8 bytes for each of 10 token ids.
        assert_eq!(of(1e4, 1e6).rows, 512);
        // Nothing of a pass is timed that a given number makes superfluous.
        let time: &mut dyn FnMut(usize) -> f64 = &mut |_| unreachable!("nothing is timed");
        let given = Capacity::within(Some(60_000_000_000), &Sizes::new(9), (None, Some(64)), time);
        assert_eq!((given.rows, given.samples), (64, 128));
    }
}
