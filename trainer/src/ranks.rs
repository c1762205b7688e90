//! This process among those that train together: sums and copies over all of them, with the time that takes, and with an
//! error that names the rank to blame. Alone, everything is as it is.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use jacobi_datasets::Membership;
use jacobi_torch_ext::{CollectiveError, Group, Pending, Store, StoreAddress};
use tch::{Device, Kind, Tensor};

use crate::watch::{Abandon, RankFailure, Watch, address_of};

const LOCALHOST: &str = "127.0.0.1";

/// This process and its way to the others.
#[derive(Clone)]
pub struct Ranks(Arc<Inner>);

struct Inner {
    link: Option<Link>,
    /// Nanoseconds spent waiting for others.
    waited: AtomicU64,
}

/// Fields are dropped in this order: the store last, since the group needs it.
struct Link {
    /// For tensors of the model's device.
    group: Group,
    /// For numbers, where those are not of the CPU.
    control: Option<Group>,
    watch: Watch,
    _store: Store,
}

/// A place where ranks meet that outlives each of them, kept by who starts them.
pub struct MeetingPlace(Store);

impl MeetingPlace {
    /// On this machine, at a free port.
    ///
    /// # Errors
    /// No port to be had.
    pub fn open() -> Result<Self, RankFailure> {
        let address =
            StoreAddress { host: LOCALHOST.to_owned(), port: 0, serves: true, prefix: String::new() };
        Store::open(&address, Duration::from_secs(30)).map(Self).map_err(RankFailure::Unclear)
    }

    /// What rank `rank` of `world_size`, on this machine too, finds it and the others by: variables as torchrun sets them.
    pub fn variables(&self, rank: usize, world_size: usize) -> [(&'static str, String); 7] {
        [
            ("RANK", rank.to_string()),
            ("WORLD_SIZE", world_size.to_string()),
            ("LOCAL_RANK", rank.to_string()),
            ("MASTER_ADDR", LOCALHOST.to_owned()),
            ("MASTER_PORT", self.0.port().to_string()),
            ("TORCHELASTIC_USE_AGENT_STORE", "True".to_owned()),
            ("TORCHELASTIC_RESTART_COUNT", "0".to_owned()),
        ]
    }
}

/// An operation under way.
#[must_use = "nothing has happened until it is waited for"]
pub(crate) struct Underway(Option<Pending>);

impl Ranks {
    /// A process without others.
    pub fn alone() -> Self {
        Self(Arc::new(Inner { link: None, waited: AtomicU64::new(0) }))
    }

    /// Joins the others. Every operation together gives up after `timeout`; `abandon` is called if another rank gives up
    /// while this one is stuck. Tensors of `device` travel by its own means (NCCL between GPUs), numbers by the CPU's, so that
    /// they do not wait for a GPU's work.
    ///
    /// # Errors
    /// Ranks that do not come in time.
    pub fn join(
        member: &Membership,
        device: Device,
        timeout: Duration,
        abandon: Abandon,
    ) -> Result<Self, RankFailure> {
        let unclear = RankFailure::Unclear;
        let store = Store::open(&address_of(member), timeout).map_err(unclear)?;
        let watch = Watch::start(member, timeout, abandon).map_err(unclear)?;
        let rank = (member.rank.rank, member.rank.world_size);
        let join = |device| Group::join(device, &store, rank, timeout).map_err(|error| watch.blame(error));
        let control = (device != Device::Cpu).then(|| join(Device::Cpu)).transpose()?;
        let group = join(device)?;
        let link = Some(Link { group, control, watch, _store: store });
        Ok(Self(Arc::new(Inner { link, waited: AtomicU64::new(0) })))
    }

    /// Which of all, from 0.
    pub fn rank(&self) -> usize {
        self.0.link.as_ref().map_or(0, |link| link.group.rank())
    }

    /// How many there are.
    pub fn world_size(&self) -> usize {
        self.0.link.as_ref().map_or(1, |link| link.group.world_size())
    }

