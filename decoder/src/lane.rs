//! A lane: one request, from its prefill to its answer. It can have three kinds of rows in a pass: the prompt, the
//! next draft of the response with the rows of an adapter, and the blocks of the response that are complete, which
//! are refined for their trajectories.

use std::time::Instant;

use jacobi_model::{LanguageModel, Place, Rows, Session, Work};

use crate::{
    Answer, Disagreement, Draft, Generation, Pass, Request, Response, Trajectories,
    blocks::Block,
    outputs::{DraftOutputs, Outputs},
    sequence::Sequence,
};

pub(crate) struct Lane {
    sequence: Sequence,
    trajectories: Option<Trajectories>,
    on_disagreement: Disagreement,
    /// Blocks of a given response that contain a token which is not the model's.
    disagreeing_blocks: usize,
    stage: Stage,
    /// The complete blocks of the response so far, if trajectories are asked for.
    blocks: Vec<Block>,
    /// The model has an adapter, which then refines the blocks.
    has_adapter: bool,
}

#[derive(PartialEq)]
enum Stage {
    /// The prompt, and a given response after it, are not cached yet.
    Prefill,
    /// The response grows.
    Answering,
    /// The response is complete; its blocks may still iterate.
    Answered,
    /// The given response is not the model's.
    Refused,
}

/// The kinds of rows that a lane can have in a pass.
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
    /// The most urgent first: growing responses decide how many passes there are, and each new request adds to them.
    pub(crate) const ALL: [Self; 3] = [Self::Answer, Self::Blocks, Self::Prefill];
}

/// The rows that a pass still has room for. The first rows always fit, and so does the first prompt: a prompt can be
/// longer than a pass, and must not wait until no other request has rows.
pub(crate) struct Space {
    rows: usize,
    left: usize,
    has_prefill: bool,
}

impl Space {
    pub(crate) fn new(rows: usize) -> Self {
        Self { rows, left: rows, has_prefill: false }
    }

    fn holds(&self, rows: usize) -> bool {
        rows <= self.left || self.left == self.rows
    }

    fn take(&mut self, rows: usize) {
        self.left = self.left.saturating_sub(rows);
    }
}

/// The rows of one lane in a pass.
#[derive(Default)]
pub(crate) struct LaneRows {
    end: Option<End>,
    /// Blocks by their index in [`Lane::blocks`].
    blocks: Vec<(usize, Place, Rows)>,
}

/// Rows at the end of the text.
enum End {
    Prefill {
        rows: Rows,
        first_output: usize,
    },
    Answering {
        draft: Draft,
        /// Tokens of the text, the draft's row 0 included: the rows of the adapter follow them.
        text: usize,
    },
}

impl End {
    fn rows(&self) -> &Rows {
        match self {
            Self::Prefill { rows, .. } => rows,
            Self::Answering { draft, .. } => draft.rows(),
        }
    }

    /// The first row whose prediction is wanted.
    fn first_output(&self) -> usize {
        match self {
            Self::Prefill { first_output, .. } => *first_output,
            Self::Answering { .. } => 0,
        }
    }

    /// Its rows through the adapter, if there are any.
    fn adapted(&self) -> Option<(Place, &Rows)> {
        let Self::Answering { draft, text } = self else { return None };
        draft.adapted().filter(|rows| !rows.is_empty()).map(|rows| (Place::Adapted(*text), rows))
    }
}

impl LaneRows {
    /// Its rows through the base weights.
    fn work(&self, slot: usize) -> Vec<Work<'_>> {
        let end = self.end.iter().map(|end| (Place::End, end.rows(), end.first_output()));
        let work = end.chain(self.blocks(false).map(|(place, rows)| (place, rows, 0)));
        work.map(|(place, rows, first_output)| Work { slot, place, rows, first_output }).collect()
    }

    /// Its rows through the adapter.
    fn adapted_work(&self, slot: usize) -> Vec<Work<'_>> {
        let end = self.end.iter().filter_map(End::adapted);
        let work = end.chain(self.blocks(true));
        work.map(|(place, rows)| Work { slot, place, rows, first_output: 0 }).collect()
    }

    /// The rows of blocks that use the adapter, or those that do not.
    fn blocks(&self, adapted: bool) -> impl Iterator<Item = (Place, &Rows)> {
        let blocks = self.blocks.iter().map(|(_, place, rows)| (*place, rows));
        blocks.filter(move |(place, _)| matches!(place, Place::Adapted(_)) == adapted)
    }

    /// Number of rows.
    pub(crate) fn len(&self) -> usize {
        self.work(0).iter().chain(&self.adapted_work(0)).map(|work| work.rows.len()).sum()
    }
}

