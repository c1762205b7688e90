//! The threads that compute on a CPU: the calling thread and its workers. libtorch's operations run on one thread.
//!
//! OpenMP, which libtorch uses, ends a parallel region when every thread of its team has arrived, so on a busy machine each region waits for a
//! thread that is not running. Here the caller does all work that no worker has started, and waits only for workers
//! within a task. A worker spins for a short time after its last task, then sleeps.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, TryLockError,
        atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering},
    },
    thread::Thread,
    time::{Duration, Instant},
};

/// How long an idle worker spins before it sleeps. The kernels of a pass follow each other more closely than this.
const SPIN: Duration = Duration::from_micros(200);

/// Successive tasks. Each thread starts with its own share, since memory is faster when read in order, and then helps
/// with the others.
struct Share {
    next: AtomicUsize,
    end: usize,
}

struct Job<'a> {
    /// A task has panicked on a worker.
    panicked: AtomicBool,
    shares: &'a [Share],
    run: &'a (dyn Fn(usize) + Sync),
}

impl Job<'_> {
    /// Works as thread number `thread`. A thread has the same share of every job, so its core's cache holds its weights.
    fn work(&self, thread: usize) {
        let count = self.shares.len();
        for share in (thread..thread + count).map(|share| &self.shares[share % count]) {
            loop {
                let task = share.next.fetch_add(1, Ordering::Relaxed);
                if task >= share.end {
                    break;
                }
                (self.run)(task);
            }
        }
    }
}

/// The job on offer, shared by the caller and the workers.
#[derive(Default)]
struct Offer {
    /// Bits 32..: number of the job. Bit 31: workers may enter. Bits ..31: workers within.
    state: AtomicU64,
    /// Valid while workers may enter or are within.
    job: AtomicPtr<Job<'static>>,
}

const OPEN: u64 = 1 << 31;
const NUMBER: u64 = 1 << 32;

impl Offer {
    /// Runs `job` on the calling thread and on the workers that enter before it is done. One caller at a time.
    fn run(&self, job: &Job, wake: impl FnOnce()) {
        self.job.store((&raw const *job).cast_mut().cast(), Ordering::Relaxed);
        let number = (self.state.load(Ordering::Relaxed) / NUMBER + 1) * NUMBER;
        self.state.store(number | OPEN, Ordering::SeqCst);
        // Closes also when a task panics: the job must outlive the workers within.
        let close = Close(self);
        wake();
        job.work(0);
        drop(close);
        assert!(!job.panicked.load(Ordering::Relaxed), "a task has panicked on a worker");
    }

    /// Whether workers may enter a job that is not number `done`.
    fn is_open(&self, done: u64) -> bool {
        let state = self.state.load(Ordering::SeqCst);
        state & OPEN != 0 && state / NUMBER != done
    }

    /// Works on the open job, as thread number `thread`, unless its number is `done`, and returns its number.
    fn help(&self, thread: usize, done: u64) -> Option<u64> {
        let state = self.state.load(Ordering::Acquire);
        let number = state / NUMBER;
        if state & OPEN == 0 || number == done {
            return None;
        }
        self.state.compare_exchange(state, state + 1, Ordering::AcqRel, Ordering::Relaxed).ok()?;
        // SAFETY: this worker has entered, and `run` does not return before it has left.
        let job = unsafe { &*self.job.load(Ordering::Relaxed) };
        if catch_unwind(AssertUnwindSafe(|| job.work(thread))).is_err() {
            job.panicked.store(true, Ordering::Relaxed);
        }
        self.state.fetch_sub(1, Ordering::Release);
        Some(number)
    }
}

/// Lets no further worker enter, and waits until those within have left.
struct Close<'a>(&'a Offer);

impl Drop for Close<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.fetch_and(!OPEN, Ordering::AcqRel);
        let mut spins = 0_u32;
        while state & (OPEN - 1) != 0 {
            spins += 1;
            // A worker that was preempted within a task may need this thread's CPU.
            if spins.is_multiple_of(1 << 12) {
                std::thread::yield_now()
            } else {
                std::hint::spin_loop()
            }
            state = self.0.state.load(Ordering::Acquire);
        }
    }
}

struct Worker {
    thread: Thread,
    asleep: Arc<AtomicBool>,
}

