//! The thread that owns the model. Requests arrive on one channel and are decoded in a batch; each answer has its own
//! channel. When a client disconnects, its slot is freed before the next pass.

use std::collections::{HashMap, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread::JoinHandle;
use std::time::Instant;

use jacobi_datasets::FinishReason;
use jacobi_decoder::{Answer, Batch, BatchEvent, Request, Room, Source};
use jacobi_model::LanguageModel;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use super::metrics::Metrics;

/// A request and the channel for its answer.
pub struct Job {
    /// Prompt, sampling and stop rules.
    pub request: Request,
    /// Index among the answers of one HTTP request.
    pub choice: usize,
    /// The channel for the answer.
    pub events: UnboundedSender<(usize, Event)>,
    /// Set when the client no longer wants the answer.
    pub cancelled: Arc<AtomicBool>,
}

impl Job {
    fn is_cancelled(&self) -> bool {
        self.events.is_closed() || self.cancelled.load(Ordering::Relaxed)
    }

    fn send(&self, event: Event) {
        // A closed channel is noticed before the next pass.
        let _ = self.events.send((self.choice, event));
    }
}

/// An event of an answer.
#[derive(Debug)]
pub enum Event {
    /// New tokens, each with the source of its draft; no source: the model's own next token.
    Tokens {
        /// The tokens.
        tokens: Vec<(u32, Option<Source>)>,
        /// Passes after the prefill so far.
        passes: usize,
        /// Seconds since the prefill.
        seconds: f64,
    },
    /// It is complete.
    Done(FinishReason),
}

/// Handle of the thread that owns the model.
pub struct Engine {
    jobs: mpsc::Sender<Job>,
    thread: JoinHandle<()>,
}

impl Engine {
    /// Starts the thread. The receiver resolves when the thread ends: after this handle is dropped, or by a panic.
    pub fn start(
        model: Box<dyn LanguageModel + Send>,
        room: Room,
        metrics: Arc<Metrics>,
    ) -> (Self, oneshot::Receiver<()>) {
        let (jobs, requests) = mpsc::channel();
        let (running, ended) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            work(&*model, room, &requests, &metrics);
            drop(model);
            // Dropped after the model, also on a panic; this resolves the receiver.
            drop::<oneshot::Sender<()>>(running);
        });
        (Self { jobs, thread }, ended)
    }

    /// Queues a request. Returns false if the thread has ended.
    pub fn submit(&self, job: Job) -> bool {
        self.jobs.send(job).is_ok()
    }

    /// Whether the thread still runs.
    pub fn is_alive(&self) -> bool {
        !self.thread.is_finished()
    }
}

struct Running {
    job: Job,
    passes: usize,
    since: Instant,
}

fn work(model: &dyn LanguageModel, room: Room, jobs: &Receiver<Job>, metrics: &Metrics) {
    let mut batch = Batch::new(model, room);
    let mut running: HashMap<usize, Running> = HashMap::new();
    let mut waiting: VecDeque<Job> = VecDeque::new();
    let mut keys = 0..;
    loop {
        if running.is_empty() && waiting.is_empty() {
            let Ok(job) = jobs.recv() else { return };
            waiting.push_back(job);
        }
        waiting.extend(jobs.try_iter());
        let before = waiting.len();
        waiting.retain(|job| !job.is_cancelled());
        metrics.queue.sub(before - waiting.len());
        running.retain(|_, running| !running.job.is_cancelled());
        batch.drop_where(&|key| !running.contains_key(&key));
        metrics.running.set(running.len());
        while batch.has_room()
            && let Some(job) = waiting.pop_front()
        {
            let key = keys.next().expect("keys do not end");
            batch.admit(key, job.request.clone());
            running.insert(key, Running { job, passes: 0, since: Instant::now() });
            metrics.running.set(running.len());
            metrics.queue.sub(1);
        }
        if !batch.is_empty() {
            let _ = batch.pass(&mut |event| handle(&mut running, metrics, event));
        }
    }
}

fn handle(running: &mut HashMap<usize, Running>, metrics: &Metrics, event: BatchEvent) -> ControlFlow<()> {
    match event {
        BatchEvent::Prefill(key, tokens) => {
            if let Some(running) = running.get_mut(&key) {
                running.since = Instant::now();
                metrics.prompt_tokens.add(running.job.request.prompt.len());
                let tokens = tokens.iter().map(|&token| (token, None)).collect();
                running.send(metrics, tokens);
            }
        }
        BatchEvent::Pass(key, pass) => {
            if let Some(running) = running.get_mut(&key) {
                running.passes += 1;
                metrics.response_passes.add(1);
                let tokens = pass.tokens.iter().enumerate().map(|(at, &token)| (token, pass.source(at)));
                running.send(metrics, tokens.collect());
            }
        }
        BatchEvent::Forward(rows) => {
            metrics.passes.add(1);
            metrics.rows.add(rows);
        }
        BatchEvent::Done(key, answer) => {
            let done = running.remove(&key);
            // Before the client gets the event, so that its next request finds the slot free.
            metrics.running.set(running.len());
            if let (Some(done), Answer::Response(response)) = (done, answer) {
                done.job.send(Event::Done(response.generation.finish_reason));
            }
        }
    }
    ControlFlow::Continue(())
}

impl Running {
    fn send(&self, metrics: &Metrics, tokens: Vec<(u32, Option<Source>)>) {
        metrics.tokens.add(tokens.len());
        metrics.accepted_drafts.add(tokens.iter().filter(|(_, source)| source.is_some()).count());
        let (passes, seconds) = (self.passes, self.since.elapsed().as_secs_f64());
        self.job.send(Event::Tokens { tokens, passes, seconds });
    }
}
