//! Finds the rank at fault when a rank dies, hangs or fails. Every rank writes heartbeats with its number of
//! begun operations to the store; a rank that fails writes its reason there. When a collective operation fails,
//! the other ranks read the store and blame, in this order: a rank with a reason, a rank without heartbeats,
//! the rank with the fewest operations.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use jacobi_datasets::{Keeper, Membership};
use jacobi_torch_ext::{CollectiveError, Store, StoreAddress};

mod connection;

use connection::{Connection, STORE_TIMEOUT};

/// Interval of the heartbeats.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// A rank without a heartbeat for this long is dead. Longer than the delays of a busy machine.
pub(crate) const SILENCE: Duration = Duration::from_secs(4);
/// How long a rank may take to end by itself once another has failed.
const GRACE: Duration = Duration::from_secs(5);
/// The key under which the first rank that fails stores its reason.
const FAILED: &str = "failed";

/// Why collective work ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RankFailure {
    /// A rank failed and gave its reason.
    #[error("rank {rank} of {world_size} gave up: {reason}")]
    GaveUp {
        /// The rank.
        rank: usize,
        /// Number of ranks.
        world_size: usize,
        /// Its reason.
        reason: String,
    },
    /// A rank died without giving a reason.
    #[error(
        "rank {rank} of {world_size} is gone: it was killed, ran out of memory, or its machine cannot be reached ({source})"
    )]
    Gone {
        /// The rank.
        rank: usize,
        /// Number of ranks.
        world_size: usize,
        /// The error of the failed operation.
        source: CollectiveError,
    },
    /// A rank sends heartbeats but does not take part.
    #[error(
        "rank {rank} of {world_size} hangs: it has begun {begun} operations where others have begun {others} \
         (train.dist_timeout = {timeout} seconds)"
    )]
    Hangs {
        /// The rank.
        rank: usize,
        /// Number of ranks.
        world_size: usize,
        /// Operations that it has begun.
        begun: u64,
        /// Operations that the furthest rank has begun.
        others: u64,
        /// Seconds that the others waited.
        timeout: u64,
    },
    /// A rank that others wait for has not connected.
    #[error(
        "{connected} of {world_size} ranks have connected within {timeout} seconds (train.dist_timeout): start all of them, with \
         the same MASTER_ADDR and MASTER_PORT"
    )]
    Missing {
        /// Ranks that have connected.
        connected: usize,
        /// Number of ranks.
        world_size: usize,
        /// Seconds that this rank waited.
        timeout: u64,
    },
    /// The launcher, which keeps the store, is gone.
    #[error("the launcher is gone, and with it the store through which the ranks communicate")]
    LauncherGone,
    /// No rank was found to be at fault.
    #[error("a collective operation failed")]
    Unclear(#[source] CollectiveError),
}

/// Sends a rank's heartbeats and reads those of the others.
pub(crate) struct Watch {
    member: Membership,
    store: Connection,
    begun: Arc<AtomicU64>,
    ended: Arc<AtomicBool>,
    /// The first failure that was read, kept because the store may be gone later.
    failure: Arc<OnceLock<RankFailure>>,
    heartbeat: Option<JoinHandle<()>>,
}

/// Called when another rank has failed and this process is blocked.
pub type Abandon = Box<dyn Fn(&RankFailure) + Send>;

impl Watch {
    /// Starts the heartbeats. `abandon` is called if another rank has failed and this one is blocked.
    pub(crate) fn start(member: &Membership, abandon: Abandon) -> Result<Self, CollectiveError> {
        let address = address_of(member);
        let (begun, ended) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let failure = Arc::new(OnceLock::new());
        let thread = Heartbeat {
            rank: member.rank.rank,
            world_size: member.rank.world_size,
            store: Connection::open(&address)?,
            begun: Arc::clone(&begun),
            ended: Arc::clone(&ended),
            failure: Arc::clone(&failure),
        };
        let heartbeat = Some(std::thread::spawn(move || thread.run(&abandon)));
        let store = Connection::open(&address)?;
        Ok(Self { member: member.clone(), store, begun, ended, failure, heartbeat })
    }

