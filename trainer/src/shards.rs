//! Parameters, gradients and optimizer state sharded among ranks, bucket by bucket (ZeRO, arXiv 1910.02054).
//!
//! | sharding | whole on each rank | communicated |
//! |---|---|---|
//! | `none` | everything | the sum of the gradients, once a step |
//! | `optimizer` | parameters and gradients (ZeRO-1) | gradients to the rank that updates them, parameters back, once a step |
//! | `gradients` | parameters (ZeRO-2) | the same, but gradients after each pass, layer by layer |
//! | `parameters` | nothing (ZeRO-3) | gradients as before; parameters before each use, after which they are released |
//!
//! A rank's share of a bucket is a contiguous run of its elements, across the bounds of parameters.
//!
//! With an adapter the buckets of the model are frozen: they have no gradients and no optimizer state, and are divided among
//! the ranks under `parameters` only. The adapter is one bucket behind them, which is all that is reduced.

use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
};

use jacobi_model::{Adapter, Bucket, Gradients, Transformer};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::{
    adamw::Piece,
    ranks::{Ranks, Started},
    watch::RankFailure,
};

/// State that is divided among the ranks; the rest is whole on each rank.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Sharding {
    /// Nothing: every rank keeps everything.
    #[default]
    None,
    /// Master weights and moments.
    Optimizer,
    /// Also the summed gradients.
    Gradients,
    /// Also the parameters.
    Parameters,
}

/// Maximum reductions in progress. Each holds the unsharded gradients of a bucket.
const MAX_REDUCTIONS: usize = 2;

/// The buckets of a model and its adapter, and this rank's share of each.
pub(crate) struct Shards {
    ranks: Ranks,
    sharding: Sharding,
    buckets: Vec<Bucket>,
    /// The first bucket that is trained: 0, or that of the adapter. All later ones are trained too.
    first_trained: usize,
    shares: Vec<Share>,
    /// Of the trained buckets.
    gradients: Gradients,
    reductions: RefCell<VecDeque<Reduction>>,
    /// By bucket, the gathers of parameters in progress.
    gathers: RefCell<BTreeMap<usize, Started>>,
}

/// The part of a bucket that this rank updates.
struct Share {
    /// Index of the first element within the bucket.
    start: i64,
    /// Flat, in the compute dtype.
    parameters: Tensor,
    /// In fp32, summed over the passes and ranks of a step; `None` if the bucket is frozen.
    gradients: Option<Tensor>,
}

struct Reduction {
    operation: Started,
    /// The receive buffer, and the bucket whose gradients it is added to; `None` if received in place.
    received: Option<(Tensor, usize)>,
}

impl Shards {
    /// Moves the parameters of `model` and `adapter` into buckets; of sharded ones only this rank's share is kept. With an
    /// adapter the model is frozen.
    pub(crate) fn new(
        model: &mut Transformer,
        adapter: Option<&mut Adapter>,
        sharding: Sharding,
        ranks: Ranks,
    ) -> Self {
        let sharding = if ranks.world_size() == 1 { Sharding::None } else { sharding };
        let (rank, parts) = match sharding {
            Sharding::None => (0, 1),
            _ => (ranks.rank() as i64, ranks.world_size() as i64),
        };
        let mut buckets = model.into_buckets(parts as usize);
        let (first_trained, gradients) = match adapter {
            None => (0, Gradients::new(model.parameters())),
            Some(adapter) => {
                buckets.push(adapter.into_bucket(parts as usize));
                (buckets.len() - 1, Gradients::new(adapter.parameters()))
            }
        };
        let share = |(index, bucket): (usize, &Bucket)| {
            let whole = bucket.memory.whole();
            let length = whole.numel() as i64 / parts;
            let start = rank * length;
            let own = whole.narrow(0, start, length);
            let parameters = if sharding == Sharding::Parameters { own.copy() } else { own };
            let gradients = index.checked_sub(first_trained).map(|buffer| match sharding {
                Sharding::None => gradients.buffer(buffer),
                _ => Tensor::zeros([length], (Kind::Float, whole.device())),
            });
            if sharding == Sharding::Parameters {
                bucket.memory.release();
            }
            Share { start, parameters, gradients }
        };
        let shares = buckets.iter().enumerate().map(share).collect();
        Self {
            ranks,
            sharding,
            buckets,
            first_trained,
            shares,
            gradients,
            reductions: RefCell::default(),
            gathers: RefCell::default(),
        }
    }

    pub(crate) fn ranks(&self) -> &Ranks {
        &self.ranks
    }

    /// The gradients that a pass adds to.
    pub(crate) fn gradients(&self) -> &Gradients {
        &self.gradients
    }

    /// Whether each rank has only a share of the summed gradients.
    pub(crate) fn are_gradients_sharded(&self) -> bool {
        self.sharding != Sharding::None
    }

    /// The parts of parameters that this rank updates.
    pub(crate) fn pieces(&self) -> Vec<Piece> {
        let mut pieces = Vec::new();
        for (bucket, share) in self.buckets.iter().zip(&self.shares) {
            let Some(gradients) = &share.gradients else { continue };
            let end = share.start + share.parameters.numel() as i64;
            for parameter in &bucket.parameters {
                let (from, to) =
                    (parameter.start.max(share.start), (parameter.start + parameter.elements()).min(end));
                if from < to {
                    let part = |flat: &Tensor| flat.narrow(0, from - share.start, to - from);
                    pieces.push(Piece {
                        name: parameter.name.clone(),
                        start: from - parameter.start,
                        parameter: part(&share.parameters),
                        gradient: part(gradients),
                        is_matrix: parameter.size.len() > 1,
                    });
                }
            }
        }
        pieces
    }

