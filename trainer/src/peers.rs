//! The ranks of one command, connected by a store for as long as the command runs. Through it they exchange short texts, wait
//! for each other without a time limit, learn that one has failed or was asked to stop, and join groups for collective work.

use std::{
    cell::Cell,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use jacobi_datasets::{Membership, Rank};
use jacobi_torch_ext::{CollectiveError, Group, Store};
use tch::Device;

use crate::{
    monitor::Monitor,
    ranks::Ranks,
    watch::{Abandon, RankFailure, SILENCE, Watch, address_of},
};

/// Interval at which a waiting rank reads the store.
const POLL: Duration = Duration::from_millis(100);
/// The key that is set when a rank was asked to stop.
const STOP: &str = "stop";

/// This process and its connection to the others. Clones share it.
#[derive(Clone)]
pub struct Peers(Option<Arc<Connection>>);

/// Fields are dropped in this order: the store last.
pub(crate) struct Connection {
    monitor: Monitor,
    pub(crate) watch: Arc<Watch>,
    pub(crate) rank: Rank,
    timeout: Duration,
    /// Groups joined so far. All ranks join the same groups in the same order, so that the number names a group.
    groups: AtomicUsize,
    /// Serves the other ranks, or is a client that groups are joined with. All other calls go through `watch`, which connects
    /// again.
    store: Store,
}

impl Peers {
    /// A single process.
    pub fn alone() -> Self {
        Self(None)
    }

    /// Connects and waits until all ranks have. `abandon` is called if another rank fails while this one is blocked.
    ///
    /// # Errors
    /// A rank has not connected within `timeout`.
    pub fn connect(member: &Membership, timeout: Duration, abandon: Abandon) -> Result<Self, RankFailure> {
        let unclear = RankFailure::Unclear;
        let store = Store::open(&address_of(member), timeout).map_err(unclear)?;
        let watch = Arc::new(Watch::start(member, abandon).map_err(unclear)?);
        let (rank, groups) = (member.rank, AtomicUsize::new(0));
        let monitor = Monitor::start(Arc::clone(&watch), rank, timeout);
        let connection = Arc::new(Connection { monitor, watch, rank, timeout, groups, store });
        connection.wait_for_all_to_connect()?;
        Ok(Self(Some(connection)))
    }

    /// This process's number, from 0.
    pub fn rank(&self) -> usize {
        self.0.as_ref().map_or(0, |connection| connection.rank.rank)
    }

    /// The number of ranks.
    pub fn world_size(&self) -> usize {
        self.0.as_ref().map_or(1, |connection| connection.rank.world_size)
    }

    /// Whether this is rank 0, which writes files and reports.
    pub fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// Joins a group in which all ranks compute together; each collective operation fails after `timeout`. Tensors use the
    /// backend of `device` (NCCL between GPUs), scalars that of the CPU, so that they do not wait for the work of a GPU.
    ///
    /// # Errors
    /// A rank that does not join in time.
    pub fn join(&self, device: Device, timeout: Duration) -> Result<Ranks, RankFailure> {
        let Some(connection) = &self.0 else { return Ok(Ranks::alone()) };
        let name = connection.groups.fetch_add(1, Ordering::Relaxed).to_string();
        let Rank { rank, world_size } = connection.rank;
        let join = |device| {
            let group = Group::join(device, &connection.store, &name, (rank, world_size), timeout);
            let group = Arc::new(group.map_err(|error| connection.watch.blame(error, timeout))?);
            connection.monitor.add(&group);
            Ok::<_, RankFailure>(group)
        };
        let control = (device != Device::Cpu).then(|| join(Device::Cpu)).transpose()?;
        Ok(Ranks::new(join(device)?, control, Arc::clone(connection), timeout))
    }

    /// Sets `key` to `text` for all ranks.
    ///
    /// # Errors
    /// The store is gone.
    pub fn tell(&self, key: &str, text: &str) -> Result<(), RankFailure> {
        let Some(connection) = &self.0 else { return Ok(()) };
        connection.set(key, text)
    }

    /// Waits for the text of `key`, however long that takes; `None` if `is_stopped` before. A process alone has no texts.
    ///
    /// # Errors
    /// A rank has failed, or the store is gone.
    pub fn hear(&self, key: &str, is_stopped: impl Fn() -> bool) -> Result<Option<String>, RankFailure> {
        let Some(connection) = &self.0 else { return Ok(None) };
        connection.poll(is_stopped, || connection.watch.call(|store| store.get(key)))
    }

    /// Waits until all ranks have called this with the same `name`, however long that takes; false if `is_stopped` before.
    ///
    /// # Errors
    /// A rank has failed, or the store is gone.
    pub fn meet(&self, name: &str, is_stopped: impl Fn() -> bool) -> Result<bool, RankFailure> {
        let Some(connection) = &self.0 else { return Ok(true) };
        let key = |rank| format!("meet/{name}/{rank}");
        connection.set(&key(connection.rank.rank), "")?;
        let here = Cell::new(0);
        let met = connection.poll(is_stopped, || {
            while here.get() < connection.rank.world_size {
                if !connection.has(&key(here.get()))? {
                    return Ok(None);
                }
                here.set(here.get() + 1);
            }
            Ok(Some(()))
        })?;
        Ok(met.is_some())
    }

    /// How requests to stop travel: the function tells the others if this rank was asked to stop, and returns whether any rank
    /// was, or `None` when the connection has ended.
    pub fn stop_exchange(&self) -> impl Fn(bool) -> Option<bool> + Send + use<> {
        let connection = self.0.as_ref().map(Arc::downgrade).unwrap_or_default();
        move |here| {
            let connection = connection.upgrade()?;
            if here {
                // The listener ends once a rank was asked to stop, so it has to ask again if the others were not told.
                return Some(connection.set(STOP, "").is_ok());
            }
            Some(connection.has(STOP).unwrap_or(false))
        }
    }

    /// Reports to the other ranks why this one fails.
    pub fn give_up(&self, reason: &str) {
        if let Some(connection) = &self.0 {
            connection.watch.give_up(reason);
        }
    }

    /// Waits until the first rank has left, as long as it is alive: launchers end the other ranks once one has ended, and the
    /// first one may still have results to write.
    pub fn wait_for_first_to_leave(&self) {
        let Some(connection) = self.0.as_ref().filter(|_| !self.is_first()) else { return };
        let watch = &connection.watch;
        let (mut last, mut since) = (None, Instant::now());
        while since.elapsed() < SILENCE && watch.has_left(0) == Ok(false) {
            match watch.heartbeat(0) {
                Ok(heartbeat) if heartbeat == last => {}
                Ok(heartbeat) => (last, since) = (heartbeat, Instant::now()),
                Err(_) => return,
            }
            std::thread::sleep(POLL);
        }
    }

    /// Announces that this rank has finished. The rank that runs the store waits for the others, for some seconds.
    pub fn leave(&self) {
        if let Some(connection) = &self.0 {
            connection.monitor.stop();
            connection.watch.leave();
        }
    }
}

impl Connection {
    fn blame(&self, error: CollectiveError) -> RankFailure {
        self.watch.blame(error, self.timeout)
    }

    fn set(&self, key: &str, text: &str) -> Result<(), RankFailure> {
        self.watch.call(|store| store.set(key, text)).map_err(|error| self.blame(error))
    }

    fn has(&self, key: &str) -> Result<bool, CollectiveError> {
        Ok(self.watch.call(|store| store.get(key))?.is_some())
    }

    fn wait_for_all_to_connect(&self) -> Result<(), RankFailure> {
        let (started, world_size) = (Instant::now(), self.rank.world_size);
        let key = |rank| format!("connected/{rank}");
        self.set(&key(self.rank.rank), "")?;
        let mut missing: Vec<usize> = (0..world_size).collect();
        loop {
            let mut still = Vec::new();
            for rank in missing {
                if !self.has(&key(rank)).map_err(|error| self.blame(error))? {
                    still.push(rank);
                }
            }
            missing = still;
            if missing.is_empty() {
                return Ok(());
            }
            if started.elapsed() >= self.timeout {
                let connected = world_size - missing.len();
                return Err(RankFailure::Missing { connected, world_size, timeout: self.timeout.as_secs() });
            }
            std::thread::sleep(POLL);
        }
    }

    /// Polls until `found` has a value; `None` if `is_stopped` before.
    fn poll<T>(
        &self,
        is_stopped: impl Fn() -> bool,
        found: impl Fn() -> Result<Option<T>, CollectiveError>,
    ) -> Result<Option<T>, RankFailure> {
        loop {
            if let Some(failure) = self.watch.failure() {
                return Err(failure);
            }
            match found() {
                Ok(Some(value)) => return Ok(Some(value)),
                Ok(None) if is_stopped() => return Ok(None),
                Ok(None) => std::thread::sleep(POLL),
                Err(error) => return Err(self.blame(error)),
            }
        }
    }
}

#[cfg(test)]
mod tests;
