//! Safe functions for what libtorch lacks or does in too many steps: kernels for decoding and training on a CPU (`cpu`),
//! GPUs (`gpu`), process groups (`c10d`). None takes part in autograd: gradients are separate functions.
//!
//! The kernels for decoding compute each row by itself, so that a row's result is the same, bit for bit, whatever else is
//! in the pass; libtorch's products change with the shape. Every kernel has a fallback in libtorch operations, which runs on
//! other devices; the tests compare the two.
#![allow(unsafe_code, reason = "the only crate that accesses tensor memory")]

mod c10d;
mod cpu;
mod gpu;
mod heads;
mod pass;
mod shim;
mod storage;
#[cfg(test)]
mod testing;

pub use c10d::{
    collectives::{Group, Pending},
    store::{CollectiveError, Store, StoreAddress},
};
pub use cpu::{
    accumulate::accumulate,
    adamw::{AdamWSlot, AdamWStep, adamw},
    allocator::keep_freed_memory,
    attention::attend,
    cross_entropy::{HardTarget, SoftLoss, SoftTarget, cross_entropy, probabilities, soft_loss},
    gated::{silu_gated, silu_gated_backward},
    instructions::vector_instructions,
    linear::{LowRankUpdate, add_low_rank, linear, linear_argmax},
    norm::{add_rms_norm, rms_norm, rms_norm_backward},
    pool::{set_threads, threads},
    predictions::{argmax, column_ids, top},
    products::{PRODUCT_TILE, add_product, add_weight_gradient, product, product_input_gradient},
    rotary::{rotate_and_store, rotate_in_place},
    runs::{Attended, Run, Runs, attend_runs, attend_runs_backward},
};
pub use gpu::{
    device::{
        GpuError, GpuMemory, NoGpu, Timestamp, gpu_count, gpu_memory, gpu_name, release_unused_memory,
        reset_peak_memory, select, synchronize,
    },
    fixed::{FixedRows, FixedView, Shape},
    graph::{Graph, GraphPool},
    packed_runs::KEYS_PER_CALL,
    transfer::{download, upload},
};
pub use heads::HeadShape;
pub use pass::{PassPlan, Span};
pub use storage::{Releasable, StoragePlace, storage_elements, storage_place};
