//! Kernels for the CPU, each with its fallback in libtorch operations, and what they are built from.

pub(crate) mod accumulate;
pub(crate) mod adamw;
pub(crate) mod allocator;
pub(crate) mod attention;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub(crate) mod cross_entropy;
mod dots;
mod exp;
pub(crate) mod gated;
pub(crate) mod instructions;
pub(crate) mod linear;
pub(crate) mod memory;
pub(crate) mod norm;
pub(crate) mod pool;
pub(crate) mod predictions;
pub(crate) mod products;
pub(crate) mod rotary;
pub(crate) mod runs;
mod sink;
mod threads;
