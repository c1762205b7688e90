//! Samples in, trajectories out: what a generation run does between reading prompts and writing shards. Knows token ids
//! and the model; files, text and filters are the caller's.

use std::{cell::RefCell, ops::ControlFlow};

use jacobi_datasets::{FinishReason, State};
use jacobi_decoder::{JacobiConfig, Request, Settings, StopRules, Strategy, generate_batch};
use jacobi_model::LanguageModel;

use crate::recorder::Recorder;

/// One prompt to be answered.
pub(crate) struct Sample {
    /// At least one token, and fewer than the model's context holds.
    pub(crate) prompt: Vec<u32>,
    /// Of the fillers of its blocks.
    pub(crate) seed: u64,
}

/// What all samples of a run have in common.
pub(crate) struct EngineSettings {
    /// Tokens refined together, n.
    pub(crate) block_size: usize,
    /// When responses end.
    pub(crate) stop: StopRules,
    /// Samples worked on side by side.
    pub(crate) batch_size: usize,
}

/// A response with the states of its blocks.
pub(crate) struct Made {
    pub(crate) response_tokens: Vec<u32>,
    pub(crate) finish_reason: FinishReason,
    /// In order of block, then iteration.
    pub(crate) states: Vec<State>,
}

/// How far a run of the engine is, all samples so far together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct EngineProgress {
    /// Response tokens of the samples that are done.
    pub(crate) tokens: usize,
    /// Forward passes.
    pub(crate) forwards: usize,
}

/// What the engine tells while it works.
pub(crate) enum Event {
    /// The sample with this key is done. They end in any order.
    Made(usize, Made),
}

/// Makes the trajectories of `samples`, each named by a key of the caller's, and asks for the next sample only when there
/// is room for it. `hear` may break off: what is unfinished is forgotten.
pub(crate) fn make(
    model: &dyn LanguageModel,
    settings: &EngineSettings,
    samples: &mut dyn Iterator<Item = (usize, Sample)>,
    hear: &mut dyn FnMut(EngineProgress, Event) -> ControlFlow<()>,
) {
    let mut progress = EngineProgress::default();
    loop {
        let (keys, requests): (Vec<usize>, Vec<Request>) =
            samples.take(settings.batch_size).map(|(key, sample)| (key, request(settings, sample))).unzip();
        if requests.is_empty() {
            return;
        }
        let recorders: RefCell<Vec<Recorder>> =
            RefCell::new(requests.iter().map(|_| Recorder::default()).collect());
        let mut broken = false;
        generate_batch(
            model,
            &requests,
            settings.batch_size,
            &mut |at, pass| recorders.borrow_mut()[at].record(pass),
            &mut |at, response| {
                progress.tokens += response.tokens.len();
                progress.forwards += response.stats.forwards;
                let recorder = std::mem::take(&mut recorders.borrow_mut()[at]);
                let made = Made {
                    states: recorder.states(&response.tokens, settings.block_size),
                    response_tokens: response.tokens,
                    finish_reason: response.finish_reason,
                };
                let flow = hear(progress, Event::Made(keys[at], made));
                broken = flow.is_break();
                flow
            },
        );
        if broken {
            return;
        }
    }
}

fn request(settings: &EngineSettings, sample: Sample) -> Request {
    let strategy = Strategy::Jacobi(JacobiConfig { block_size: settings.block_size, seed: sample.seed });
    Request { prompt: sample.prompt, settings: Settings::greedy(strategy, settings.stop.clone()) }
}
