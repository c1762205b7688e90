//! Rows of a dataset, read from memory or from shards, packed now or ahead of time.

use std::{panic::resume_unwind, sync::Arc, thread::JoinHandle};

use jacobi_datasets::{PackConfig, PackedSample, Rng, RowSummary, ShardIndex, StateSource, Trajectory, pack};
use rayon::prelude::*;

use crate::TrainError;

/// Where rows are.
pub(super) enum Source {
    /// Read from disk when they are needed.
    Shards(Box<ShardIndex>),
    /// With their summaries.
    Memory(Vec<Trajectory>, Vec<RowSummary>),
}

impl Source {
    pub(super) fn memory(rows: Vec<Trajectory>) -> Self {
        let summaries = rows.par_iter().map(RowSummary::of).collect();
        Self::Memory(rows, summaries)
    }

    pub(super) fn summaries(&self) -> &[RowSummary] {
        match self {
            Self::Shards(index) => index.rows(),
            Self::Memory(_, summaries) => summaries,
        }
    }

    /// The rows with these indices. Rows of shards have no states without `with_states`.
    pub(super) fn read(&self, wanted: &[usize], with_states: bool) -> Result<Vec<Trajectory>, TrainError> {
        match self {
            Self::Shards(index) => Ok(index.read(wanted, with_states)?),
            Self::Memory(rows, _) => Ok(wanted.iter().map(|&at| rows[at].clone()).collect()),
        }
    }
}

/// The rows that are trained on, and what packing has to know of them.
pub(super) struct Samples {
    pub(super) source: Source,
    /// Indices in `source`, in order.
    pub(super) kept: Vec<usize>,
    /// n, if the rows have blocks.
    pub(super) block_size: Option<usize>,
    /// Tokens of the model's vocabulary.
    pub(super) vocabulary: u32,
    pub(super) seed: u64,
}

/// The samples of a step.
#[derive(PartialEq)]
pub(super) struct Visit {
    pub(super) epoch: usize,
    /// Indices in [`Samples::kept`].
    pub(super) rows: Vec<usize>,
    pub(super) pack: PackConfig,
}

impl Samples {
    pub(super) fn pack(&self, visit: &Visit) -> Result<Vec<PackedSample>, TrainError> {
        let wanted: Vec<usize> = visit.rows.iter().map(|&at| self.kept[at]).collect();
        let with_states = visit.pack.states.includes(StateSource::Trajectory);
        let rows = self.source.read(&wanted, with_states)?;
        let packed = rows.par_iter().zip(&visit.rows).map(|(row, &at)| {
            let seed = Rng::new(&[self.seed, visit.epoch as u64, at as u64]).next_u64();
            Ok(pack(row, self.block_size.unwrap_or(usize::MAX), &visit.pack, seed)?)
        });
        let packed: Vec<Result<PackedSample, TrainError>> = packed.collect();
        let mut samples: Vec<PackedSample> = packed.into_iter().collect::<Result<_, _>>()?;
        // The order within a step does not matter; sorted by length, rows are filled alike in every epoch.
        samples.sort_by_key(|sample| sample.tokens.len());
        Ok(samples)
    }
}

/// A step that is packed on a thread of its own.
pub(super) struct Ahead {
    pub(super) visit: Arc<Visit>,
    thread: JoinHandle<Result<Vec<PackedSample>, TrainError>>,
}

impl Ahead {
    pub(super) fn start(samples: &Arc<Samples>, visit: Visit) -> Self {
        let visit = Arc::new(visit);
        let (samples, asked) = (Arc::clone(samples), Arc::clone(&visit));
        Self { visit, thread: std::thread::spawn(move || samples.pack(&asked)) }
    }

    /// Its samples, once they are packed.
    pub(super) fn wait(self) -> Result<Vec<PackedSample>, TrainError> {
        self.thread.join().unwrap_or_else(|panic| resume_unwind(panic))
    }
}
