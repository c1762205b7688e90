//! Many requests side by side: continuous batching, in which every pass is filled with whatever rows there are: prompts,
//! the ends of responses that grow, the blocks of those that are complete so far. A slot that is done takes the next
//! request at once; rows of sequences of any length and stage lie in one pass one behind the other, so that nothing is
//! padded and nobody waits for a neighbour of another length.

use std::{ops::ControlFlow, time::Instant};

use jacobi_datasets::State;
use jacobi_model::{LanguageModel, Session, Work};

use crate::{
    Generation, Pass, Settings, Trajectories,
    lane::{Lane, Outcome, Part, Space, Turn},
    outputs::Outputs,
};

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// At least one token, and fewer than the context holds.
    pub prompt: Vec<u32>,
    /// How to answer it.
    pub settings: Settings,
    /// A response that is there already: the model's own is compared with it, and is the same where they agree.
    pub given: Option<Vec<u32>>,
    /// What to do where they do not.
    pub on_disagreement: Disagreement,
    /// The response's blocks are to be refined too.
    pub trajectories: Option<Trajectories>,
}

/// What a given response that the model would not give leads to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Disagreement {
    /// The model's own from the first difference on.
    #[default]
    Replace,
    /// No response.
    Refuse,
}

impl Request {
    /// A response and nothing else.
    pub fn new(prompt: Vec<u32>, settings: Settings) -> Self {
        let on_disagreement = Disagreement::default();
        Self { prompt, settings, given: None, on_disagreement, trajectories: None }
    }
}

/// What came of a request.
#[derive(Clone, Debug)]
pub enum Answer {
    /// A response.
    Response(Response),
    /// The given response is not the model's.
    Refused {
        /// Blocks in which it is not.
        disagreeing_blocks: usize,
    },
}

/// A response and the trajectories of its blocks.
#[derive(Clone, Debug)]
pub struct Response {
    /// The tokens, and what the passes that found them cost.
    pub generation: Generation,
    /// In order of block, then iteration; none unless they were asked for.
    pub states: Vec<State>,
    /// Blocks in which a given response was not the model's.
    pub disagreeing_blocks: usize,
}

/// How much is worked on at a time. None of it changes a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Requests side by side.
    pub slots: usize,
    /// Tokens each of them has room for: prompt, response, and the rows of a pass over its end.
    pub capacity: usize,
    /// Rows of a pass to aim at. One with a long prompt in it is wider, and so is one with more responses that grow.
    pub rows: usize,
}

/// What happens while a batch is worked on.
pub enum BatchEvent<'a> {
    /// The prefill of the request with this key has given these tokens.
    Prefill(usize, &'a [u32]),
    /// A pass over the end of the response to the request with this key.
    Pass(usize, &'a Pass),
    /// A forward pass over so many rows has ended.
    Forward(usize),
    /// The request with this key is done.
    Done(usize, Answer),
}

/// Called with every event; it may stop the batch.
pub type OnEvent<'a> = &'a mut dyn FnMut(BatchEvent) -> ControlFlow<()>;

/// Answers each request, and refines what it is asked to. Requests have a key of the caller's, are asked for when there
/// is a slot for them, and end in any order. `on_event` may stop the batch. Who shares a pass with whom changes no response in fp32, nor
/// in any dtype on a CPU.
///
/// # Panics
/// As [`Batch::admit`], and if there is no room for anything.
pub fn generate_batch(
    model: &dyn LanguageModel,
    requests: &mut dyn Iterator<Item = (usize, Request)>,
    room: Room,
    on_event: OnEvent,
) {
    let mut requests = requests.fuse();
    let mut batch = Batch::new(model, room);
    loop {
        while batch.has_room() {
            let Some((key, request)) = requests.next() else { break };
            batch.admit(key, request);
        }
        if batch.is_empty() || batch.pass(on_event).is_break() {
            return;
        }
    }
}

/// Requests being answered side by side. They may come and go between any two passes.
pub struct Batch<'a> {
    model: &'a dyn LanguageModel,
    room: Room,
    session: Box<dyn Session + 'a>,
    /// By slot.
    lanes: Vec<Option<Admitted>>,
    admitted: usize,
}

struct Admitted {
    key: usize,
    /// How many were admitted before.
    order: usize,
    lane: Lane,
    /// Its prefill has been reported.
    prefilled: bool,
}

/// A lane in its slot, and what it wants of a pass.
type Planned<'l> = (usize, &'l mut Admitted, Turn);

impl<'a> Batch<'a> {
    /// Without requests yet.
    ///
    /// # Panics
    /// If there is no room for anything.
    pub fn new(model: &'a dyn LanguageModel, room: Room) -> Self {
        assert!(room.slots > 0 && room.rows > 0, "a batch has a slot and a row");
        let lanes = (0..room.slots).map(|_| None).collect();
        Self { model, room, session: model.session(room.slots, room.capacity), lanes, admitted: 0 }
    }

    /// Whether a slot is free.
    pub fn has_room(&self) -> bool {
        self.lanes.iter().any(Option::is_none)
    }

    /// Whether there is no request.
    pub fn is_empty(&self) -> bool {
        self.lanes.iter().all(Option::is_none)
    }

