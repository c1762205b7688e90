//! Notices failures while a rank takes part in no collective operation: a rank that dies while others generate, evaluate or
//! wait, and an operation on a GPU that fails after its `wait` has returned. Each rank watches the next one, in a ring.

use std::{
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use jacobi_datasets::Rank;
use jacobi_torch_ext::{CollectiveError, Group};

use crate::watch::{RankFailure, Watch};

/// Interval of the checks.
const INTERVAL: Duration = Duration::from_millis(500);
/// A rank is dead after this long without a heartbeat: the timeout of collective operations, but between these bounds.
const SILENCE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(60));

pub(crate) struct Monitor {
    watched: Arc<Watched>,
    thread: Option<JoinHandle<()>>,
}

struct Watched {
    watch: Arc<Watch>,
    rank: Rank,
    timeout: Duration,
    silence: Duration,
    groups: Mutex<Vec<Weak<Group>>>,
    ended: AtomicBool,
}

impl Monitor {
    /// Starts to watch the rank after `rank`. `timeout` is that of collective operations.
    pub(crate) fn start(watch: Arc<Watch>, rank: Rank, timeout: Duration) -> Self {
        Self::start_with(watch, rank, (timeout, timeout.clamp(SILENCE.0, SILENCE.1)))
    }

    /// [`start`](Self::start), where a rank is dead after `silence`.
    fn start_with(watch: Arc<Watch>, rank: Rank, (timeout, silence): (Duration, Duration)) -> Self {
        let (groups, ended) = (Mutex::default(), AtomicBool::new(false));
        let watched = Arc::new(Watched { watch, rank, timeout, silence, groups, ended });
        let thread = Arc::clone(&watched);
        Self { watched, thread: Some(std::thread::spawn(move || thread.run())) }
    }

    /// Also asks `group` for failures, until it is dropped.
    pub(crate) fn add(&self, group: &Arc<Group>) {
        let mut groups = self.watched.groups.lock().unwrap_or_else(PoisonError::into_inner);
        groups.retain(|group| group.strong_count() > 0);
        groups.push(Arc::downgrade(group));
    }

    /// Stops watching, since this rank has finished.
    pub(crate) fn stop(&self) {
        self.watched.ended.store(true, Ordering::Relaxed);
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Watched {
    /// Until the first failure: the heartbeat thread reads what is reported here, and ends this process if it is blocked.
    fn run(&self) {
        let next = (self.rank.rank + 1) % self.rank.world_size;
        let (mut last, mut since) = (None, Instant::now());
        while !self.ended.load(Ordering::Relaxed) && self.watch.failure().is_none() {
            if let Some((group, error)) = self.failed_group() {
                let _ = group.abort();
                if let RankFailure::Unclear(error) = self.watch.blame(error, self.timeout) {
                    self.watch.give_up(&error.to_string());
                }
                return;
            }
            // If the store is gone, this rank fails at its next call to it. A rank without any heartbeat has not connected yet.
            if let Ok(heartbeat) = self.watch.heartbeat(next) {
                if heartbeat != last {
                    (last, since) = (heartbeat, Instant::now());
                } else if last.is_some()
                    && since.elapsed() >= self.silence
                    && self.watch.has_left(next) == Ok(false)
                {
                    return self.watch.report_gone(next);
                }
            }
            std::thread::sleep(INTERVAL);
        }
    }

    fn failed_group(&self) -> Option<(Arc<Group>, CollectiveError)> {
        let groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        let mut groups = groups.iter().filter_map(Weak::upgrade);
        groups.find_map(|group| group.error().map(|error| (group, error)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rendezvous;

    /// Whether rank 1 of 2 is taken for dead, after one second of heartbeats or none, and four seconds without.
    fn is_gone(has_been_there: bool) -> bool {
        let place = Rendezvous::open().unwrap();
        let watch = Arc::new(Watch::start(&place.member(0, 2), Box::new(|_| {})).unwrap());
        let other = has_been_there.then(|| Watch::start(&place.member(1, 2), Box::new(|_| {})).unwrap());
        let times = (Duration::from_secs(60), Duration::from_millis(1500));
        let _monitor = Monitor::start_with(Arc::clone(&watch), Rank { rank: 0, world_size: 2 }, times);
        std::thread::sleep(Duration::from_secs(1));
        drop(other);
        std::thread::sleep(Duration::from_secs(4));
        watch.failure().is_some()
    }

    #[test]
    fn a_rank_is_dead_without_heartbeats_once_it_has_connected() {
        assert!(is_gone(true));
        assert!(!is_gone(false));
    }
}
