//! A projection's weight in eight bits, which tells which outputs can be the largest of their rows.
//!
//! Legend: t rows, i inputs, o outputs.

#[cfg(target_arch = "x86_64")]
use std::cell::OnceCell;

use crate::memory::Element;
#[cfg(target_arch = "x86_64")]
use crate::{avx512_bytes, bytes, candidates};

/// The weight of a projection in eight bits, made when it is first needed: half as much memory again as a weight in bf16.
/// Where the processor lacks the instructions it stays empty.
#[derive(Default)]
pub struct Shortlist {
    #[cfg(target_arch = "x86_64")]
    weight: OnceCell<Made>,
}

#[cfg(target_arch = "x86_64")]
struct Made {
    /// None where the weight is not finite.
    of: Option<bytes::Right>,
    /// Where the weight lies, and its width.
    place: (usize, usize),
}

impl Shortlist {
    /// The column of the largest output of each row of `x` `[t, i]` times `weight` `[o, i]` transposed, rounded to `T`: the
    /// first of equal ones. None for rows that have to be computed, and none at all where they all have to be. The weight
    /// must be the same every time.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn largest<T: Element>(&self, x: &[T], weight: &[T], i: usize) -> Option<Vec<Option<u32>>> {
        if !avx512_bytes::supported(i) {
            return None;
        }
        let place = (weight.as_ptr().addr(), i);
        let made = self.weight.get_or_init(|| Made { of: bytes::Right::new(weight, x, i), place });
        assert_eq!(made.place, place, "a shortlist is of one weight");
        let right = made.of.as_ref()?;
        Some(candidates::largest(x, weight, i, right))
    }

    /// None: the products it takes are written for x86.
    #[cfg(not(target_arch = "x86_64"))]
    pub(crate) fn largest<T: Element>(&self, _: &[T], _: &[T], _: usize) -> Option<Vec<Option<u32>>> {
        None
    }
}
