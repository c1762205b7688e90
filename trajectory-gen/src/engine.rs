//! Turns samples into trajectories. Handles token ids only; the caller handles files, text and filters. The
//! decoder does the work: its passes extend responses and at the same time refine the blocks that are already
//! decoded.

use std::ops::ControlFlow;

use jacobi_datasets::{FinishReason, State, Trajectory};
use jacobi_decoder::{
    Answer, BatchEvent, Disagreement, RandomSampling, Request, Response, Room, Sampling, Settings, States,
    StopRules, Strategy, Trajectories, generate_batch,
};
use jacobi_model::LanguageModel;

/// One prompt to be answered.
pub(crate) struct Sample {
    /// At least one token, and fewer than the model's context holds.
    pub(crate) prompt: Vec<u32>,
    /// A given response, of at least one token.
    pub(crate) response: Option<Vec<u32>>,
    /// Seed of the fillers of its blocks, and of the noise of a sampled response.
    pub(crate) seed: u64,
}

/// Settings of all samples of a run.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct EngineSettings {
    /// Tokens refined together, n.
    pub(crate) block_size: usize,
    /// Which states of a block are recorded, if any.
    pub(crate) states: Option<States>,
    /// How responses are decoded.
    pub(crate) strategy: Strategy,
    /// When responses end.
    pub(crate) stop: StopRules,
    /// How responses are sampled, each with noise from its own seed; `None` is greedy.
    pub(crate) sampling: Option<RandomSampling>,
    /// What to do where a given response differs from the model's.
    pub(crate) on_disagreement: Disagreement,
    /// Bounds of the batch.
    pub(crate) room: Room,
}

/// A response with the states of its blocks.
#[derive(Debug)]
pub(crate) struct Completion {
    pub(crate) response_tokens: Vec<u32>,
    pub(crate) finish_reason: FinishReason,
    /// In order of block, then iteration.
    pub(crate) states: Vec<State>,
    /// Blocks in which the model's response has replaced a different given one.
    pub(crate) disagreeing_blocks: usize,
}

impl Completion {
    pub(crate) fn into_row(self, sample_id: String, prompt_tokens: Vec<u32>) -> Trajectory {
        let Self { response_tokens, finish_reason, states, .. } = self;
        Trajectory { sample_id, prompt_tokens, response_tokens, finish_reason, states }
    }
}

/// Totals over the finished samples.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct EngineProgress {
    /// Response tokens.
    pub(crate) tokens: usize,
    /// Jacobi iterations of the blocks, up to the last recorded state of each.
    pub(crate) iterations: usize,
}

/// An event of [`make_trajectories`].
#[derive(Debug)]
pub(crate) enum Event {
    /// A forward pass has ended.
    Forward,
    /// The sample with this key is finished. Samples finish in any order.
    Completed(usize, Completion),
    /// The sample with this key is refused: its given response differs from the model's in this many blocks.
    Refused(usize, usize),
}

/// Makes the trajectories of `samples`, each with a key. Takes the next sample only when there is room for it.
/// `on_event` can stop at any event; unfinished samples are dropped.
pub(crate) fn make_trajectories(
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
                Event::Completed(
                    key,
                    Completion { response_tokens, finish_reason, states, disagreeing_blocks },
                ),
            )
        }
    });
}

/// Iterations of all blocks together. `states` are in order of block, then iteration.
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
    let greedy = Settings::greedy(settings.strategy.clone(), settings.stop.clone());
    let (block_size, states) = (settings.block_size, settings.states);
    Request {
        given: response,
        on_disagreement: settings.on_disagreement,
        trajectories: states.map(|states| Trajectories { block_size, seed, states }),
        ..Request::new(prompt, Settings { sampling, ..greedy })
    }
}