/// The result of a pass for one lane.
#[derive(Default)]
struct Outcome {
    /// Rows that stay in the cache.
    keep: Vec<usize>,
    /// For observers, if the pass verified a draft.
    pass: Option<Pass>,
}

/// Runs one forward pass over the rows of each (slot, lane). Returns by lane the [`Pass`] that observers see, if a draft
/// was verified.
pub(crate) fn advance(
    session: &mut dyn Session,
    lanes: &mut [(usize, &mut Lane)],
    lane_rows: Vec<LaneRows>,
) -> Vec<Option<Pass>> {
    let started = Instant::now();
    let rows_of_slots = || lanes.iter().zip(&lane_rows).map(|((slot, _), rows)| (*slot, rows));
    let base = rows_of_slots().map(|(slot, rows)| rows.work(slot));
    let adapted = rows_of_slots().map(|(slot, rows)| rows.adapted_work(slot));
    let work: Vec<Vec<Work>> = base.chain(adapted).collect();
    let starts = output_starts(&work);
    let predictions = session.forward(&work.concat());
    let is_greedy = lanes.iter().any(|(_, lane)| lane.sequence.is_greedy());
    let greedy = if is_greedy { predictions.greedy() } else { Vec::new() };
    drop(work);
    let count = lanes.len();
    let mut passes = Vec::with_capacity(count);
    for (index, ((slot, lane), rows)) in lanes.iter_mut().zip(lane_rows).enumerate() {
        let outputs = |list: usize| Outputs::new(&*predictions, &greedy, starts[list]);
        let outputs = DraftOutputs { rows: outputs(index), adapted: outputs(count + index) };
        let Outcome { keep, pass } = lane.absorb(rows, outputs);
        if !keep.is_empty() {
            session.keep(*slot, &keep);
        }
        passes.push(pass);
    }
    let seconds = started.elapsed().as_secs_f64();
    for ((_, lane), pass) in lanes.iter_mut().zip(&passes) {
        lane.sequence.count(pass.as_ref(), seconds);
    }
    passes
}

/// The index of the first output of each list of work.
fn output_starts(work: &[Vec<Work>]) -> Vec<usize> {
    let outputs =
        |work: &Vec<Work>| work.iter().map(|work| work.rows.len() - work.first_output).sum::<usize>();
    let start = |total: &mut usize, work| {
        let start = *total;
        *total += outputs(work);
        Some(start)
    };
    work.iter().scan(0, start).collect()
}

impl Lane {
    /// # Panics
    /// As [`Sequence::new`].
    pub(crate) fn new(request: Request, model: &dyn LanguageModel) -> Self {
        let Request { prompt, settings, given, trajectories, on_disagreement } = request;
        Self {
            sequence: Sequence::new(settings, &prompt, given, model),
            trajectories,
            on_disagreement,
            disagreeing_blocks: 0,
            stage: Stage::Prefill,
            blocks: Vec::new(),
            has_adapter: model.has_adapter(),
        }
    }

    pub(crate) fn sequence(&self) -> &Sequence {
        &self.sequence
    }

    pub(crate) fn rank_rejections(&mut self) {
        self.sequence.rank_rejections();
    }

    pub(crate) fn is_done(&self) -> bool {
        match &self.stage {
            Stage::Prefill | Stage::Answering => false,
            Stage::Answered => self.blocks.iter().all(Block::is_done),
            Stage::Refused => true,
        }
    }

    /// All rows that it can have in the next pass.
    pub(crate) fn all_rows(&mut self) -> LaneRows {
        let mut lane_rows = LaneRows::default();
        for part in Part::ALL {
            self.add_rows(part, &mut Space::new(usize::MAX), &mut lane_rows);
        }
        lane_rows
    }