    /// Starts gathering the parameters of `bucket`, unless they are here.
    pub(crate) fn prefetch(&self, bucket: usize) -> Result<(), RankFailure> {
        let memory = &self.buckets[bucket].memory;
        if memory.is_released() {
            memory.allocate();
            let gather = self.ranks.all_gather(memory.whole(), &self.shares[bucket].parameters)?;
            self.gathers.borrow_mut().insert(bucket, gather);
        }
        Ok(())
    }

    /// Gathers the parameters of `bucket` and waits for them.
    pub(crate) fn gather(&self, bucket: usize) -> Result<(), RankFailure> {
        self.prefetch(bucket)?;
        let gather = self.gathers.borrow_mut().remove(&bucket);
        gather.map_or(Ok(()), |gather| self.ranks.wait(gather))
    }

    /// Releases the parameters of `bucket` except this rank's share, where they are sharded.
    pub(crate) fn release(&self, bucket: usize) {
        if self.sharding == Sharding::Parameters {
            self.buckets[bucket].memory.release();
        }
    }

    /// Gathers the parameters of the adapter, if there is one.
    pub(crate) fn gather_adapter(&self) -> Result<(), RankFailure> {
        self.adapter_bucket().map_or(Ok(()), |bucket| self.gather(bucket))
    }

    /// As [`Shards::release`] for the adapter.
    pub(crate) fn release_adapter(&self) {
        if let Some(bucket) = self.adapter_bucket() {
            self.release(bucket);
        }
    }

    /// As [`Shards::reduce`] for the adapter.
    pub(crate) fn reduce_adapter(&self, is_last: bool) -> Result<(), RankFailure> {
        self.adapter_bucket().map_or(Ok(()), |bucket| self.reduce(bucket, is_last))
    }

    fn adapter_bucket(&self) -> Option<usize> {
        (self.first_trained > 0).then_some(self.first_trained)
    }

    /// Calls `work` with all parameters gathered.
    pub(crate) fn with_all<T>(&self, work: impl FnOnce() -> T) -> Result<T, RankFailure> {
        (0..self.buckets.len()).try_for_each(|bucket| self.gather(bucket))?;
        let done = work();
        (0..self.buckets.len()).for_each(|bucket| self.release(bucket));
        Ok(done)
    }

    /// Starts the reduction of the gradients of `bucket`, if it is trained. This pass has completed them. `is_last`: whether
    /// it is the step's last pass.
    pub(crate) fn reduce(&self, bucket: usize, is_last: bool) -> Result<(), RankFailure> {
        if self.ranks.world_size() == 1 {
            return Ok(());
        }
        let Some(share) = &self.shares[bucket].gradients else { return Ok(()) };
        let buffer = bucket - self.first_trained;
        let reduction = match self.sharding {
            Sharding::None | Sharding::Optimizer if !is_last => return Ok(()),
            Sharding::None => Reduction { operation: self.ranks.all_reduce(share)?, received: None },
            Sharding::Optimizer => {
                let whole = self.gradients.take(buffer);
                Reduction { operation: self.ranks.reduce_scatter(share, &whole)?, received: None }
            }
            Sharding::Gradients | Sharding::Parameters => {
                while self.reductions.borrow().len() >= MAX_REDUCTIONS {
                    self.finish_first_reduction()?;
                }
                let (whole, received) = (self.gradients.take(buffer), share.empty_like());
                let operation = self.ranks.reduce_scatter(&received, &whole)?;
                Reduction { operation, received: Some((received, bucket)) }
            }
        };
        self.reductions.borrow_mut().push_back(reduction);
        Ok(())
    }

    /// Waits for all reductions.
    pub(crate) fn finish_reductions(&self) -> Result<(), RankFailure> {
        while !self.reductions.borrow().is_empty() {
            self.finish_first_reduction()?;
        }
        Ok(())
    }

    fn finish_first_reduction(&self) -> Result<(), RankFailure> {
        let Some(Reduction { operation, received }) = self.reductions.borrow_mut().pop_front() else {
            return Ok(());
        };
        self.ranks.wait(operation)?;
        if let Some((received, bucket)) = received {
            let share = self.shares[bucket].gradients.as_ref().expect("a bucket that is reduced");
            let _ = share.shallow_clone().g_add_(&received);
        }
        Ok(())
    }

    /// Sends the updated parameters to all ranks that keep them whole.
    pub(crate) fn publish(&self) -> Result<(), RankFailure> {
        if !matches!(self.sharding, Sharding::Optimizer | Sharding::Gradients) {
            return Ok(());
        }
        let start = |(bucket, share): (&Bucket, &Share)| {
            // A copy, since the share is a view of the tensor that receives.
            self.ranks.all_gather(bucket.memory.whole(), &share.parameters.copy())
        };
        let trained = self.buckets.iter().zip(&self.shares).skip(self.first_trained);
        let gathers: Vec<Started> = trained.map(start).collect::<Result<_, _>>()?;
        gathers.into_iter().try_for_each(|gather| self.ranks.wait(gather))
    }
}

#[cfg(test)]
mod tests;