    /// Whether this is the one that writes and tells.
    pub fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// Time spent waiting for others so far.
    pub(crate) fn waited(&self) -> Duration {
        Duration::from_nanos(self.0.waited.load(Ordering::Relaxed))
    }

    /// Starts putting the sum over all ranks in place of `tensor`.
    pub(crate) fn all_reduce(&self, tensor: &Tensor) -> Result<Underway, RankFailure> {
        self.start(|group| group.all_reduce(tensor))
    }

    /// Starts summing `whole` over all ranks, of which `share` becomes this one's part.
    pub(crate) fn reduce_scatter(&self, share: &Tensor, whole: &Tensor) -> Result<Underway, RankFailure> {
        self.start(|group| group.reduce_scatter(share, whole))
    }

    /// Starts filling `whole` with every rank's `share`.
    pub(crate) fn all_gather(&self, whole: &Tensor, share: &Tensor) -> Result<Underway, RankFailure> {
        // As bytes: copying knows every dtype.
        let bytes = |tensor: &Tensor| tensor.view_dtype(Kind::Uint8);
        self.start(|group| group.all_gather(&bytes(whole), &bytes(share)))
    }

    /// Waits for what was started.
    pub(crate) fn finish(&self, underway: Underway) -> Result<(), RankFailure> {
        let (Some(link), Some(pending)) = (&self.0.link, underway.0) else { return Ok(()) };
        let started = Instant::now();
        let done = pending.wait();
        self.0.waited.fetch_add(started.elapsed().as_nanos() as u64, Ordering::Relaxed);
        done.map_err(|error| link.watch.blame(error))
    }

    /// Puts the sums over all ranks in place of `values`.
    pub(crate) fn sum(&self, values: &mut [f64]) -> Result<(), RankFailure> {
        if self.0.link.is_none() || values.is_empty() {
            return Ok(());
        }
        let tensor = Tensor::from_slice(values);
        let underway = self.begin(|link| link.control.as_ref().unwrap_or(&link.group).all_reduce(&tensor))?;
        self.finish(underway)?;
        tensor.copy_data(values, values.len());
        Ok(())
    }

    /// Whether it is so on any rank.
    pub(crate) fn any(&self, here: bool) -> Result<bool, RankFailure> {
        let mut count = [f64::from(u8::from(here))];
        self.sum(&mut count)?;
        Ok(count[0] > 0.0)
    }

    /// Waits until all have come here.
    pub(crate) fn meet(&self) -> Result<(), RankFailure> {
        self.any(false).map(drop)
    }

    /// What every rank has under the same names: `values` of each, in the order of the ranks.
    pub(crate) fn everyones<const N: usize>(&self, values: [f64; N]) -> Result<Vec<[f64; N]>, RankFailure> {
        let mut all = vec![[0.0; N]; self.world_size()];
        all[self.rank()] = values;
        self.sum(all.as_flattened_mut())?;
        Ok(all)
    }

    /// Tells the others why this rank gives up.
    pub fn give_up(&self, reason: &str) {
        if let Some(link) = &self.0.link {
            link.watch.give_up(reason);
        }
    }

    /// Ends working together, with all work done.
    pub(crate) fn leave(&self) {
        if let Some(link) = &self.0.link {
            link.watch.leave();
        }
    }

    fn start(
        &self,
        operation: impl FnOnce(&Group) -> Result<Pending, CollectiveError>,
    ) -> Result<Underway, RankFailure> {
        self.begin(|link| operation(&link.group))
    }

    fn begin(
        &self,
        operation: impl FnOnce(&Link) -> Result<Pending, CollectiveError>,
    ) -> Result<Underway, RankFailure> {
        let Some(link) = &self.0.link else { return Ok(Underway(None)) };
        link.watch.begin();
        match operation(link) {
            Ok(pending) => Ok(Underway(Some(pending))),
            Err(error) => Err(link.watch.blame(error)),
        }
    }
}
