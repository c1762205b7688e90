//! Samples in, trajectories out: what a generation run does between reading prompts and writing shards. Knows token ids
//! and the model; files, text and filters are the caller's. The work itself is the decoder's: responses and the blocks
//! they have grown past share its passes.

use std::ops::ControlFlow;

use jacobi_datasets::{FinishReason, State};
use jacobi_decoder::{
    Answer, BatchEvent, Disagreement, RandomSampling, Request, Response, Room, Sampling, Settings, States,
    StopRules, Strategy, Trajectories, generate_batch,
};
use jacobi_model::LanguageModel;

/// One prompt to be answered.
pub(crate) struct Sample {
    /// At least one token, and fewer than the model's context holds.
    pub(crate) prompt: Vec<u32>,
    /// A response that is there already, with at least one token.
    pub(crate) response: Option<Vec<u32>>,
    /// Of the fillers of its blocks, and of the noise of a sampled response.
    pub(crate) seed: u64,
}

/// What all samples of a run have in common.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct EngineSettings {
    /// Tokens refined together, n.
    pub(crate) block_size: usize,
    /// Which of their states are recorded.
    pub(crate) states: States,
    /// When responses end.
    pub(crate) stop: StopRules,
    /// How responses are drawn, each with noise of its own; `None` is greedily.
    pub(crate) sampling: Option<RandomSampling>,
    /// What to do where a given response is not the model's.
    pub(crate) on_disagreement: Disagreement,
    /// How much is worked on at a time.
    pub(crate) room: Room,
}

/// A response with the states of its blocks.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) response_tokens: Vec<u32>,
    pub(crate) finish_reason: FinishReason,
    /// In order of block, then iteration.
    pub(crate) states: Vec<State>,
    /// Blocks in which a given response was not the model's, which has taken its place.
    pub(crate) disagreeing_blocks: usize,
}

/// What the samples that are done came to, all together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct EngineProgress {
    /// Response tokens.
    pub(crate) tokens: usize,
    /// Jacobi iterations of the blocks, up to the last recorded state of each.
    pub(crate) iterations: usize,
}

/// What the engine tells while it works.
#[derive(Debug)]
pub(crate) enum Event {
    /// A forward pass has ended: time to draw, or to break off.
    Forward,
    /// The sample with this key is done. They end in any order.
    Made(usize, Made),
    /// The response given with this sample is not the model's in so many blocks, and another was not wanted.
    Refused(usize, usize),
}

/// Makes the trajectories of `samples`, each named by a key of the caller's, and asks for the next sample only when there
/// is room for it. `on_event` may break off at any event: what is unfinished is forgotten.
pub(crate) fn make(
    model: &dyn LanguageModel,
    settings: &EngineSettings,
    samples: &mut dyn Iterator<Item = (usize, Sample)>,
    on_event: &mut dyn FnMut(EngineProgress, Event) -> ControlFlow<()>,
) {
    let mut progress = EngineProgress::default();
    let mut requests = samples.map(|(key, sample)| (key, request(settings, sample)));
    generate_batch(model, &mut requests, settings.room, &mut |event| match event {
        BatchEvent::Prefill(..) | BatchEvent::Pass(..) => ControlFlow::Continue(()),
        BatchEvent::Forward(_) => on_event(progress, Event::Forward),
        BatchEvent::Done(key, Answer::Refused { disagreeing_blocks }) => {
            on_event(progress, Event::Refused(key, disagreeing_blocks))
        }
        BatchEvent::Done(key, Answer::Response(Response { generation, states, disagreeing_blocks })) => {
            progress.tokens += generation.tokens.len();
            progress.iterations += iterations(&states);
            let (response_tokens, finish_reason) = (generation.tokens, generation.finish_reason);
            on_event(
                progress,
                Event::Made(key, Made { response_tokens, finish_reason, states, disagreeing_blocks }),
            )
        }
    });
}

/// What the blocks of `states` took together, in order of block, then iteration.
fn iterations(states: &[State]) -> usize {
    let blocks = states.chunk_by(|one, next| one.block == next.block);
    blocks.filter_map(|block| block.last()).map(|last| last.iteration as usize).sum()
}

fn request(settings: &EngineSettings, sample: Sample) -> Request {
    let Sample { prompt, response, seed } = sample;
    let sampling = match &settings.sampling {
        Some(sampling) => Sampling::Random(RandomSampling { seed, ..sampling.clone() }),
        None => Sampling::Greedy,
    };
    let greedy = Settings::greedy(Strategy::Autoregressive, settings.stop.clone());
    let (block_size, states) = (settings.block_size, settings.states);
    Request {
        given: response,
        on_disagreement: settings.on_disagreement,
        trajectories: Some(Trajectories { block_size, seed, states }),
        ..Request::new(prompt, Settings { sampling, ..greedy })
    }
}