    /// Makes a call to the store, and makes it once more over a new connection if it fails.
    pub(crate) fn call<T>(
        &self,
        call: impl Fn(&Store) -> Result<T, CollectiveError>,
    ) -> Result<T, CollectiveError> {
        self.store.call(call)
    }

    /// Counts a collective operation.
    pub(crate) fn begin(&self) {
        self.begun.fetch_add(1, Ordering::Relaxed);
    }

    /// Stores the reason why this rank fails, unless another rank has failed before, and gives the others time
    /// to read it.
    pub(crate) fn give_up(&self, reason: &str) {
        self.store_reason(self.member.rank.rank, reason);
        if self.keeps_store() {
            std::thread::sleep(3 * HEARTBEAT);
        }
    }

    /// Whether this process runs the store.
    fn keeps_store(&self) -> bool {
        self.member.keeper == Keeper::FirstRank && self.member.rank.rank == 0
    }

    fn store_reason(&self, rank: usize, reason: &str) {
        // Not counted with `add`: a call may be made twice.
        if self.call(|store| store.get(FAILED)) == Ok(None) {
            let text = format!("{rank} {reason}");
            // Reading it back ensures that it is written.
            let _ = self.call(|store| store.set(FAILED, &text).and_then(|()| store.get(FAILED)));
        }
    }

    /// The failure that a rank has reported.
    pub(crate) fn failure(&self) -> Option<RankFailure> {
        self.failure.get().cloned()
    }

    /// The last heartbeat of `rank`.
    pub(crate) fn heartbeat(&self, rank: usize) -> Result<Option<String>, CollectiveError> {
        self.call(|store| store.get(&heartbeat_key(rank)))
    }

    /// Whether `rank` has finished.
    pub(crate) fn has_left(&self, rank: usize) -> Result<bool, CollectiveError> {
        Ok(self.call(|store| store.get(&left_key(rank)))?.is_some())
    }

    /// Reports that `rank` sends no heartbeats.
    pub(crate) fn report_gone(&self, rank: usize) {
        self.store_reason(
            rank,
            "it is gone: it was killed, ran out of memory, or its machine cannot be reached",
        );
    }

    /// The failure behind `error`, the end of an operation that had `timeout`, with the rank at fault.
    pub(crate) fn blame(&self, error: CollectiveError, timeout: Duration) -> RankFailure {
        let failure = self.find(error, timeout);
        match &failure {
            RankFailure::Gone { rank, .. } => self.store_reason(*rank, "it is gone"),
            RankFailure::Hangs { rank, .. } => self.store_reason(*rank, "it hangs"),
            _ => {}
        }
        failure
    }

    fn find(&self, error: CollectiveError, timeout: Duration) -> RankFailure {
        let world_size = self.member.rank.world_size;
        let deadline = Instant::now() + SILENCE;
        let mut first: Vec<Option<String>> = Vec::new();
        let mut last;
        loop {
            if let Some(failure) = self.failure.get() {
                return failure.clone();
            }
            match reason(&self.store, world_size) {
                Ok(Some(failure)) => return failure,
                Ok(None) => {}
                Err(_) => return self.store_gone(error),
            }
            let Ok(heartbeats) = self.heartbeats() else { return self.store_gone(error) };
            if first.is_empty() {
                first.clone_from(&heartbeats);
            }
            last = heartbeats;
            let silent = (0..world_size).filter(|&rank| first[rank] == last[rank]).count();
            if Instant::now() >= deadline || silent == 0 {
                break;
            }
            std::thread::sleep(HEARTBEAT);
        }
        let own = self.member.rank.rank;
        if let Some(rank) = (0..world_size).find(|&rank| rank != own && first[rank] == last[rank]) {
            return RankFailure::Gone { rank, world_size, source: error };
        }
        let begun: Vec<u64> =
            last.iter().map(|heartbeat| heartbeat.as_deref().map_or(0, operations_in)).collect();
        let (least, most) = (begun.iter().min().copied(), begun.iter().max().copied());
        match (least, most) {
            (Some(least), Some(most)) if least < most => RankFailure::Hangs {
                rank: begun.iter().position(|&begun| begun == least).unwrap_or(0),
                world_size,
                begun: least,
                others: most,
                timeout: timeout.as_secs(),
            },
            _ => RankFailure::Unclear(error),
        }
    }

