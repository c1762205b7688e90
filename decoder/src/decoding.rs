//! Responses pass by pass: one as an iterator, many side by side with continuous batching.

use std::time::Instant;

use jacobi_model::{LanguageModel, Rows, Session, Work};

use crate::{Draft, Generation, Pass, Sampling, Settings, outputs::Outputs, sequence::Sequence};

/// One response as it grows: an iterator over its passes.
pub struct Decoding<'a> {
    session: Box<dyn Session + 'a>,
    sequence: Sequence<'a>,
    settings: &'a Settings,
}

impl<'a> Decoding<'a> {
    /// Runs the prompt, which gives the first token.
    ///
    /// # Panics
    /// If the prompt is empty or fills the model's context, or a setting is out of range: callers validate what users
    /// give.
    pub fn new(model: &'a dyn LanguageModel, prompt: &[u32], settings: &'a Settings) -> Self {
        let mut sequence = Sequence::new(settings, prompt, model.context_length());
        let mut session = model.session(1, settings.capacity(model, prompt.len()));
        prefill(&mut *session, &mut [(0, &mut sequence)], settings);
        Self { session, sequence, settings }
    }

    /// The prompt and the response so far.
    pub fn text(&self) -> &[u32] {
        self.sequence.text()
    }

    /// The response, once the passes have ended.
    ///
    /// # Panics
    /// If they have not.
    pub fn finish(self) -> Generation {
        self.sequence.finish()
    }
}

impl Iterator for Decoding<'_> {
    type Item = Pass;

    fn next(&mut self) -> Option<Pass> {
        if !self.sequence.is_open() {
            return None;
        }
        step(&mut *self.session, &mut [(0, &mut self.sequence)], self.settings).pop()
    }
}

/// Decodes one response; `observe` sees every pass.
///
/// The response is cut at `stop.max_new_tokens`, and at the model's context length.
///
/// # Panics
/// As [`Decoding::new`].
pub fn generate(
    model: &dyn LanguageModel,
    prompt: &[u32],
    settings: &Settings,
    observe: &mut dyn FnMut(&Pass),
) -> Generation {
    let mut decoding = Decoding::new(model, prompt, settings);
    for pass in &mut decoding {
        observe(&pass);
    }
    decoding.finish()
}

/// Decodes a response to each prompt, up to `batch_size` side by side: a slot that is done takes the next prompt at
/// once. `done` gets the prompt's index and its response, in the order in which they end. Who shares a pass with whom
/// changes no response in fp32.
///
/// # Panics
/// As [`Decoding::new`], and if `batch_size` is 0.
pub fn generate_batch(
    model: &dyn LanguageModel,
    prompts: &[Vec<u32>],
    settings: &Settings,
    batch_size: usize,
    done: &mut dyn FnMut(usize, Generation),
) {
    assert!(batch_size > 0, "batch_size is at least 1");
    let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
    let slots = batch_size.min(prompts.len());
    let mut session = model.session(slots, settings.capacity(model, longest));
    let mut lanes: Vec<Option<(usize, Sequence)>> = (0..slots).map(|_| None).collect();
    let mut waiting = prompts.iter().enumerate();
    loop {
        let mut fresh = Vec::new();
        for (slot, lane) in lanes.iter_mut().enumerate().filter(|(_, lane)| lane.is_none()) {
            if let Some((index, prompt)) = waiting.next() {
                session.truncate(slot, 0);
                let sequence = Sequence::new(settings, prompt, model.context_length());
                fresh.push((slot, &mut lane.insert((index, sequence)).1));
            }
        }
        if !fresh.is_empty() {
            prefill(&mut *session, &mut fresh, settings);
        }
        let mut open: Vec<(usize, &mut Sequence)> = Vec::new();
        for (slot, lane) in lanes.iter_mut().enumerate() {
            open.extend(lane.as_mut().filter(|(_, sequence)| sequence.is_open()).map(|(_, s)| (slot, s)));
        }
        if !open.is_empty() {
            step(&mut *session, &mut open, settings);
        }
        for lane in &mut lanes {
            if let Some((index, sequence)) = lane.take_if(|(_, sequence)| !sequence.is_open()) {
                done(index, sequence.finish());
            }
        }
        if lanes.iter().all(Option::is_none) && waiting.len() == 0 {
            return;
        }
    }
}

fn prefill(session: &mut dyn Session, lanes: &mut [(usize, &mut Sequence)], settings: &Settings) {
    let started = Instant::now();
    let rows: Vec<Rows> = lanes.iter().map(|(_, sequence)| Rows::chain(sequence.text())).collect();
    let work: Vec<Work> = lanes
        .iter()
        .zip(&rows)
        .map(|((slot, _), rows)| Work { slot: *slot, rows, first_output: rows.len() - 1 })
        .collect();
    let predictions = session.forward(&work);
    let greedy = if settings.sampling == Sampling::Greedy { predictions.greedy() } else { Vec::new() };
    let seconds = started.elapsed().as_secs_f64();
    for (output, ((slot, sequence), rows)) in lanes.iter_mut().zip(&rows).enumerate() {
        session.keep(*slot, &(0..rows.len()).collect::<Vec<_>>());
        sequence.begin(&Outputs::new(&*predictions, &greedy, output), seconds);
    }
}

/// One pass over the drafts of open sequences.
fn step(session: &mut dyn Session, lanes: &mut [(usize, &mut Sequence)], settings: &Settings) -> Vec<Pass> {
    let started = Instant::now();
    let drafts: Vec<Draft> = lanes.iter_mut().map(|(_, sequence)| sequence.draft()).collect();
    let work: Vec<Work> = lanes
        .iter()
        .zip(&drafts)
        .map(|((slot, _), draft)| Work { slot: *slot, rows: draft.rows(), first_output: 0 })
        .collect();
    let predictions = session.forward(&work);
    let greedy = if settings.sampling == Sampling::Greedy { predictions.greedy() } else { Vec::new() };
    let mut first = 0;
    let mut passes = Vec::with_capacity(lanes.len());
    for ((slot, sequence), draft) in lanes.iter_mut().zip(drafts) {
        let outputs = Outputs::new(&*predictions, &greedy, first);
        first += draft.rows().len();
        let pass = sequence.absorb(draft, &outputs);
        session.keep(*slot, &pass.path);
        passes.push(pass);
    }
    let seconds = started.elapsed().as_secs_f64();
    for ((_, sequence), pass) in lanes.iter_mut().zip(&passes) {
        sequence.stats.count(pass, seconds);
    }
    passes
}