    /// Adds its rows of the kind `part` to `lane_rows`, as far as there is `space`.
    pub(crate) fn add_rows(&mut self, part: Part, space: &mut Space, lane_rows: &mut LaneRows) {
        match (part, &self.stage) {
            (Part::Answer, Stage::Answering) => {
                let draft = self.sequence.draft();
                space.take(draft.width());
                lane_rows.end = Some(End::Answering { draft, text: self.sequence.text().len() });
            }
            (Part::Prefill, Stage::Prefill) => {
                let (rows, first_output) = self.sequence.prefill();
                if space.holds(rows.len()) || !space.has_prefill {
                    space.has_prefill = true;
                    space.take(rows.len());
                    lane_rows.end = Some(End::Prefill { rows, first_output });
                }
            }
            (Part::Blocks, Stage::Answering | Stage::Answered) => {
                for (index, block) in self.blocks.iter().enumerate().filter(|(_, block)| !block.is_done()) {
                    let (place, rows) = block.next_rows();
                    if !space.holds(rows.len()) {
                        return;
                    }
                    space.take(rows.len());
                    lane_rows.blocks.push((index, place, rows));
                }
            }
            _ => {}
        }
    }

    /// Takes the model's outputs after `lane_rows`.
    fn absorb(&mut self, lane_rows: LaneRows, mut outputs: DraftOutputs) -> Outcome {
        let outputs_of_end = lane_rows.end.as_ref().map_or(0, |end| end.rows().len() - end.first_output());
        let adapted_of_end = lane_rows.end.as_ref().and_then(End::adapted).map_or(0, |(_, rows)| rows.len());
        let outcome = match lane_rows.end {
            Some(End::Prefill { rows, first_output }) => self.begin(&rows, first_output, &outputs.rows),
            Some(End::Answering { draft, .. }) => {
                let pass = self.sequence.absorb(draft, &outputs);
                Outcome { keep: pass.path.clone(), pass: Some(pass) }
            }
            None => Outcome::default(),
        };
        outputs.rows.skip(outputs_of_end);
        outputs.adapted.skip(adapted_of_end);
        let text = self.sequence.text();
        for (index, place, rows) in lane_rows.blocks {
            let (prefix, outputs) = match place {
                Place::After(prefix) => (prefix, &mut outputs.rows),
                Place::Adapted(prefix) => (prefix, &mut outputs.adapted),
                Place::End => unreachable!("blocks lie within their text"),
            };
            let chosen = outputs.choose_all(self.sequence.sampling(), &rows, &text[..prefix]);
            self.blocks[index].absorb(text, &chosen);
            outputs.skip(rows.len());
        }
        if self.stage == Stage::Answering {
            self.add_blocks();
        }
        outcome
    }

    /// Ends the prefill, whose rows are the prompt and a given response.
    fn begin(&mut self, rows: &Rows, first_output: usize, outputs: &Outputs) -> Outcome {
        let wrong = self.sequence.begin(outputs);
        // A response without trajectories counts as one block.
        let block_size = self.trajectories.as_ref().map_or(usize::MAX, |config| config.block_size);
        let mut blocks: Vec<usize> = wrong.iter().map(|position| position / block_size).collect();
        blocks.dedup();
        self.disagreeing_blocks = blocks.len();
        let refused = !blocks.is_empty() && self.on_disagreement == Disagreement::Refuse;
        self.stage = if refused { Stage::Refused } else { Stage::Answering };
        // The last right token is not cached: it is row 0 of the next draft.
        let keep = self.sequence.text().len() - 1;
        assert!(first_output < keep + 1 && keep <= rows.len(), "{keep} of {} rows are right", rows.len());
        Outcome { keep: (0..keep).collect(), pass: None }
    }

    /// Adds the blocks that are complete now that the response has grown.
    fn add_blocks(&mut self) {
        let open = self.sequence.is_open();
        if let Some(config) = &self.trajectories {
            let response = (self.sequence.prompt(), open);
            Block::add_complete(&mut self.blocks, self.sequence.text(), response, (config, self.has_adapter));
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

    /// The answer to the request.
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
