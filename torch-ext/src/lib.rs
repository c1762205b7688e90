//! What libtorch lacks or does in too many steps, behind safe functions. The kernels of a decoding step, where a handful
//! of rows goes through hundreds of operations: on a CPU each computes every row for itself, so that a row's result
//! does not depend on what else is in the pass, bit for bit; libtorch's products change with the shape. And those of a
//! training step, each with its gradient as a function of its own. No policy, no autograd. Every function has the plain
//! libtorch operations beside it: they are what runs off the CPU, and what the tests compare with.
#![allow(unsafe_code, reason = "the one crate that looks at tensor memory")]

mod accumulate;
mod adamw;
mod allocator;
mod attention;
#[cfg(target_arch = "x86_64")]
mod avx512_dots;
mod collectives;
mod cross_entropy;
mod dots;
mod exp;
mod fixed;
mod gated;
mod gpu;
mod graph;
#[cfg(target_arch = "x86_64")]
mod halves;
mod linear;
mod memory;
mod norm;
#[cfg(target_arch = "x86_64")]
mod panels;
mod predictions;
mod products;
mod rotary;
mod runs;
mod sink;
mod storage;
mod store;
#[cfg(test)]
mod testing;
mod threads;
mod varlen;

pub use accumulate::accumulate;
pub use adamw::{AdamWSlot, AdamWStep, adamw};
pub use allocator::keep_freed_memory;
pub use attention::{Span, SpanCache, attend};
pub use collectives::{Group, Pending};
pub use cross_entropy::{HardTarget, SoftTarget, cross_entropy, probabilities, soft_cross_entropy};
pub use fixed::{FixedRows, FixedView, Shape};
pub use gated::{silu_gated, silu_gated_backward};
pub use gpu::{
    GpuError, GpuMemory, NoGpu, Timestamp, gpu_count, gpu_memory, gpu_name, reset_peak_memory, select,
    synchronize,
};
pub use graph::{Graph, GraphPool};
pub use linear::{linear, linear_argmax};
pub use norm::{add_rms_norm, rms_norm, rms_norm_backward};
pub use predictions::{argmax, column_ids, top};
pub use products::{PRODUCT_TILE, add_weight_gradient, product, product_input_gradient};
pub use rotary::{HeadShape, rotate_and_store, rotate_in_place};
pub use runs::{Attended, Run, Runs, attend_runs, attend_runs_backward};
pub use storage::{Releasable, StoragePlace, storage_elements, storage_place};
pub use store::{CollectiveError, Store, StoreAddress};
