//! Parameters, gradients and optimizer state shared among ranks, bucket by bucket: who keeps what, and what travels when.
//!
//! | sharding | kept whole on each rank | travels |
//! |---|---|---|
//! | `none` | everything | gradients are summed, once a step |
//! | `optimizer` | parameters and gradients (ZeRO-1) | gradients to who updates them; parameters back, once a step |
//! | `gradients` | parameters (ZeRO-2) | the same, but gradients after each pass, as a layer's are done |
//! | `parameters` | nothing (ZeRO-3) | as before; and parameters before each use, to be dropped after it |
//!
//! ZeRO: arXiv 1910.02054. A rank's share of a bucket is a run of its elements, whatever parameters they belong to.

use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
};

use jacobi_model::{Bucket, Gradients, Transformer};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::{
    adamw::Piece,
    ranks::{Ranks, Underway},
    watch::RankFailure,
};

/// What each rank keeps a share of only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Sharding {
    /// None: every rank keeps everything.
    #[default]
    None,
    /// Master weights and moments.
    Optimizer,
    /// Also the summed gradients.
    Gradients,
    /// Also the parameters.
    Parameters,
}

/// Gradients of passes that may be on their way at a time: as many buckets as are held whole beside the one being filled.
const REDUCTIONS_AT_ONCE: usize = 2;

/// The buckets of a model, and this rank's share of each.
pub(crate) struct Shards {
    ranks: Ranks,
    sharding: Sharding,
    buckets: Vec<Bucket>,
    shares: Vec<Share>,
    gradients: Gradients,
    reductions: RefCell<VecDeque<Reduction>>,
    /// Buckets whose parameters are on their way.
    gathers: RefCell<BTreeMap<usize, Underway>>,
}

/// What this rank updates of a bucket.
struct Share {
    /// The first element, counted from the bucket's.
    start: i64,
    /// Flat, in the compute dtype.
    parameters: Tensor,
    /// fp32, summed over the passes and ranks of a step.
    gradients: Tensor,
}

struct Reduction {
    underway: Underway,
    /// What arrives, and where it is to be added, if it does not arrive there.
    arriving: Option<(Tensor, usize)>,
}

impl Shards {
    /// Moves the parameters of `model` into buckets; of those that are shared, only this rank's part stays.
    pub(crate) fn new(model: &mut Transformer, sharding: Sharding, ranks: Ranks) -> Self {
        let sharding = if ranks.world_size() == 1 { Sharding::None } else { sharding };
        let (rank, parts) = match sharding {
            Sharding::None => (0, 1),
            _ => (ranks.rank() as i64, ranks.world_size() as i64),
        };
        let buckets = model.into_buckets(parts as usize);
        let gradients = Gradients::new(model.parameters());
        let share = |(index, bucket): (usize, &Bucket)| {
            let whole = bucket.memory.whole();
            let length = whole.numel() as i64 / parts;
            let start = rank * length;
            let own = whole.narrow(0, start, length);
            let parameters = if sharding == Sharding::Parameters { own.copy() } else { own };
            let gradients = match sharding {
                Sharding::None => gradients.buffer(index),
                _ => Tensor::zeros([length], (Kind::Float, whole.device())),
            };
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
            shares,
            gradients,
            reductions: RefCell::default(),
            gathers: RefCell::default(),
        }
    }

    pub(crate) fn ranks(&self) -> &Ranks {
        &self.ranks
    }

    /// Where the gradients of a pass go.
    pub(crate) fn gradients(&self) -> &Gradients {
        &self.gradients
    }

    /// Whether each rank has a part of the summed gradients only.
    pub(crate) fn are_gradients_shared(&self) -> bool {
        self.sharding != Sharding::None
    }

