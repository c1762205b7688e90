//! Collective operations among the ranks. They measure the time spent waiting for others, and their errors name
//! the rank at fault. In a single process they do nothing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use jacobi_torch_ext::{CollectiveError, Group, Pending, Store, StoreAddress};
use tch::{Kind, Tensor};

use crate::{peers::Connection, watch::RankFailure};

const LOCALHOST: &str = "127.0.0.1";

/// This process as a member of a group of ranks that compute together. Clones share it.
#[derive(Clone)]
pub struct Ranks(Arc<Inner>);

struct Inner {
    link: Option<Link>,
    /// Nanoseconds spent waiting for others.
    waited: AtomicU64,
}

/// Fields are dropped in this order: the connection last, since the groups need its store.
struct Link {
    /// For tensors on the model's device.
    group: Arc<Group>,
    /// For numbers on the CPU, where the model is on another device.
    control: Option<Arc<Group>>,
    /// Of each operation.
    timeout: Duration,
    peers: Arc<Connection>,
}

impl Link {
    /// The failure behind `error`, with the rank at fault. Ends what this rank still waits for on a GPU.
    fn blame(&self, error: CollectiveError) -> RankFailure {
        let failure = self.peers.watch.blame(error, self.timeout);
        let _ = self.group.abort();
        failure
    }
}

/// A store through which ranks find each other, kept by their launcher, so that it outlives each of them.
pub struct Rendezvous(Store);

impl Rendezvous {
    /// Opens a store on this machine, at a free port.
    ///
    /// # Errors
    /// No port is free.
    pub fn open() -> Result<Self, RankFailure> {
        let address =
            StoreAddress { host: LOCALHOST.to_owned(), port: 0, serves: true, prefix: String::new() };
        Store::open(&address, Duration::from_secs(30)).map(Self).map_err(RankFailure::Unclear)
    }

    /// The environment variables, as torchrun sets them, with which rank `rank` of `world_size` joins on this machine.
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

#[cfg(test)]
impl Rendezvous {
    /// What rank `rank` of `world_size` takes from its environment.
    pub(crate) fn member(&self, rank: usize, world_size: usize) -> jacobi_datasets::Membership {
        let variables = self.variables(rank, world_size);
        let value =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone());
        jacobi_datasets::Membership::from_environment(value).unwrap().unwrap()
    }
}

/// A collective operation that has been started.
#[must_use = "its result is there once it has been waited for"]
pub(crate) struct Started(Option<Pending>);

impl Ranks {
    /// A single process.
    pub fn alone() -> Self {
        Self(Arc::new(Inner { link: None, waited: AtomicU64::new(0) }))
    }

    /// The members of `group`; `control` is the group for scalars, if it is another one.
    pub(crate) fn new(
        group: Arc<Group>,
        control: Option<Arc<Group>>,
        peers: Arc<Connection>,
        timeout: Duration,
    ) -> Self {
        let link = Some(Link { group, control, timeout, peers });
        Self(Arc::new(Inner { link, waited: AtomicU64::new(0) }))
    }

    /// This process's number, from 0.
    pub fn rank(&self) -> usize {
        self.0.link.as_ref().map_or(0, |link| link.group.rank())
    }

    /// The number of ranks.
    pub fn world_size(&self) -> usize {
        self.0.link.as_ref().map_or(1, |link| link.group.world_size())
    }

    /// Whether this is rank 0, which writes files and reports.
    pub fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// Time spent waiting for others so far.
    pub(crate) fn waited(&self) -> Duration {
        Duration::from_nanos(self.0.waited.load(Ordering::Relaxed))
    }

    /// Starts replacing `tensor` by its sum over all ranks.
    pub(crate) fn all_reduce(&self, tensor: &Tensor) -> Result<Started, RankFailure> {
        self.begin_in_group(|group| group.all_reduce(tensor))
    }

    /// Starts summing `whole` over all ranks; `share` receives this one's part of the sum.
    pub(crate) fn reduce_scatter(&self, share: &Tensor, whole: &Tensor) -> Result<Started, RankFailure> {
        self.begin_in_group(|group| group.reduce_scatter(share, whole))
    }

    /// Starts filling `whole` with every rank's `share`.
    pub(crate) fn all_gather(&self, whole: &Tensor, share: &Tensor) -> Result<Started, RankFailure> {
        // As bytes, which every backend copies whatever the dtype.
        let bytes = |tensor: &Tensor| tensor.view_dtype(Kind::Uint8);
        self.begin_in_group(|group| group.all_gather(&bytes(whole), &bytes(share)))
    }

    /// Waits for an operation.
    pub(crate) fn wait(&self, operation: Started) -> Result<(), RankFailure> {
        let (Some(link), Some(pending)) = (&self.0.link, operation.0) else { return Ok(()) };
        let started = Instant::now();
        let done = pending.wait();
        self.0.waited.fetch_add(started.elapsed().as_nanos() as u64, Ordering::Relaxed);
        // On a GPU waiting only orders streams: an earlier operation may have failed since.
        done.and_then(|()| link.group.error().map_or(Ok(()), Err)).map_err(|error| link.blame(error))
    }

    /// Replaces `values` by their sums over all ranks.
    pub(crate) fn sum(&self, values: &mut [f64]) -> Result<(), RankFailure> {
        if self.0.link.is_none() || values.is_empty() {
            return Ok(());
        }
        let tensor = Tensor::from_slice(values);
        let operation =
            self.begin(|link| link.control.as_ref().unwrap_or(&link.group).all_reduce(&tensor))?;
        self.wait(operation)?;
        tensor.copy_data(values, values.len());
        Ok(())
    }

    /// Whether `here` is true on any rank.
    pub(crate) fn any(&self, here: bool) -> Result<bool, RankFailure> {
        let mut count = [f64::from(u8::from(here))];
        self.sum(&mut count)?;
        Ok(count[0] > 0.0)
    }

    /// Waits until all ranks have called it.
    pub(crate) fn barrier(&self) -> Result<(), RankFailure> {
        self.any(false).map(drop)
    }

    /// The `values` of every rank, in the order of the ranks.
    pub(crate) fn gather_values<const N: usize>(
        &self,
        values: [f64; N],
    ) -> Result<Vec<[f64; N]>, RankFailure> {
        let mut all = vec![[0.0; N]; self.world_size()];
        all[self.rank()] = values;
        self.sum(all.as_flattened_mut())?;
        Ok(all)
    }

    /// Reports to the other ranks why this one fails.
    pub fn give_up(&self, reason: &str) {
        if let Some(link) = &self.0.link {
            link.peers.watch.give_up(reason);
            let _ = link.group.abort();
        }
    }

    fn begin_in_group(
        &self,
        operation: impl FnOnce(&Group) -> Result<Pending, CollectiveError>,
    ) -> Result<Started, RankFailure> {
        self.begin(|link| operation(&link.group))
    }

    fn begin(
        &self,
        operation: impl FnOnce(&Link) -> Result<Pending, CollectiveError>,
    ) -> Result<Started, RankFailure> {
        let Some(link) = &self.0.link else { return Ok(Started(None)) };
        link.peers.watch.begin();
        match operation(link) {
            Ok(pending) => Ok(Started(Some(pending))),
            Err(error) => Err(link.blame(error)),
        }
    }
}
