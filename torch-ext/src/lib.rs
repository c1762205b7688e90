//! What libtorch lacks or does in too many steps, behind safe functions: the kernels of a decoding step, where a handful
//! of rows goes through hundreds of operations. On a CPU each computes every row for itself, so that a row's result
//! does not depend on what else is in the pass, bit for bit; libtorch's products change with the shape. No policy and no
//! gradients. Every function has the plain libtorch operations beside it: they are what runs off the CPU, and what
//! the tests compare with.
#![allow(unsafe_code, reason = "the one crate that looks at tensor memory")]

mod attention;
#[cfg(target_arch = "x86_64")]
mod bf16_dots;
mod dots;
mod exp;
mod gated;
mod linear;
mod memory;
mod norm;
mod predictions;
mod rotary;
mod threads;

pub use attention::{Span, SpanCache, attend};
pub use gated::silu_gated;
pub use linear::linear;
pub use norm::{add_rms_norm, rms_norm};
pub use predictions::{argmax, top};
pub use rotary::{HeadShape, rotate_and_store};
