//! Passes over one sequence in a few fixed shapes: the number of rows is rounded up, and each pass reads the
//! whole cache. Input and output stay at their addresses, so a GPU records each pass once (a CUDA graph), when the first
//! session opens, and replays it; the host then only copies the input there and the predictions back. A CPU computes the
//! same pass anew each time, and so does a GPU where a pass cannot be recorded.
//!
//! Legend: n rows of the pass, h hidden width, v vocabulary.

use std::collections::HashMap;

use jacobi_torch_ext::{FixedRows, Graph, GraphPool, Shape};
use tch::{Kind, Tensor};

use crate::{Record, RopeTable, Rows, Transformer, attention::Past, cache::KvCache, graphs};

/// Numbers of rows that a pass is rounded up to.
const WIDTHS: [usize; 12] = [1, 2, 4, 8, 16, 32, 64, 96, 128, 192, 256, 512];

/// A sequence's cache with the passes over it.
pub(crate) struct FixedPasses {
    // Fields are dropped in this order: recorded passes before the memory they use.
    passes: HashMap<(usize, Shape), FixedPass>,
    pool: GraphPool,
    pub(crate) cache: KvCache,
    pub(crate) rope: RopeTable,
}

/// What a pass computes, padding rows included. The next run of the pass overwrites it.
pub(crate) struct Output {
    pub(crate) hidden_nh: Tensor,
    pub(crate) logits_nv: Tensor,
    /// The most probable tokens, int64 `[n]`.
    pub(crate) greedy_n: Tensor,
}

struct FixedPass {
    graph: Option<Graph>,
    rows: FixedRows,
    /// Tokens, then depths, then the number of cached tokens: int64 `[2 * n + 1]`.
    input: Tensor,
    output: Option<Output>,
}

impl FixedPasses {
    /// With room for `capacity` tokens, and for padding rows after them. All passes are recorded here, so that no recording
    /// falls into a pass that is timed.
    pub(crate) fn new(model: &Transformer, capacity: usize, record: Record) -> Self {
        let capacity = with_padding(capacity).next_power_of_two();
        let cache = KvCache::new(model.architecture(), capacity, model.kind(), model.device());
        // A pass reads the unused part too and multiplies it by 0, so it must be finite.
        cache.zero();
        let length = capacity.min(model.architecture().context_length() as usize);
        let rope = model.rope_table(length as i64);
        let mut fixed = Self { passes: HashMap::new(), pool: GraphPool::default(), cache, rope };
        // The widest first: narrower ones find room in the memory that its intermediate results used.
        for (width, shape) in WIDTHS.into_iter().rev().flat_map(|n| [(n, Shape::Chain), (n, Shape::Tree)]) {
            let mut pass = FixedPass::new(model, width, shape, capacity);
            if graphs::are_on() {
                tch::no_grad(|| pass.record(model, &fixed, record));
            }
            fixed.passes.insert((width, shape), pass);
        }
        // Recording has written to it.
        fixed.cache.zero();
        fixed
    }

    /// Whether there is room for `capacity` tokens.
    pub(crate) fn fits(&self, capacity: usize) -> bool {
        with_padding(capacity) <= self.cache.capacity()
    }

    /// Runs the pass over `rows` after the cached tokens; `None` if no shape fits, or nothing is cached.
    pub(crate) fn forward(&mut self, model: &Transformer, rows: &Rows) -> Option<&Output> {
        let width = WIDTHS.into_iter().find(|&width| rows.len() <= width)?;
        let cached = self.cache.len();
        if cached == 0 || cached + width > self.cache.capacity() {
            return None;
        }
        let shape = if rows.is_chain() { Shape::Chain } else { Shape::Tree };
        let pass = self.passes.get_mut(&(width, shape)).expect("a pass of every width");
        pass.write_input(rows, cached, width, shape);
        pass.run(model, &self.cache, &self.rope);
        pass.output.as_ref()
    }
}

/// Capacity for `capacity` tokens when the widest pass adds its padding.
fn with_padding(capacity: usize) -> usize {
    capacity + WIDTHS[WIDTHS.len() - 1]
}

impl FixedPass {
    fn new(model: &Transformer, width: usize, shape: Shape, capacity: usize) -> Self {
        let device = model.device();
        let input = Tensor::zeros([2 * width as i64 + 1], (Kind::Int64, device));
        // A pass has cached tokens; those of the recording are zeros.
        let _ = input.get(2 * width as i64).fill_(1);
        let cache_of = (model.architecture().heads(), model.kind());
        Self {
            graph: None,
            rows: FixedRows::new(width, shape, capacity, cache_of, device),
            input,
            output: None,
        }
    }

    /// Padding rows follow the last row and repeat its token.
    fn write_input(&mut self, rows: &Rows, cached: usize, width: usize, shape: Shape) {
        let last = rows.len() - 1;
        let tokens = (0..width).map(|row| i64::from(rows.tokens()[row.min(last)]));
        let depths = (0..width).map(|row| rows.depth(row.min(last)) as i64);
        let input: Vec<i64> = tokens.chain(depths).chain([cached as i64]).collect();
        self.input.copy_(&Tensor::from_slice(&input));
        if shape == Shape::Tree {
            let mut seen = vec![false; width * width];
            for row in 0..width {
                seen[row * width + row] = true;
                if let Some(parent) = (row <= last).then(|| rows.parent(row)).flatten() {
                    let (before, own) = seen.split_at_mut(row * width);
                    let seen_by_parent = &before[parent * width..(parent + 1) * width];
                    own.iter_mut().zip(seen_by_parent).for_each(|(own, seen)| *own |= *seen);
                }
            }
            self.rows.set_seen(&seen);
        }
    }

    /// Records the pass where the device can.
    fn record(&mut self, model: &Transformer, fixed: &FixedPasses, record: Record) {
        let Self { graph, rows, input, output } = self;
        let mut work = || *output = Some(compute(model, &fixed.cache, &fixed.rope, rows, input));
        match record(model.device(), &fixed.pool, &mut work) {
            Ok(recorded) => *graph = recorded,
            Err(error) => {
                // Of the attempt: in memory that belongs to the recording.
                *output = None;
                graphs::warn(rows.len(), &error);
            }
        }
    }

    fn run(&mut self, model: &Transformer, cache: &KvCache, rope: &RopeTable) {
        match &self.graph {
            Some(graph) => graph.replay().expect("a recorded pass"),
            None => self.output = Some(compute(model, cache, rope, &self.rows, &self.input)),
        }
    }
}

/// The pass over `rows` with this `input`. Never waits for the GPU, so that it can be recorded.
fn compute(
    model: &Transformer,
    cache: &KvCache,
    rope: &RopeTable,
    rows: &FixedRows,
    input: &Tensor,
) -> Output {
    let n = input.size()[0] / 2;
    let (tokens, depths, cached) = (input.narrow(0, 0, n), input.narrow(0, n, n), input.narrow(0, 2 * n, 1));
    // Padding rows may lie beyond the last position.
    let positions = (depths + &cached).clamp_max(rope.len() - 1);
    let past = Past::FixedShape(rows.after(&cached), cache);
    let hidden_nh = model.infer(&tokens, &rope.at(&positions), &past, None);
    let logits_nv = model.logits(&hidden_nh);
    let greedy_n = logits_nv.argmax(-1, false);
    Output { hidden_nh, logits_nv, greedy_n }
}

#[cfg(test)]
mod tests;
