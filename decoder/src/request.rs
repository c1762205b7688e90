//! The requests to a batch, and its answers.

use jacobi_datasets::{FinishReason, State};

use crate::{DecodeStats, Settings, Trajectories};

/// A prompt to answer.
#[derive(Clone, Debug)]
pub struct Request {
    /// At least one token, and fewer than the context holds.
    pub prompt: Vec<u32>,
    /// How to answer it.
    pub settings: Settings,
    /// A response to verify: it is compared with the model's own, and kept as far as they agree.
    pub given: Option<Vec<u32>>,
    /// What to do where they disagree.
    pub on_disagreement: Disagreement,
    /// Record the trajectories of the response's blocks too.
    pub trajectories: Option<Trajectories>,
}

/// What to do where a given response differs from the model's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Disagreement {
    /// Go on with the model's own tokens from the first difference.
    #[default]
    Replace,
    /// Answer with [`Answer::Refused`].
    Refuse,
}

impl Request {
    /// A prompt to answer, without a given response and without trajectories.
    pub fn new(prompt: Vec<u32>, settings: Settings) -> Self {
        let on_disagreement = Disagreement::default();
        Self { prompt, settings, given: None, on_disagreement, trajectories: None }
    }
}

/// A decoded response.
#[derive(Clone, Debug)]
pub struct Generation {
    /// The response, including EOS if that ended it.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// Forward passes, acceptance and time.
    pub stats: DecodeStats,
}

/// The answer to a request.
#[derive(Clone, Debug)]
pub enum Answer {
    /// A response.
    Response(Response),
    /// The given response is not the model's.
    Refused {
        /// Blocks of the given response that contain a token which is not the model's.
        disagreeing_blocks: usize,
    },
}

/// A response and the trajectories of its blocks.
#[derive(Clone, Debug)]
pub struct Response {
    /// The tokens, and the cost of the passes that found them.
    pub generation: Generation,
    /// In order of block, then iteration; empty unless the request asked for trajectories.
    pub states: Vec<State>,
    /// As in [`Answer::Refused`].
    pub disagreeing_blocks: usize,
}
