//! Which rank is to blame when one is gone, hangs or gives up. Every rank says in the store, again and again, that it lives
//! and how far it is; one that gives up leaves its reason there. When a collective operation fails, the others read it
//! up: a reason if there is one, else who fell silent, else who is behind.

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

/// Between two signs of life.
const BEAT: Duration = Duration::from_millis(500);
/// Who gives none for so long is gone. Long enough for a busy machine.
const SILENCE: Duration = Duration::from_secs(4);
/// For the connection to the store and single questions to it.
const ANSWER: Duration = Duration::from_secs(10);
/// How long a rank may take to end by itself once another has given up.
const GRACE: Duration = Duration::from_secs(5);
/// The key under which the first that gives up leaves its reason.
const FAILED: &str = "failed";

/// Why ranks cannot go on together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RankFailure {
    /// One gave up, and said why.
    #[error("rank {rank} of {world_size} gave up: {reason}")]
    GaveUp {
        /// Which.
        rank: usize,
        /// Of how many.
        world_size: usize,
        /// What it said.
        reason: String,
    },
    /// One is gone without a word.
    #[error(
        "rank {rank} of {world_size} is gone: it was killed, ran out of memory, or its machine cannot be reached ({source})"
    )]
    Gone {
        /// Which.
        rank: usize,
        /// Of how many.
        world_size: usize,
        /// What was noticed.
        source: CollectiveError,
    },
    /// One lives and does not come.
    #[error(
        "rank {rank} of {world_size} hangs: it has begun {begun} operations where others have begun {others} \
         (train.dist_timeout = {timeout} seconds)"
    )]
    Hangs {
        /// Which.
        rank: usize,
        /// Of how many.
        world_size: usize,
        /// How far it is.
        begun: u64,
        /// How far the furthest is.
        others: u64,
        /// How long it was waited for.
        timeout: u64,
    },
    /// The launcher, with the place where ranks meet, is gone.
    #[error("the launcher is gone, and with it the place where ranks meet")]
    LauncherGone,
    /// No rank is to blame.
    #[error("the ranks cannot work together")]
    Unclear(#[source] CollectiveError),
}

/// One rank's watch over itself and the others.
pub(crate) struct Watch {
    member: Membership,
    timeout: Duration,
    store: Store,
    begun: Arc<AtomicU64>,
    ended: Arc<AtomicBool>,
    /// A reason that was read; the store may be gone by the time it is wanted.
    told: Arc<OnceLock<RankFailure>>,
    beating: Option<JoinHandle<()>>,
}

/// Told when this process should end and does not do so by itself.
pub type Abandon = Box<dyn Fn(&RankFailure) + Send>;

impl Watch {
    /// Starts giving signs of life. `abandon` is called if another rank gave up and this one is stuck.
    pub(crate) fn start(
        member: &Membership,
        timeout: Duration,
        abandon: Abandon,
    ) -> Result<Self, CollectiveError> {
        let mut address = address_of(member);
        address.serves = false;
        let (begun, ended) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let told = Arc::new(OnceLock::new());
        let heart = Heart {
            rank: member.rank.rank,
            world_size: member.rank.world_size,
            store: Store::open(&address, ANSWER)?,
            begun: Arc::clone(&begun),
            ended: Arc::clone(&ended),
            told: Arc::clone(&told),
        };
        let beating = std::thread::spawn(move || heart.beat(&abandon));
        let store = Store::open(&address, ANSWER)?;
        Ok(Self { member: member.clone(), timeout, store, begun, ended, told, beating: Some(beating) })
    }

    /// An operation of all ranks begins.
    pub(crate) fn begin(&self) {
        self.begun.fetch_add(1, Ordering::Relaxed);
    }

    /// Leaves the reason why this rank gives up, unless one has been left before; and gives the others time to read it.
    pub(crate) fn give_up(&self, reason: &str) {
        self.leave_reason(self.member.rank.rank, reason);
        // Who keeps the store takes it along.
        if self.member.keeper == Keeper::FirstRank && self.member.rank.rank == 0 {
            std::thread::sleep(3 * BEAT);
        }
    }

    fn leave_reason(&self, rank: usize, reason: &str) {
        if self.store.add("failures", 1) == Ok(1) {
            // Asking afterwards waits until it is said.
            let _ = self.store.set(FAILED, &format!("{rank} {reason}")).and_then(|()| self.store.get(FAILED));
        }
    }

    /// Who is to blame for `error`.
    pub(crate) fn blame(&self, error: CollectiveError) -> RankFailure {
        let failure = self.find(error);
        match &failure {
            RankFailure::Gone { rank, .. } => self.leave_reason(*rank, "it is gone"),
            RankFailure::Hangs { rank, .. } => self.leave_reason(*rank, "it hangs"),
            _ => {}
        }
        failure
    }

