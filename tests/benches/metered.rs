//! A model that times what is asked of it. What a decoder takes beyond that is its own bookkeeping.

use std::{
    cell::Cell,
    rc::Rc,
    time::{Duration, Instant},
};

use jacobi_model::{LanguageModel, Predictions, Session, Work};

/// Time inside the model, by what was asked.
#[derive(Default)]
pub struct Meter {
    forward: Cell<Duration>,
    keep: Cell<Duration>,
    greedy: Cell<Duration>,
    top: Cell<Duration>,
}

impl Meter {
    /// All of it, in seconds.
    pub fn seconds(&self) -> f64 {
        [&self.forward, &self.keep, &self.greedy, &self.top].map(|part| part.get().as_secs_f64()).iter().sum()
    }

    /// That for the best tokens of rows, in seconds.
    pub fn top_seconds(&self) -> f64 {
        self.top.get().as_secs_f64()
    }
}

fn timed<T>(part: &Cell<Duration>, ask: impl FnOnce() -> T) -> T {
    let started = Instant::now();
    let answer = ask();
    part.set(part.get() + started.elapsed());
    answer
}

/// Another model with a clock in front.
pub struct Metered<'m> {
    inner: &'m dyn LanguageModel,
    meter: Rc<Meter>,
}

impl<'m> Metered<'m> {
    /// With the clock at 0.
    pub fn new(inner: &'m dyn LanguageModel) -> Self {
        Self { inner, meter: Rc::default() }
    }

    /// The clock.
    pub fn meter(&self) -> &Meter {
        &self.meter
    }
}

impl LanguageModel for Metered<'_> {
    fn vocab_size(&self) -> usize {
        self.inner.vocab_size()
    }

    fn context_length(&self) -> usize {
        self.inner.context_length()
    }

    fn cache_bytes_per_token(&self) -> usize {
        self.inner.cache_bytes_per_token()
    }

    fn session<'a>(&'a self, slots: usize, capacity: usize) -> Box<dyn Session + 'a> {
        let inner = self.inner.session(slots, capacity);
        Box::new(MeteredSession { inner, meter: Rc::clone(&self.meter) })
    }
}

struct MeteredSession<'a> {
    inner: Box<dyn Session + 'a>,
    meter: Rc<Meter>,
}

impl Session for MeteredSession<'_> {
    fn cached(&self, slot: usize) -> usize {
        self.inner.cached(slot)
    }

    fn truncate(&mut self, slot: usize, len: usize) {
        timed(&self.meter.keep, || self.inner.truncate(slot, len));
    }

    fn forward(&mut self, work: &[Work]) -> Box<dyn Predictions> {
        let inner = timed(&self.meter.forward, || self.inner.forward(work));
        Box::new(MeteredPredictions { inner, meter: Rc::clone(&self.meter) })
    }

    fn keep(&mut self, slot: usize, rows: &[usize]) {
        timed(&self.meter.keep, || self.inner.keep(slot, rows));
    }
}

struct MeteredPredictions {
    inner: Box<dyn Predictions>,
    meter: Rc<Meter>,
}

impl Predictions for MeteredPredictions {
    fn greedy(&self) -> Vec<u32> {
        timed(&self.meter.greedy, || self.inner.greedy())
    }

    fn top(&self, rows: &[usize], k: usize) -> Vec<Vec<(u32, f32)>> {
        timed(&self.meter.top, || self.inner.top(rows, k))
    }

    fn logits(&self, row: usize) -> Vec<f32> {
        timed(&self.meter.top, || self.inner.logits(row))
    }
}