impl Worker {
    /// Starts thread number `number`; the caller of a job is number 0.
    fn start(offer: Arc<Offer>, number: usize) -> Self {
        let asleep = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&asleep);
        let spawned = std::thread::Builder::new().name("jacobi-kernels".into()).spawn(move || {
            let (mut done, mut idle) = (0, Instant::now());
            loop {
                if let Some(job) = offer.help(number, done) {
                    (done, idle) = (job, Instant::now());
                } else if idle.elapsed() < SPIN {
                    (0..32).for_each(|_| std::hint::spin_loop());
                } else {
                    flag.store(true, Ordering::SeqCst);
                    // A job that opens after this check finds the flag set and wakes this thread.
                    if !offer.is_open(done) {
                        std::thread::park();
                    }
                    flag.store(false, Ordering::SeqCst);
                    idle = Instant::now();
                }
            }
        });
        Self { thread: spawned.expect("the system starts threads").thread().clone(), asleep }
    }

    fn wake(&self) {
        if self.asleep.swap(false, Ordering::SeqCst) {
            self.thread.unpark();
        }
    }
}

#[derive(Default)]
struct Pool {
    offer: Arc<Offer>,
    workers: Vec<Worker>,
}

static POOL: Mutex<Option<Pool>> = Mutex::new(None);

/// As [`threads`]; 0 before it is decided.
static THREADS: AtomicUsize = AtomicUsize::new(0);

/// How many threads compute: `OMP_NUM_THREADS`, or one per CPU that this process may use by its affinity and the quota of its
/// cgroup.
pub fn threads() -> usize {
    match THREADS.load(Ordering::Relaxed) {
        0 => {
            let variable = std::env::var("OMP_NUM_THREADS").ok().and_then(|value| value.parse().ok());
            set_threads(variable.unwrap_or_else(num_cpus::get));
            threads()
        }
        threads => threads,
    }
}

/// Sets how many threads compute, at least one.
pub fn set_threads(threads: usize) {
    tch::set_num_threads(1);
    THREADS.store(threads.max(1), Ordering::Relaxed);
}

/// Runs `run(0)`, `run(1)`, .. `run(tasks - 1)` in parallel and returns when all have ended. While another thread or a
/// task uses the pool, the calling thread runs all of its tasks alone.
///
/// # Panics
/// When a task panics.
pub(crate) fn parallel(tasks: usize, run: &(dyn Fn(usize) + Sync)) {
    let threads = tasks.min(threads()).max(1);
    let start = |share: usize| share * tasks / threads;
    let shares: Vec<Share> =
        (0..threads).map(|share| Share { next: start(share).into(), end: start(share + 1) }).collect();
    let job = Job { panicked: AtomicBool::new(false), shares: &shares, run };
    let pool = match POOL.try_lock() {
        Ok(pool) => Some(pool),
        // A task has panicked; the pool is as before.
        Err(TryLockError::Poisoned(pool)) => Some(pool.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    };
    match pool {
        Some(mut pool) if threads > 1 => {
            let Pool { offer, workers } = pool.get_or_insert_default();
            while workers.len() < threads - 1 {
                workers.push(Worker::start(Arc::clone(offer), workers.len() + 1));
            }
            offer.run(&job, || workers[..threads - 1].iter().for_each(Worker::wake));
        }
        _ => job.work(0),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    #[test]
    fn every_task_runs_once() {
        for tasks in [0, 1, 2, 3, 100] {
            let counts: Vec<AtomicU32> = (0..tasks).map(|_| AtomicU32::new(0)).collect();
            parallel(tasks, &|task| {
                counts[task].fetch_add(1, Ordering::Relaxed);
            });
            assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
        }
    }

    #[test]
    fn several_callers_and_tasks_that_call_run_all_their_tasks() {
        let total = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for round in 0..1000 {
                        parallel(3, &|_| {
                            parallel(2, &|_| {
                                total.fetch_add(1, Ordering::Relaxed);
                            });
                        });
                        if round % 100 == 0 {
                            // Long enough for the workers to fall asleep.
                            std::thread::sleep(2 * SPIN);
                        }
                    }
                });
            }
        });
        assert_eq!(total.load(Ordering::Relaxed), 4 * 1000 * 3 * 2);
    }

    #[test]
    fn a_panic_of_a_task_reaches_the_caller_and_leaves_the_pool_usable() {
        for _ in 0..20 {
            let run = || {
                parallel(2, &|task| match task {
                    // Leaves the other task to a worker.
                    0 => std::thread::sleep(Duration::from_millis(5)),
                    _ => panic!("on purpose"),
                });
            };
            assert!(catch_unwind(AssertUnwindSafe(run)).is_err());
        }
        every_task_runs_once();
    }
}
