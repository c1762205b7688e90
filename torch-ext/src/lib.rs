//! What libtorch lacks or does in too many steps, behind safe functions: the element-wise parts of a decoding step,
//! where a handful of rows goes through hundreds of operations and calling them costs more than computing them. No
//! policy and no gradients. Every function has the plain libtorch operations beside it: they are what runs off the
//! CPU, and what the tests compare with.
#![allow(unsafe_code, reason = "the one crate that looks at tensor memory")]

mod memory;
mod norm;
mod predictions;
mod rotary;

pub use norm::{add_rms_norm, rms_norm};
pub use predictions::{argmax, top};
pub use rotary::{HeadShape, Store, rotate_and_store};
