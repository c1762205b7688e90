//! Responses pass by pass: one as an iterator, many side by side with continuous batching.

use std::{ops::ControlFlow, time::Instant};

use jacobi_datasets::FinishReason;
use jacobi_model::{LanguageModel, Predictions, Rows, Session, Work};

use crate::{DecodeStats, Draft, Generation, Pass, Settings, outputs::Outputs, sequence::Sequence};

/// One response as it grows: an iterator over its passes.
pub struct Decoding<'a> {
    session: Box<dyn Session + 'a>,
    sequence: Sequence<'a>,
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
        prefill(&mut *session, &mut [(0, &mut sequence)]);
        Self { session, sequence }
    }

    /// Has passes say which rank the right token had where a draft was wrong ([`Pass::rejected_rank`]). Costs time in
    /// every pass, and changes nothing else.
    pub fn rank_rejections(mut self) -> Self {
        self.sequence.rank_rejections();
        self
    }

    /// The prompt and the response so far.
    pub fn text(&self) -> &[u32] {
        self.sequence.text()
    }

    /// Passes, acceptance and time so far.
    pub fn stats(&self) -> DecodeStats {
        self.sequence.stats()
    }

    /// Why the response ended; none while it grows.
    pub fn finish_reason(&self) -> Option<FinishReason> {
        self.sequence.finish_reason()
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
        step(&mut *self.session, &mut [(0, &mut self.sequence)]).pop()
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

/// A prompt with the settings of its response.
#[derive(Clone, Debug)]
pub struct Request {
    /// At least one token, and fewer than the context holds.
    pub prompt: Vec<u32>,
    /// How to answer it.
    pub settings: Settings,
}

/// Decodes a response to each request, up to `batch_size` side by side: a slot that is done takes the next request at
/// once. `observe` sees every pass with its request's index, `done` gets the response in the order in which they end and
/// may break off. Who shares a pass with whom changes no response in fp32.
///
/// # Panics
/// As [`Decoding::new`], and if `batch_size` is 0.
pub fn generate_batch(
    model: &dyn LanguageModel,
    requests: &[Request],
    batch_size: usize,
    observe: &mut dyn FnMut(usize, &Pass),
    done: &mut dyn FnMut(usize, Generation) -> ControlFlow<()>,
) {
    assert!(batch_size > 0, "batch_size is at least 1");
    let room = |request: &Request| request.settings.capacity(model, request.prompt.len());
    let Some(capacity) = requests.iter().map(room).max() else { return };
    let slots = batch_size.min(requests.len());
    let mut session = model.session(slots, capacity);
    let mut lanes: Vec<Option<(usize, Sequence)>> = (0..slots).map(|_| None).collect();
    let mut waiting = requests.iter().enumerate();
    loop {
        let mut fresh = Vec::new();
        for (slot, lane) in lanes.iter_mut().enumerate().filter(|(_, lane)| lane.is_none()) {
            if let Some((index, request)) = waiting.next() {
                session.truncate(slot, 0);
                let sequence = Sequence::new(&request.settings, &request.prompt, model.context_length());
                fresh.push((slot, &mut lane.insert((index, sequence)).1));
            }
        }
        if !fresh.is_empty() {
            prefill(&mut *session, &mut fresh);
        }
        let mut open: Vec<(usize, &mut Sequence)> = Vec::new();
        let mut indices = Vec::new();
        for (slot, lane) in lanes.iter_mut().enumerate() {
            if let Some((index, sequence)) = lane.as_mut().filter(|(_, sequence)| sequence.is_open()) {
                open.push((slot, sequence));
                indices.push(*index);
            }
        }
        if !open.is_empty() {
            for (index, pass) in indices.into_iter().zip(step(&mut *session, &mut open)) {
                observe(index, &pass);
            }
        }
        for lane in &mut lanes {
            if let Some((index, sequence)) = lane.take_if(|(_, sequence)| !sequence.is_open())
                && done(index, sequence.finish()).is_break()
            {
                return;
            }
        }
        if lanes.iter().all(Option::is_none) && waiting.len() == 0 {
            return;
        }
    }
}

fn prefill(session: &mut dyn Session, lanes: &mut [(usize, &mut Sequence)]) {
    let started = Instant::now();
    let rows: Vec<Rows> = lanes.iter().map(|(_, sequence)| Rows::chain(sequence.text())).collect();
    let work: Vec<Work> = lanes
        .iter()
        .zip(&rows)
        .map(|((slot, _), rows)| Work { slot: *slot, rows, first_output: rows.len() - 1 })
        .collect();
    let predictions = session.forward(&work);
    let greedy = most_probable(&*predictions, lanes);
    let seconds = started.elapsed().as_secs_f64();
    for (output, ((slot, sequence), rows)) in lanes.iter_mut().zip(&rows).enumerate() {
        session.keep(*slot, &(0..rows.len()).collect::<Vec<_>>());
        sequence.begin(&Outputs::new(&*predictions, &greedy, output), seconds);
    }
}

/// One pass over the drafts of open sequences.
fn step(session: &mut dyn Session, lanes: &mut [(usize, &mut Sequence)]) -> Vec<Pass> {
    let started = Instant::now();
    let drafts: Vec<Draft> = lanes.iter_mut().map(|(_, sequence)| sequence.draft()).collect();
    let work: Vec<Work> = lanes
        .iter()
        .zip(&drafts)
        .map(|((slot, _), draft)| Work { slot: *slot, rows: draft.rows(), first_output: 0 })
        .collect();
    let predictions = session.forward(&work);
    let greedy = most_probable(&*predictions, lanes);
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

/// The greedy tokens of a pass, if anyone wants them.
fn most_probable(predictions: &dyn Predictions, lanes: &[(usize, &mut Sequence)]) -> Vec<u32> {
    if lanes.iter().any(|(_, sequence)| sequence.is_greedy()) { predictions.greedy() } else { Vec::new() }
}
