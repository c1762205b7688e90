//! One response, decoded pass by pass.

use jacobi_datasets::FinishReason;
use jacobi_model::{LanguageModel, Session};

use crate::{
    DecodeStats, Generation, Pass, Request, Settings,
    lane::{Lane, advance},
};

/// One response as it grows: an iterator over its passes.
pub struct Decoding<'a> {
    session: Box<dyn Session + 'a>,
    lane: Lane,
}

impl<'a> Decoding<'a> {
    /// Runs the prefill, which gives the first token.
    ///
    /// # Panics
    /// If the prompt is empty or fills the model's context, or a setting is out of range: callers validate what users
    /// give.
    pub fn new(model: &'a dyn LanguageModel, prompt: &[u32], settings: &Settings) -> Self {
        let request = Request::new(prompt.to_vec(), settings.clone());
        let lane = Lane::new(request, model);
        let session = model.session(1, settings.capacity(model, prompt.len()));
        let mut decoding = Self { session, lane };
        decoding.step();
        decoding
    }

    /// Fills in [`Pass::rejected_rank`] from now on. Costs time in every pass, and changes nothing else.
    pub fn rank_rejections(mut self) -> Self {
        self.lane.rank_rejections();
        self
    }

    /// The prompt and the response so far.
    pub fn text(&self) -> &[u32] {
        self.lane.sequence().text()
    }

    /// Passes, acceptance and time so far.
    pub fn stats(&self) -> DecodeStats {
        self.lane.sequence().stats()
    }

    /// Why the response ended; `None` while it grows.
    pub fn finish_reason(&self) -> Option<FinishReason> {
        self.lane.sequence().finish_reason()
    }

    /// The response, once it is complete.
    ///
    /// # Panics
    /// If it is not.
    pub fn finish(self) -> Generation {
        self.lane.into_generation()
    }
}

impl Decoding<'_> {
    fn step(&mut self) -> Option<Pass> {
        let lane_rows = self.lane.all_rows();
        advance(&mut *self.session, &mut [(0, &mut self.lane)], vec![lane_rows]).pop().flatten()
    }
}

impl Iterator for Decoding<'_> {
    type Item = Pass;

    fn next(&mut self) -> Option<Pass> {
        if self.lane.is_done() { None } else { self.step() }
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
