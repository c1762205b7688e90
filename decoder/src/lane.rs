//! One request on its way through passes that it shares with others: the prompt, the response, then the blocks of the
//! response.

use jacobi_model::{Place, Rows, Work};

use crate::{
    Answer, Disagreement, Draft, Generation, Pass, Request, Response, Trajectories, blocks::Block,
    outputs::Outputs, sequence::Sequence,
};

pub(crate) struct Lane {
    sequence: Sequence,
    trajectories: Option<Trajectories>,
    on_disagreement: Disagreement,
    /// Blocks in which a given response is not the model's.
    disagreeing_blocks: usize,
    stage: Stage,
}

enum Stage {
    /// The prompt, and a given response behind it, are to be run.
    Opening,
    /// The response grows.
    Answering,
    /// Its blocks iterate.
    Refining(Vec<Block>),
    /// The given response is not the model's.
    Refused,
}

/// What a lane wants of a pass.
pub(crate) enum Turn {
    Opening {
        rows: Rows,
        first_output: usize,
    },
    Answering(Draft),
    /// Some blocks, by their place among all.
    Refining(Vec<(usize, Place, Rows)>),
}

impl Turn {
    pub(crate) fn work(&self, slot: usize) -> Vec<Work<'_>> {
        let at_end = |rows, first_output| vec![Work { slot, place: Place::End, rows, first_output }];
        match self {
            Self::Opening { rows, first_output } => at_end(rows, *first_output),
            Self::Answering(draft) => at_end(draft.rows(), 0),
            Self::Refining(blocks) => {
                let work = blocks.iter().map(|(_, place, rows)| (*place, rows));
                work.map(|(place, rows)| Work { slot, place, rows, first_output: 0 }).collect()
            }
        }
    }

    pub(crate) fn rows(&self) -> usize {
        match self {
            Self::Opening { rows, .. } => rows.len(),
            Self::Answering(draft) => draft.rows().len(),
            Self::Refining(blocks) => blocks.iter().map(|(.., rows)| rows.len()).sum(),
        }
    }
}

/// What came of a turn.
#[derive(Default)]
pub(crate) struct Heard {
    /// Rows to be cached.
    pub(crate) keep: Vec<usize>,
    /// What observers see.
    pub(crate) pass: Option<Pass>,
}

impl Lane {
    /// # Panics
    /// As [`Sequence::new`].
    pub(crate) fn new(request: Request, context: usize) -> Self {
        let Request { prompt, settings, given, trajectories, on_disagreement } = request;
        Self {
            sequence: Sequence::new(settings, &prompt, given, context),
            trajectories,
            on_disagreement,
            disagreeing_blocks: 0,
            stage: Stage::Opening,
        }
    }

    pub(crate) fn sequence(&self) -> &Sequence {
        &self.sequence
    }

    pub(crate) fn sequence_mut(&mut self) -> &mut Sequence {
        &mut self.sequence
    }

    pub(crate) fn is_opening(&self) -> bool {
        matches!(self.stage, Stage::Opening)
    }

    pub(crate) fn is_answering(&self) -> bool {
        matches!(self.stage, Stage::Answering)
    }

    pub(crate) fn is_done(&self) -> bool {
        match &self.stage {
            Stage::Opening | Stage::Answering => false,
            Stage::Refining(blocks) => blocks.iter().all(Block::is_done),
            Stage::Refused => true,
        }
    }

    /// What it wants of the next pass. Of its blocks as many as `room` rows hold; that may be none.
    ///
    /// # Panics
    /// If it is done.
    pub(crate) fn turn(&mut self, room: usize) -> Turn {
        match &self.stage {
            Stage::Opening => {
                let (rows, first_output) = self.sequence.opening();
                Turn::Opening { rows, first_output }
            }
            Stage::Answering => Turn::Answering(self.sequence.draft()),
            Stage::Refining(blocks) => {
                let mut left = room;
                let mut asked = Vec::new();
                for (at, block) in blocks.iter().enumerate().filter(|(_, block)| !block.is_done()) {
                    if block.asked() > left {
                        break;
                    }
                    left -= block.asked();
                    let (place, rows) = block.ask();
                    asked.push((at, place, rows));
                }
                Turn::Refining(asked)
            }
            Stage::Refused => panic!("a refused request has no turn"),
        }
    }

    /// Takes what the model said.
    pub(crate) fn absorb(&mut self, turn: Turn, mut outputs: Outputs) -> Heard {
        match turn {
            Turn::Opening { rows, first_output } => self.begin(&rows, first_output, &outputs),
            Turn::Answering(draft) => {
                let pass = self.sequence.absorb(draft, &outputs);
                self.answered();
                Heard { keep: pass.path.clone(), pass: Some(pass) }
            }
            Turn::Refining(asked) => {
                let Stage::Refining(blocks) = &mut self.stage else { panic!("blocks were asked for") };
                let text = self.sequence.text();
                for (at, place, rows) in asked {
                    let Place::After(prefix) = place else { panic!("blocks lie within their text") };
                    let chosen = outputs.choose(self.sequence.sampling(), &rows, &text[..prefix]);
                    blocks[at].absorb(text, &chosen);
                    outputs.skip(rows.len());
                }
                Heard::default()
            }
        }
    }

    fn begin(&mut self, rows: &Rows, first_output: usize, outputs: &Outputs) -> Heard {
        let wrong = self.sequence.begin(outputs);
        // A response without trajectories is one block.
        let block = self.trajectories.as_ref().map_or(usize::MAX, |config| config.block_size);
        let mut blocks: Vec<usize> = wrong.iter().map(|at| at / block).collect();
        blocks.dedup();
        self.disagreeing_blocks = blocks.len();
        if !blocks.is_empty() && self.on_disagreement == Disagreement::Refuse {
            self.stage = Stage::Refused;
        } else {
            self.stage = Stage::Answering;
            self.answered();
        }
        let keep = self.sequence.text().len() - 1;
        assert!(first_output < keep + 1 && keep <= rows.len(), "{keep} of {} rows are right", rows.len());
        Heard { keep: (0..keep).collect(), pass: None }
    }

    /// Sees whether the response is complete; its blocks are next.
    fn answered(&mut self) {
        if !self.sequence.is_open() {
            let all =
                |config: &Trajectories| Block::all(self.sequence.text(), self.sequence.prompt(), config);
            self.stage = Stage::Refining(self.trajectories.as_ref().map(all).unwrap_or_default());
        }
    }

    /// The response alone.
    ///
    /// # Panics
    /// If it is not complete.
    pub(crate) fn into_generation(self) -> Generation {
        self.sequence.finish()
    }

    /// What became of the request.
    ///
    /// # Panics
    /// If it is not done.
    pub(crate) fn finish(self) -> Answer {
        let disagreeing_blocks = self.disagreeing_blocks;
        match self.stage {
            Stage::Refining(blocks) => Answer::Response(Response {
                generation: self.sequence.finish(),
                states: blocks.into_iter().flat_map(Block::into_states).collect(),
                disagreeing_blocks,
            }),
            Stage::Refused => Answer::Refused { disagreeing_blocks },
            Stage::Opening | Stage::Answering => panic!("the request is not done"),
        }
    }
}
