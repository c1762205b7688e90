//! One request on its way through passes that it shares with others: the prompt, the response, and the blocks of the
//! response, each from the moment it is complete on.

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
    /// Those of the response so far that are complete.
    blocks: Vec<Block>,
}

#[derive(PartialEq)]
enum Stage {
    /// The prompt, and a given response behind it, are to be run.
    Prefill,
    /// The response grows.
    Answering,
    /// It is complete; blocks may still iterate.
    Answered,
    /// The given response is not the model's.
    Refused,
}

/// What can be asked of a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// The next tokens of the response.
    Answer,
    /// An iteration of blocks.
    Blocks,
    /// The prompt.
    Prefill,
}

impl Part {
    /// The most urgent first: what grows decides how many passes there are, and a new request makes more of all of it.
    pub(crate) const ALL: [Self; 3] = [Self::Answer, Self::Blocks, Self::Prefill];
}

/// Rows that a pass still has room for. Who comes first always finds room, and so does the first prompt: a lane that waits
/// for rows that nobody else wants may wait for long, and one prompt can have more rows than a pass.
pub(crate) struct Space {
    rows: usize,
    left: usize,
    opened: bool,
}

impl Space {
    pub(crate) fn new(rows: usize) -> Self {
        Self { rows, left: rows, opened: false }
    }

    fn holds(&self, rows: usize) -> bool {
        rows <= self.left || self.left == self.rows
    }

    fn take(&mut self, rows: usize) {
        self.left = self.left.saturating_sub(rows);
    }
}

/// What a lane wants of a pass.
#[derive(Default)]
pub(crate) struct Turn {
    end: Option<End>,
    /// Some blocks, by their place among all.
    blocks: Vec<(usize, Place, Rows)>,
}

/// Rows at the end of the text.
enum End {
    Prefill { rows: Rows, first_output: usize },
    Answering(Draft),
}

impl End {
    fn rows(&self) -> &Rows {
        match self {
            Self::Prefill { rows, .. } => rows,
            Self::Answering(draft) => draft.rows(),
        }
    }

    fn first_output(&self) -> usize {
        match self {
            Self::Prefill { first_output, .. } => *first_output,
            Self::Answering(_) => 0,
        }
    }
}

impl Turn {
    pub(crate) fn work(&self, slot: usize) -> Vec<Work<'_>> {
        let end = self.end.iter().map(|end| (Place::End, end.rows(), end.first_output()));
        let blocks = self.blocks.iter().map(|(_, place, rows)| (*place, rows, 0));
        let work = end.chain(blocks);
        work.map(|(place, rows, first_output)| Work { slot, place, rows, first_output }).collect()
    }

    pub(crate) fn rows(&self) -> usize {
        let end = self.end.iter().map(End::rows);
        end.chain(self.blocks.iter().map(|(.., rows)| rows)).map(Rows::len).sum()
    }
}

/// What came of a turn.
#[derive(Default)]
pub(crate) struct Outcome {
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
            stage: Stage::Prefill,
            blocks: Vec::new(),
        }
    }

    pub(crate) fn sequence(&self) -> &Sequence {
        &self.sequence
    }

    pub(crate) fn sequence_mut(&mut self) -> &mut Sequence {
        &mut self.sequence
    }

    pub(crate) fn is_done(&self) -> bool {
        match &self.stage {
            Stage::Prefill | Stage::Answering => false,
            Stage::Answered => self.blocks.iter().all(Block::is_done),
            Stage::Refused => true,
        }
    }

    /// Everything it wants of the next pass.
    pub(crate) fn turn(&mut self) -> Turn {
        let mut turn = Turn::default();
        for part in Part::ALL {
            self.ask(part, &mut Space::new(usize::MAX), &mut turn);
        }
        turn
    }

    /// Adds to `turn` what it wants of one kind, as far as there is `space`.
    pub(crate) fn ask(&mut self, part: Part, space: &mut Space, turn: &mut Turn) {
        match (part, &self.stage) {
            (Part::Answer, Stage::Answering) => {
                let draft = self.sequence.draft();
                space.take(draft.rows().len());
                turn.end = Some(End::Answering(draft));
            }
            (Part::Prefill, Stage::Prefill) => {
                let (rows, first_output) = self.sequence.opening();
                if space.holds(rows.len()) || !space.opened {
                    space.opened = true;
                    space.take(rows.len());
                    turn.end = Some(End::Prefill { rows, first_output });
                }
            }
            (Part::Blocks, Stage::Answering | Stage::Answered) => {
                for (at, block) in self.blocks.iter().enumerate().filter(|(_, block)| !block.is_done()) {
                    if !space.holds(block.asked()) {
                        return;
                    }
                    space.take(block.asked());
                    let (place, rows) = block.ask();
                    turn.blocks.push((at, place, rows));
                }
            }
            _ => {}
        }
    }

    /// Takes what the model said.
    pub(crate) fn absorb(&mut self, turn: Turn, mut outputs: Outputs) -> Outcome {
        let of_end = turn.end.as_ref().map_or(0, |end| end.rows().len() - end.first_output());
        let heard = match turn.end {
            Some(End::Prefill { rows, first_output }) => self.begin(&rows, first_output, &outputs),
            Some(End::Answering(draft)) => {
                let pass = self.sequence.absorb(draft, &outputs);
                Outcome { keep: pass.path.clone(), pass: Some(pass) }
            }
            None => Outcome::default(),
        };
        outputs.skip(of_end);
        let text = self.sequence.text();
        for (at, place, rows) in turn.blocks {
            let Place::After(prefix) = place else { panic!("blocks lie within their text") };
            let chosen = outputs.choose(self.sequence.sampling(), &rows, &text[..prefix]);
            self.blocks[at].absorb(text, &chosen);
            outputs.skip(rows.len());
        }
        if self.stage == Stage::Answering {
            self.grown();
        }
        heard
    }

    fn begin(&mut self, rows: &Rows, first_output: usize, outputs: &Outputs) -> Outcome {
        let wrong = self.sequence.begin(outputs);
        // A response without trajectories is one block.
        let block = self.trajectories.as_ref().map_or(usize::MAX, |config| config.block_size);
        let mut blocks: Vec<usize> = wrong.iter().map(|at| at / block).collect();
        blocks.dedup();
        self.disagreeing_blocks = blocks.len();
        let refused = !blocks.is_empty() && self.on_disagreement == Disagreement::Refuse;
        self.stage = if refused { Stage::Refused } else { Stage::Answering };
        let keep = self.sequence.text().len() - 1;
        assert!(first_output < keep + 1 && keep <= rows.len(), "{keep} of {} rows are right", rows.len());
        Outcome { keep: (0..keep).collect(), pass: None }
    }

    /// The response has grown: blocks that are complete with it may iterate.
    fn grown(&mut self) {
        let open = self.sequence.is_open();
        if let Some(config) = &self.trajectories {
            let response = (self.sequence.prompt(), open);
            Block::add_complete(&mut self.blocks, self.sequence.text(), response, config);
        }
        if !open {
            self.stage = Stage::Answered;
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
            Stage::Answered => Answer::Response(Response {
                generation: self.sequence.finish(),
                states: self.blocks.into_iter().flat_map(Block::into_states).collect(),
                disagreeing_blocks,
            }),
            Stage::Refused => Answer::Refused { disagreeing_blocks },
            Stage::Prefill | Stage::Answering => panic!("the request is not done"),
        }
    }
}