    /// Takes a request into a free slot.
    ///
    /// # Panics
    /// As [`crate::Decoding::new`], if no slot is free, or if the request needs more than a slot's capacity.
    pub fn admit(&mut self, key: usize, request: Request) {
        let needed = request.settings.capacity(self.model, request.prompt.len());
        assert!(needed <= self.room.capacity, "{needed} tokens in {}", self.room.capacity);
        let slot = self.lanes.iter().position(Option::is_none).expect("a slot is free");
        self.session.truncate(slot, 0);
        let lane = Lane::new(request, self.model.context_length());
        self.lanes[slot] = Some(Admitted { key, order: self.admitted, lane, prefilled: false });
        self.admitted += 1;
    }

    /// Gives up the requests whose key `is_gone`.
    pub fn drop_where(&mut self, is_gone: &dyn Fn(usize) -> bool) {
        for place in &mut self.lanes {
            place.take_if(|admitted| is_gone(admitted.key));
        }
    }

    /// One forward pass for all requests; `on_event` is called with what it gave.
    ///
    /// # Panics
    /// If there is no request.
    pub fn pass(&mut self, on_event: OnEvent) -> ControlFlow<()> {
        let turns = plan(&mut self.lanes, self.room.rows);
        let rows = turns.iter().map(|(.., turn)| turn.rows()).sum();
        assert!(rows > 0, "a request that is not done wants something of a pass");
        let passes = pass(&mut *self.session, turns);
        self.report_prefills(on_event)?;
        for (key, pass) in passes {
            if let Some(pass) = pass {
                on_event(BatchEvent::Pass(key, &pass))?;
            }
        }
        on_event(BatchEvent::Forward(rows))?;
        self.reap(on_event)
    }

    fn report_prefills(&mut self, on_event: OnEvent) -> ControlFlow<()> {
        for admitted in self.lanes.iter_mut().flatten().filter(|admitted| !admitted.prefilled) {
            let sequence = admitted.lane.sequence();
            let tokens = &sequence.text()[sequence.prompt()..];
            if !tokens.is_empty() {
                admitted.prefilled = true;
                on_event(BatchEvent::Prefill(admitted.key, tokens))?;
            }
        }
        ControlFlow::Continue(())
    }

    fn reap(&mut self, on_event: OnEvent) -> ControlFlow<()> {
        for place in &mut self.lanes {
            if let Some(Admitted { key, lane, .. }) = place.take_if(|admitted| admitted.lane.is_done()) {
                on_event(BatchEvent::Done(key, lane.finish()))?;
            }
        }
        ControlFlow::Continue(())
    }
}

/// The most urgent parts first, of each those of the oldest request first, as far as the rows go.
fn plan(lanes: &mut [Option<Admitted>], rows: usize) -> Vec<Planned<'_>> {
    let admitted = lanes.iter_mut().enumerate().filter_map(|(slot, place)| Some((slot, place.as_mut()?)));
    let mut planned: Vec<Planned> =
        admitted.map(|(slot, admitted)| (slot, admitted, Turn::default())).collect();
    planned.sort_by_key(|(_, admitted, _)| admitted.order);
    let mut space = Space::new(rows);
    for part in Part::ALL {
        for (_, admitted, turn) in &mut planned {
            admitted.lane.ask(part, &mut space, turn);
        }
    }
    planned.retain(|(.., turn)| turn.rows() > 0);
    planned
}

/// One forward pass over all turns; what each lane heard, by its key.
fn pass(session: &mut dyn Session, turns: Vec<Planned>) -> Vec<(usize, Option<Pass>)> {
    let (lanes, turns): (Vec<_>, Vec<_>) =
        turns.into_iter().map(|(slot, lane, turn)| ((slot, lane), turn)).unzip();
    let keys: Vec<usize> = lanes.iter().map(|(_, admitted)| admitted.key).collect();
    let mut lanes: Vec<(usize, &mut Lane)> =
        lanes.into_iter().map(|(slot, admitted)| (slot, &mut admitted.lane)).collect();
    keys.into_iter().zip(advance(session, &mut lanes, turns)).collect()
}

/// One forward pass over a turn of each lane; the passes over ends of responses.
pub(crate) fn advance(
    session: &mut dyn Session,
    lanes: &mut [(usize, &mut Lane)],
    turns: Vec<Turn>,
) -> Vec<Option<Pass>> {
    let started = Instant::now();
    let work: Vec<Vec<Work>> = lanes.iter().zip(&turns).map(|((slot, _), turn)| turn.work(*slot)).collect();
    let outputs: Vec<usize> =
        work.iter().map(|work| work.iter().map(|work| work.rows.len() - work.first_output).sum()).collect();
    let predictions = session.forward(&work.concat());
    // The most probable tokens, if anyone wants them.
    let greedy = match lanes.iter().any(|(_, lane)| lane.sequence().is_greedy()) {
        true => predictions.greedy(),
        false => Vec::new(),
    };
    drop(work);
    let mut first = 0;
    let mut passes = Vec::with_capacity(lanes.len());
    for (((slot, lane), turn), outputs) in lanes.iter_mut().zip(turns).zip(outputs) {
        let Outcome { keep, pass } = lane.absorb(turn, Outputs::new(&*predictions, &greedy, first));
        first += outputs;
        if !keep.is_empty() {
            session.keep(*slot, &keep);
        }
        passes.push(pass);
    }
    let seconds = started.elapsed().as_secs_f64();
    for ((_, lane), pass) in lanes.iter_mut().zip(&passes) {
        lane.sequence_mut().spent(pass.as_ref(), seconds);
    }
    passes
}
