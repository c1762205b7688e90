//! Passes over one sequence whose shapes are fixed: so many rows, rounded up, over all of a cache. What is asked is written
//! into tensors that stay where they are, so that a GPU is told once what to do and repeats it (a CUDA graph): a pass costs
//! its host two small copies there and one back. On a CPU the same pass is computed as it is.
//!
//! Legend: n rows of the pass, h hidden width, v vocabulary.

use std::collections::HashMap;

use jacobi_torch_ext::{FixedRows, Graph, GraphPool, Shape};
use tch::{Device, Kind, Tensor};

use crate::{KvCache, RopeTable, Rows, Transformer, transformer::Context};

/// Numbers of rows that a pass is rounded up to. The last is the widest pass of fixed shape.
const WIDTHS: [usize; 12] = [1, 2, 4, 8, 16, 32, 64, 96, 128, 192, 256, 512];

/// Rows of room that passes of fixed shape may take behind a text beyond their own.
pub(crate) const WIDEST: usize = WIDTHS[WIDTHS.len() - 1];

/// Which shapes the passes of a session have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shapes {
    /// As many rows as there are.
    AsTheyCome,
    /// Of one sequence: a few widths, for a GPU to repeat.
    Fixed,
}

/// What one pass has found: of all rows, those rounded up to among them. Overwritten by the next.
pub(crate) struct Found {
    pub(crate) hidden_nh: Tensor,
    pub(crate) logits_nv: Tensor,
    /// The most probable tokens, int64 `[n]`.
    pub(crate) greedy_n: Tensor,
}

/// A cache with the passes over it, recorded as they are first wanted. Outlives the sessions that use it one after the other.
pub(crate) struct FixedPasses {
    // Fields are dropped in this order: what is recorded before the memory it works on.
    recorded: HashMap<(usize, Shape), FixedPass>,
    pool: GraphPool,
    pub(crate) cache: KvCache,
    pub(crate) rope: RopeTable,
    /// Where the parameters were when the first pass was recorded.
    parameters: Vec<usize>,
}

struct FixedPass {
    graph: Option<Graph>,
    rows: FixedRows,
    /// Tokens, then depths, then the number of cached tokens: int64 `[2 * n + 1]`.
    asked: Tensor,
    found: Option<Found>,
}

impl FixedPasses {
    /// With room for `capacity` tokens, and for the widest pass behind them.
    pub(crate) fn new(model: &Transformer, capacity: usize) -> Self {
        let capacity = (capacity + WIDEST).next_power_of_two();
        let cache = KvCache::new(model.architecture(), capacity, model.kind(), model.device());
        // What does not count yet is multiplied by 0 all the same.
        cache.zero();
        let length = capacity.min(model.architecture().context_length() as usize);
        Self {
            recorded: HashMap::new(),
            pool: GraphPool::default(),
            cache,
            rope: model.rope_table(length as i64),
            parameters: places(model),
        }
    }

    /// Whether a session over `capacity` tokens of `model` can use this.
    pub(crate) fn fits(&self, model: &Transformer, capacity: usize) -> bool {
        capacity + WIDEST <= self.cache.capacity() && self.parameters == places(model)
    }

    /// The pass over `rows` behind the cached tokens; `None` where that is no pass of fixed shape.
    pub(crate) fn forward(&mut self, model: &Transformer, rows: &Rows) -> Option<&Found> {
        let width = WIDTHS.into_iter().find(|&width| rows.len() <= width)?;
        let cached = self.cache.len();
        if cached == 0 || cached + width > self.cache.capacity() {
            return None;
        }
        let shape = if rows.is_chain() { Shape::Chain } else { Shape::Tree };
        let capacity = self.cache.capacity();
        let new = || FixedPass::new(width, shape, capacity, model.device());
        let pass = self.recorded.entry((width, shape)).or_insert_with(new);
        pass.ask(rows, cached, width, shape);
        pass.run(&Context { model, cache: &self.cache, rope: &self.rope }, &self.pool);
        pass.found.as_ref()
    }
}

impl FixedPass {
    fn new(width: usize, shape: Shape, capacity: usize, device: Device) -> Self {
        let asked = Tensor::zeros([2 * width as i64 + 1], (Kind::Int64, device));
        Self { graph: None, rows: FixedRows::new(width, shape, capacity, device), asked, found: None }
    }

    /// Writes what is asked. Rows that are rounded up to follow the last and repeat its token.
    fn ask(&mut self, rows: &Rows, cached: usize, width: usize, shape: Shape) {
        let last = rows.len() - 1;
        let of_row = |row: usize| row.min(last);
        let tokens = (0..width).map(|row| i64::from(rows.tokens()[of_row(row)]));
        let depths = (0..width).map(|row| rows.depth(of_row(row)) as i64);
        let asked: Vec<i64> = tokens.chain(depths).chain([cached as i64]).collect();
        self.asked.copy_(&Tensor::from_slice(&asked));
        if shape == Shape::Tree {
            let mut seen = vec![false; width * width];
            for row in 0..width {
                seen[row * width + row] = true;
                if let Some(parent) = (row <= last).then(|| rows.parent(row)).flatten() {
                    let (before, own) = seen.split_at_mut(row * width);
                    let above = &before[parent * width..(parent + 1) * width];
                    own.iter_mut().zip(above).for_each(|(own, above)| *own |= *above);
                }
            }
            self.rows.set_seen(&seen);
        }
    }

    fn run(&mut self, context: &Context, pool: &GraphPool) {
        if let Some(graph) = &self.graph {
            return graph.replay().expect("a recorded pass");
        }
        let Self { rows, asked, found, .. } = self;
        let mut work = || *found = Some(context.fixed(rows, asked));
        if context.model.device() == Device::Cpu {
            return work();
        }
        self.graph =
            Graph::record(context.model.device(), pool, &mut work).expect("a pass that can be recorded");
        if let Some(graph) = &self.graph {
            // Recording only wrote down what is to be done.
            graph.replay().expect("a recorded pass");
        }
    }
}

fn places(model: &Transformer) -> Vec<usize> {
    model.parameters().iter().map(|(_, parameter)| parameter.data_ptr() as usize).collect()
}