    /// What this rank updates.
    pub(crate) fn pieces(&self) -> Vec<Piece> {
        let mut pieces = Vec::new();
        for (bucket, share) in self.buckets.iter().zip(&self.shares) {
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
                        gradient: part(&share.gradients),
                        is_matrix: parameter.size.len() > 1,
                    });
                }
            }
        }
        pieces
    }

    /// Starts bringing the parameters of `bucket` here, where they are not.
    pub(crate) fn expect(&self, bucket: usize) -> Result<(), RankFailure> {
        let memory = &self.buckets[bucket].memory;
        if memory.is_released() {
            memory.allocate();
            let gather = self.ranks.all_gather(memory.whole(), &self.shares[bucket].parameters)?;
            self.gathers.borrow_mut().insert(bucket, gather);
        }
        Ok(())
    }

    /// Waits for the parameters of `bucket`.
    pub(crate) fn gather(&self, bucket: usize) -> Result<(), RankFailure> {
        self.expect(bucket)?;
        let gather = self.gathers.borrow_mut().remove(&bucket);
        gather.map_or(Ok(()), |gather| self.ranks.finish(gather))
    }

    /// Drops the parameters of `bucket` but for this rank's share, where they are shared.
    pub(crate) fn release(&self, bucket: usize) {
        if self.sharding == Sharding::Parameters {
            self.buckets[bucket].memory.release();
        }
    }

    /// Does `work` with all parameters in place.
    pub(crate) fn with_all<T>(&self, work: impl FnOnce() -> T) -> Result<T, RankFailure> {
        (0..self.buckets.len()).try_for_each(|bucket| self.gather(bucket))?;
        let done = work();
        (0..self.buckets.len()).for_each(|bucket| self.release(bucket));
        Ok(done)
    }

    /// The gradients that this pass gives `bucket` are complete; `is_last` says whether it is the last pass of the step.
    pub(crate) fn reduce(&self, bucket: usize, is_last: bool) -> Result<(), RankFailure> {
        if self.ranks.world_size() == 1 {
            return Ok(());
        }
        let share = &self.shares[bucket].gradients;
        let reduction = match self.sharding {
            Sharding::None | Sharding::Optimizer if !is_last => return Ok(()),
            Sharding::None => Reduction { underway: self.ranks.all_reduce(share)?, arriving: None },
            Sharding::Optimizer => {
                let whole = self.gradients.take(bucket);
                Reduction { underway: self.ranks.reduce_scatter(share, &whole)?, arriving: None }
            }
            Sharding::Gradients | Sharding::Parameters => {
                while self.reductions.borrow().len() >= REDUCTIONS_AT_ONCE {
                    self.settle_first()?;
                }
                let (whole, arriving) = (self.gradients.take(bucket), share.empty_like());
                let underway = self.ranks.reduce_scatter(&arriving, &whole)?;
                Reduction { underway, arriving: Some((arriving, bucket)) }
            }
        };
        self.reductions.borrow_mut().push_back(reduction);
        Ok(())
    }

    /// Waits until all gradients on their way have arrived.
    pub(crate) fn settle(&self) -> Result<(), RankFailure> {
        while !self.reductions.borrow().is_empty() {
            self.settle_first()?;
        }
        Ok(())
    }

    fn settle_first(&self) -> Result<(), RankFailure> {
        let Some(Reduction { underway, arriving }) = self.reductions.borrow_mut().pop_front() else {
            return Ok(());
        };
        self.ranks.finish(underway)?;
        if let Some((arriving, bucket)) = arriving {
            let _ = self.shares[bucket].gradients.shallow_clone().g_add_(&arriving);
        }
        Ok(())
    }

    /// Brings the updated parameters to all ranks that keep them.
    pub(crate) fn publish(&self) -> Result<(), RankFailure> {
        if !matches!(self.sharding, Sharding::Optimizer | Sharding::Gradients) {
            return Ok(());
        }
        let start = |(bucket, share): (&Bucket, &Share)| {
            // A copy: the share is a part of what is filled.
            self.ranks.all_gather(bucket.memory.whole(), &share.parameters.copy())
        };
        let gathers: Vec<Underway> =
            self.buckets.iter().zip(&self.shares).map(start).collect::<Result<_, _>>()?;
        gathers.into_iter().try_for_each(|gather| self.ranks.finish(gather))
    }
}

#[cfg(test)]
mod tests;
