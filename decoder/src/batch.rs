//! Continuous batching: many requests share each forward pass, whatever stage they are in: prefill, growing
//! response, or blocks of the response that are refined for their trajectories. A slot that is done takes the
//! next request at once. The rows of all sequences are concatenated, so nothing is padded and no sequence waits
//! for one of another length.

use std::ops::ControlFlow;

use jacobi_model::{LanguageModel, Session};

use crate::{
    Answer, Pass, Request,
    lane::{Lane, LaneRows, Part, Space, advance},
};

/// The sizes of a batch. They change no response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Requests side by side.
    pub slots: usize,
    /// Tokens that each slot has room for: prompt, response, and the rows of a pass.
    pub capacity: usize,
    /// Rows of a pass to aim at. A pass is wider when a prompt is longer than this, or when many responses grow.
    pub rows: usize,
}

/// What happens while a batch runs.
pub enum BatchEvent<'a> {
    /// The prefill of the request with this key has given these tokens.
    Prefill(usize, &'a [u32]),
    /// A pass that verified a draft for the request with this key.
    Pass(usize, &'a Pass),
    /// A forward pass over this many rows has ended.
    Forward(usize),
    /// The request with this key is done.
    Done(usize, Answer),
}

/// Called with every event; it may stop the batch.
pub type OnEvent<'a> = &'a mut dyn FnMut(BatchEvent) -> ControlFlow<()>;

/// Answers each request. `requests` yields (key, request) and is asked whenever a slot is free; requests end in any
/// order. `on_event` may stop the batch. Sharing passes changes no response in fp32, nor in any dtype on a CPU.
///
/// # Panics
/// As [`Batch::new`] and [`Batch::admit`].
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
    /// How many were admitted before it.
    order: usize,
    lane: Lane,
    /// Its prefill has been reported.
    prefilled: bool,
}

/// A slot, its request, and the request's rows in the pass.
type Planned<'l> = (usize, &'l mut Admitted, LaneRows);

impl<'a> Batch<'a> {
    /// An empty batch.
    ///
    /// # Panics
    /// If `room` has no slot or no row.
    pub fn new(model: &'a dyn LanguageModel, room: Room) -> Self {
        assert!(room.slots > 0 && room.rows > 0, "a batch has a slot and a row");
        let lanes = (0..room.slots).map(|_| None).collect();
        Self { model, room, session: model.session(room.slots, room.capacity), lanes, admitted: 0 }
    }

    /// Whether a slot is free.
    pub fn has_room(&self) -> bool {
        self.lanes.iter().any(Option::is_none)
    }

    /// Whether all slots are free.
    pub fn is_empty(&self) -> bool {
        self.lanes.iter().all(Option::is_none)
    }

    /// Takes a request into a free slot. Events name it by `key`.
    ///
    /// # Panics
    /// As [`crate::Decoding::new`], if no slot is free, or if the request needs more than a slot's capacity.
    pub fn admit(&mut self, key: usize, request: Request) {
        let needed = request.settings.capacity(self.model, request.prompt.len());
        assert!(needed <= self.room.capacity, "{needed} tokens in {}", self.room.capacity);
        let slot = self.lanes.iter().position(Option::is_none).expect("a slot is free");
        self.session.truncate(slot, 0);
        let lane = Lane::new(request, self.model);
        self.lanes[slot] = Some(Admitted { key, order: self.admitted, lane, prefilled: false });
        self.admitted += 1;
    }

    /// Cancels the requests whose key `is_gone`.
    pub fn drop_where(&mut self, is_gone: &dyn Fn(usize) -> bool) {
        for slot in &mut self.lanes {
            slot.take_if(|admitted| is_gone(admitted.key));
        }
    }

    /// One forward pass for all requests; `on_event` receives what it gave.
    ///
    /// # Panics
    /// If there is no request.
    pub fn pass(&mut self, on_event: OnEvent) -> ControlFlow<()> {
        let planned = plan(&mut self.lanes, self.room.rows);
        let rows = planned.iter().map(|(.., lane_rows)| lane_rows.len()).sum();
        assert!(rows > 0, "a request that is not done has rows in a pass");
        let keys: Vec<usize> = planned.iter().map(|(_, admitted, _)| admitted.key).collect();
        let (mut lanes, lane_rows): (Vec<_>, Vec<_>) = planned
            .into_iter()
            .map(|(slot, admitted, lane_rows)| ((slot, &mut admitted.lane), lane_rows))
            .unzip();
        let passes = advance(&mut *self.session, &mut lanes, lane_rows);
        self.report_prefills(on_event)?;
        for (key, pass) in keys.into_iter().zip(passes) {
            if let Some(pass) = pass {
                on_event(BatchEvent::Pass(key, &pass))?;
            }
        }
        on_event(BatchEvent::Forward(rows))?;
        self.remove_done(on_event)
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

    fn remove_done(&mut self, on_event: OnEvent) -> ControlFlow<()> {
        for slot in &mut self.lanes {
            if let Some(Admitted { key, lane, .. }) = slot.take_if(|admitted| admitted.lane.is_done()) {
                on_event(BatchEvent::Done(key, lane.finish()))?;
            }
        }
        ControlFlow::Continue(())
    }
}

/// Fills a pass of `rows` rows: the most urgent part of all requests first, and within a part the oldest
/// request first.
fn plan(lanes: &mut [Option<Admitted>], rows: usize) -> Vec<Planned<'_>> {
    let admitted = lanes.iter_mut().enumerate().filter_map(|(slot, place)| Some((slot, place.as_mut()?)));
    let mut planned: Vec<Planned> =
        admitted.map(|(slot, admitted)| (slot, admitted, LaneRows::default())).collect();
    planned.sort_by_key(|(_, admitted, _)| admitted.order);
    let mut space = Space::new(rows);
    for part in Part::ALL {
        for (_, admitted, lane_rows) in &mut planned {
            admitted.lane.add_rows(part, &mut space, lane_rows);
        }
    }
    planned.retain(|(.., lane_rows)| lane_rows.len() > 0);
    planned
}
