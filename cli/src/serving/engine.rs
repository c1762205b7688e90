//! The thread that owns the model. Requests come by a channel, are answered side by side, and tell what each pass gave
//! them by channels of their own. A request whose listener went away gives its slot back before the next pass.

use std::collections::{HashMap, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread::JoinHandle;
use std::time::Instant;

use jacobi_datasets::FinishReason;
use jacobi_decoder::{Answer, Batch, BatchEvent, Pass, Request, Room, Source};
use jacobi_model::LanguageModel;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use super::metrics::Metrics;

/// A request, and who listens to its answer.
pub struct Job {
    /// What to answer.
    pub request: Request,
    /// Which of several answers to one HTTP request.
    pub choice: usize,
    /// Where the answer goes.
    pub events: UnboundedSender<(usize, Event)>,
    /// Raised when the rest of the answer is not wanted.
    pub gone: Arc<AtomicBool>,
}

impl Job {
    fn is_gone(&self) -> bool {
        self.events.is_closed() || self.gone.load(Ordering::Relaxed)
    }

    fn tell(&self, event: Event) {
        // A listener that went away is noticed before the next pass.
        let _ = self.events.send((self.choice, event));
    }
}

/// What happens to an answer.
#[derive(Debug)]
pub enum Event {
    /// It grows by these tokens, each with where its draft came from; none for the model's own next token.
    Tokens {
        /// The tokens.
        tokens: Vec<(u32, Option<Source>)>,
        /// Passes behind the prefill so far.
        passes: usize,
        /// Seconds since the prefill.
        seconds: f64,
    },
    /// It is complete.
    Done(FinishReason),
}

/// The thread as its users see it.
pub struct Engine {
    jobs: mpsc::Sender<Job>,
    thread: JoinHandle<()>,
}

impl Engine {
    /// Starts it. The receiver hears of its end, which comes before the engine is dropped only if it panics.
    pub fn start(
        model: Box<dyn LanguageModel + Send>,
        room: Room,
        metrics: Arc<Metrics>,
    ) -> (Self, oneshot::Receiver<()>) {
        let (jobs, requests) = mpsc::channel();
        let (running, ended) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            // Dropped however the thread ends.
            let _running: oneshot::Sender<()> = running;
            work(&*model, room, &requests, &metrics);
        });
        (Self { jobs, thread }, ended)
    }

    /// Queues a request. Returns whether there is anyone to answer it.
    pub fn submit(&self, job: Job) -> bool {
        self.jobs.send(job).is_ok()
    }

    /// Whether it still answers.
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
        waiting.retain(|job| !job.is_gone());
        metrics.queue.sub(before - waiting.len());
        running.retain(|_, running| !running.job.is_gone());
        batch.drop_where(&|key| !running.contains_key(&key));
        while batch.has_room()
            && let Some(job) = waiting.pop_front()
        {
            let key = keys.next().expect("keys do not end");
            batch.admit(key, job.request.clone());
            running.insert(key, Running { job, passes: 0, since: Instant::now() });
            metrics.running.set(running.len());
            metrics.queue.sub(1);
        }
        metrics.running.set(running.len());
        if !batch.is_empty() {
            let _ = batch.pass(&mut |event| hear(&mut running, metrics, event));
        }
    }
}

fn hear(running: &mut HashMap<usize, Running>, metrics: &Metrics, event: BatchEvent) -> ControlFlow<()> {
    match event {
        BatchEvent::Prefill(key, tokens) => {
            if let Some(running) = running.get_mut(&key) {
                running.since = Instant::now();
                metrics.prompt_tokens.add(running.job.request.prompt.len());
                let tokens = tokens.iter().map(|&token| (token, None)).collect();
                running.tell(metrics, tokens);
            }
        }
        BatchEvent::Pass(key, pass) => {
            if let Some(running) = running.get_mut(&key) {
                running.passes += 1;
                metrics.response_passes.add(1);
                running.tell(metrics, with_sources(pass));
            }
        }
        BatchEvent::Forward(rows) => {
            metrics.passes.add(1);
            metrics.rows.add(rows);
        }
        BatchEvent::Done(key, answer) => {
            let done = running.remove(&key);
            // Before the client hears of it: its next request finds the slot free.
            metrics.running.set(running.len());
            if let (Some(done), Answer::Response(response)) = (done, answer) {
                done.job.tell(Event::Done(response.generation.finish_reason));
            }
        }
    }
    ControlFlow::Continue(())
}

impl Running {
    fn tell(&self, metrics: &Metrics, tokens: Vec<(u32, Option<Source>)>) {
        metrics.tokens.add(tokens.len());
        metrics.accepted_drafts.add(tokens.iter().filter(|(_, source)| source.is_some()).count());
        let (passes, seconds) = (self.passes, self.since.elapsed().as_secs_f64());
        self.job.tell(Event::Tokens { tokens, passes, seconds });
    }
}

/// The tokens of a pass: all but the last stood in its draft.
fn with_sources(pass: &Pass) -> Vec<(u32, Option<Source>)> {
    let source = |at: usize| pass.path.get(at + 1).map(|&row| pass.draft.source(row));
    pass.tokens.iter().enumerate().map(|(at, &token)| (token, source(at))).collect()
}