    fn find(&self, error: CollectiveError) -> RankFailure {
        let world_size = self.member.rank.world_size;
        let deadline = Instant::now() + SILENCE;
        let mut first: Vec<Option<String>> = Vec::new();
        let mut last;
        loop {
            if let Some(failure) = self.told.get() {
                return failure.clone();
            }
            match reason(&self.store, world_size) {
                Ok(Some(failure)) => return failure,
                Ok(None) => {}
                Err(_) => return self.store_gone(error),
            }
            let Ok(signs) = self.signs() else { return self.store_gone(error) };
            if first.is_empty() {
                first.clone_from(&signs);
            }
            last = signs;
            let silent = (0..world_size).filter(|&rank| first[rank] == last[rank]).count();
            if Instant::now() >= deadline || silent == 0 {
                break;
            }
            std::thread::sleep(BEAT);
        }
        let own = self.member.rank.rank;
        if let Some(rank) = (0..world_size).find(|&rank| rank != own && first[rank] == last[rank]) {
            return RankFailure::Gone { rank, world_size, source: error };
        }
        let begun: Vec<u64> = last.iter().map(|sign| sign.as_deref().map_or(0, begun_in)).collect();
        let (least, most) = (begun.iter().min().copied(), begun.iter().max().copied());
        match (least, most) {
            (Some(least), Some(most)) if least < most => RankFailure::Hangs {
                rank: begun.iter().position(|&begun| begun == least).unwrap_or(0),
                world_size,
                begun: least,
                others: most,
                timeout: self.timeout.as_secs(),
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

    /// The last sign of life of each rank.
    fn signs(&self) -> Result<Vec<Option<String>>, CollectiveError> {
        (0..self.member.rank.world_size).map(|rank| self.store.get(&alive(rank))).collect()
    }

    /// Says farewell; who keeps the store waits for the others to have done so.
    pub(crate) fn leave(&self) {
        self.ended.store(true, Ordering::Relaxed);
        let world_size = self.member.rank.world_size as i64;
        let keeps = self.member.keeper == Keeper::FirstRank && self.member.rank.rank == 0;
        let mut left = self.store.add("left", 1);
        let deadline = Instant::now() + ANSWER;
        while keeps && left.as_ref().is_ok_and(|&left| left < world_size) && Instant::now() < deadline {
            std::thread::sleep(BEAT / 10);
            left = self.store.add("left", 0);
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(beating) = self.beating.take() {
            let _ = beating.join();
        }
    }
}

/// What gives the signs of life, on a thread and a connection of its own.
struct Heart {
    rank: usize,
    world_size: usize,
    store: Store,
    begun: Arc<AtomicU64>,
    ended: Arc<AtomicBool>,
    told: Arc<OnceLock<RankFailure>>,
}

impl Heart {
    fn beat(&self, abandon: &Abandon) {
        let mut told_at: Option<Instant> = None;
        for count in 0u64.. {
            if self.ended.load(Ordering::Relaxed) {
                return;
            }
            let sign = format!("{count} {}", self.begun.load(Ordering::Relaxed));
            let found =
                self.store.set(&alive(self.rank), &sign).and_then(|()| reason(&self.store, self.world_size));
            match found {
                Ok(Some(failure)) if told_at.is_none() => {
                    told_at = Some(Instant::now());
                    let _ = self.told.set(failure);
                }
                // Without a store nobody else can be told of; the operation under way will fail.
                Err(_) if told_at.is_none() => return,
                _ => {}
            }
            if let (Some(since), Some(failure)) = (told_at, self.told.get())
                && since.elapsed() >= GRACE
            {
                return abandon(failure);
            }
            std::thread::sleep(BEAT);
        }
    }
}

/// Where ranks meet.
pub(crate) fn address_of(member: &Membership) -> StoreAddress {
    StoreAddress {
        host: member.host.clone(),
        port: member.port,
        serves: member.keeper == Keeper::FirstRank && member.rank.rank == 0,
        prefix: format!("jacobi/{}", member.attempt),
    }
}

fn alive(rank: usize) -> String {
    format!("alive/{rank}")
}

fn begun_in(sign: &str) -> u64 {
    sign.split(' ').nth(1).and_then(|begun| begun.parse().ok()).unwrap_or(0)
}

fn reason(store: &Store, world_size: usize) -> Result<Option<RankFailure>, CollectiveError> {
    let Some(text) = store.get(FAILED)? else { return Ok(None) };
    let (rank, reason) = text.split_once(' ').unwrap_or(("0", &text));
    let rank = rank.parse().unwrap_or(0);
    Ok(Some(RankFailure::GaveUp { rank, world_size, reason: reason.to_owned() }))
}