    fn store_gone(&self, error: CollectiveError) -> RankFailure {
        match self.member.keeper {
            Keeper::FirstRank => {
                RankFailure::Gone { rank: 0, world_size: self.member.rank.world_size, source: error }
            }
            Keeper::Launcher => RankFailure::LauncherGone,
        }
    }

    /// The last heartbeat of each rank.
    fn heartbeats(&self) -> Result<Vec<Option<String>>, CollectiveError> {
        let ranks = 0..self.member.rank.world_size;
        self.call(|store| ranks.clone().map(|rank| store.get(&heartbeat_key(rank))).collect())
    }

    /// Announces that this rank has finished. The rank that runs the store waits until all ranks have.
    pub(crate) fn leave(&self) {
        self.ended.store(true, Ordering::Relaxed);
        let _ = self.call(|store| store.set(&left_key(self.member.rank.rank), ""));
        let deadline = Instant::now() + STORE_TIMEOUT;
        let others = 1..self.member.rank.world_size;
        for rank in others.filter(|_| self.keeps_store()) {
            while self.has_left(rank) == Ok(false) && Instant::now() < deadline {
                std::thread::sleep(HEARTBEAT / 10);
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(heartbeat) = self.heartbeat.take() {
            let _ = heartbeat.join();
        }
    }
}

/// Writes the heartbeats, on its own thread and connection.
struct Heartbeat {
    rank: usize,
    world_size: usize,
    store: Connection,
    begun: Arc<AtomicU64>,
    ended: Arc<AtomicBool>,
    failure: Arc<OnceLock<RankFailure>>,
}

impl Heartbeat {
    fn run(&self, abandon: &Abandon) {
        let mut failed_at: Option<Instant> = None;
        for count in 0u64.. {
            if self.ended.load(Ordering::Relaxed) {
                return;
            }
            let heartbeat = format!("{count} {}", self.begun.load(Ordering::Relaxed));
            let key = heartbeat_key(self.rank);
            let written = self.store.call(|store| store.set(&key, &heartbeat));
            let found = written.and_then(|()| reason(&self.store, self.world_size));
            match found {
                Ok(Some(failure)) if failed_at.is_none() => {
                    failed_at = Some(Instant::now());
                    let _ = self.failure.set(failure);
                }
                // The store is gone, since connecting again has failed too. No reason can be read; the operation in
                // progress will fail by itself.
                Err(_) if failed_at.is_none() => return,
                _ => {}
            }
            if let (Some(since), Some(failure)) = (failed_at, self.failure.get())
                && since.elapsed() >= GRACE
            {
                return abandon(failure);
            }
            std::thread::sleep(HEARTBEAT);
        }
    }
}

/// The address of the store.
pub(crate) fn address_of(member: &Membership) -> StoreAddress {
    StoreAddress {
        host: member.host.clone(),
        port: member.port,
        serves: member.keeper == Keeper::FirstRank && member.rank.rank == 0,
        prefix: format!("jacobi/{}", member.attempt),
    }
}

fn heartbeat_key(rank: usize) -> String {
    format!("alive/{rank}")
}

fn left_key(rank: usize) -> String {
    format!("left/{rank}")
}

fn operations_in(heartbeat: &str) -> u64 {
    heartbeat.split(' ').nth(1).and_then(|begun| begun.parse().ok()).unwrap_or(0)
}

/// The failure that a rank has stored, if one has.
fn reason(store: &Connection, world_size: usize) -> Result<Option<RankFailure>, CollectiveError> {
    let Some(text) = store.call(|store| store.get(FAILED))? else { return Ok(None) };
    let (rank, reason) = text.split_once(' ').unwrap_or(("0", &text));
    let rank = rank.parse().unwrap_or(0);
    Ok(Some(RankFailure::GaveUp { rank, world_size, reason: reason.to_owned() }))
}

#[cfg(test)]
mod tests;
