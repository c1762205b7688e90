//! Tensor memory as slices: checked, CPU only.

use std::{
    marker::PhantomData,
    ops::{Deref, DerefMut, Range},
};

use half::bf16;
use tch::{Device, Kind, Tensor};

#[cfg(target_arch = "x86_64")]
use crate::halves::Halves;

/// Other processors have no kernels that read numbers in halves.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) trait Halves {}
#[cfg(not(target_arch = "x86_64"))]
impl Halves for f32 {}
#[cfg(not(target_arch = "x86_64"))]
impl Halves for bf16 {}

/// A number type that kernels are written for.
pub(crate) trait Element: Halves + Copy + Send + Sync {
    const KIND: Kind;
    fn to_f32(self) -> f32;
    fn from_f32(value: f32) -> Self;
    /// `values` as f32, in `room` where they are not that already.
    fn widened<'a>(values: &'a [Self], room: &'a mut Vec<f32>) -> &'a [f32];
}

impl Element for f32 {
    const KIND: Kind = Kind::Float;

    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }

    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        value
    }

    #[inline(always)]
    fn widened<'a>(values: &'a [Self], _room: &'a mut Vec<f32>) -> &'a [f32] {
        values
    }
}

impl Element for bf16 {
    const KIND: Kind = Kind::BFloat16;

    // Without the branches of `half`, so that loops over elements become vector instructions.
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    /// To the nearest, ties to even.
    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        let bits = value.to_bits();
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1));
        let kept = if value.is_nan() { bits | 0x0040_0000 } else { rounded };
        Self::from_bits((kept >> 16) as u16)
    }

    #[inline(always)]
    fn widened<'a>(values: &'a [Self], room: &'a mut Vec<f32>) -> &'a [f32] {
        room.resize(values.len(), 0.0);
        for (wide, value) in room.iter_mut().zip(values) {
            *wide = Element::to_f32(*value);
        }
        room
    }
}

/// Memory that several threads write, each its own parts.
pub(crate) struct Shared<'a, T> {
    start: *mut T,
    len: usize,
    memory: PhantomData<&'a mut [T]>,
}

// SAFETY: `part` is unsafe, and its callers never ask for overlapping parts.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    pub(crate) fn new(memory: &'a mut [T]) -> Self {
        Self { start: memory.as_mut_ptr(), len: memory.len(), memory: PhantomData }
    }

    /// # Safety
    /// No other part that overlaps with `range` may be alive.
    #[allow(clippy::mut_from_ref, reason = "the whole point: see the safety section")]
    pub(crate) unsafe fn part(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of {}", self.len);
        // SAFETY: in bounds; the caller keeps parts apart.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}

/// Numbers from the start of a line of the cache on, so that no vector lies in two.
#[derive(Default)]
pub(crate) struct Lined {
    room: Vec<f32>,
    start: usize,
    len: usize,
}

impl Lined {
    /// Numbers in a line.
    const LINE: usize = 16;

    /// `len` arbitrary numbers.
    pub(crate) fn resize(&mut self, len: usize) {
        // Never fewer: those that came back would be written first.
        if self.room.len() < len + Self::LINE {
            self.room.resize(len + Self::LINE, 0.0);
        }
        // No offset is known only when a program is interpreted.
        self.start = self.room.as_ptr().align_offset(Self::LINE * size_of::<f32>()).min(Self::LINE);
        self.len = len;
    }
}

impl Deref for Lined {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.room[self.start..self.start + self.len]
    }
}

impl DerefMut for Lined {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.room[self.start..self.start + self.len]
    }
}

/// Whether the kernels here can work on `tensor`: fp32 or bf16 in CPU memory, and nobody wants its gradient.
pub(crate) fn is_plain(tensor: &Tensor) -> bool {
    tensor.device() == Device::Cpu
        && matches!(tensor.kind(), Kind::Float | Kind::BFloat16)
        && !tensor.requires_grad()
}

/// The elements of a contiguous CPU tensor.
pub(crate) fn elements<T: Element>(tensor: &Tensor) -> &[T] {
    check::<T>(tensor);
    // SAFETY: `check` saw a contiguous CPU tensor of T; the tensor, and with it its memory, outlives the slice.
    unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast::<T>(), tensor.numel()) }
}

/// The elements of a contiguous CPU tensor, to be written.
pub(crate) fn elements_mut<T: Element>(tensor: &mut Tensor) -> &mut [T] {
    check::<T>(tensor);
    // SAFETY: as above. libtorch tensors are shared handles, so the exclusive borrow is of the handle; the callers in
    // this crate hold at most one slice of a memory at a time, or slices that do not overlap.
    unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr().cast::<T>(), tensor.numel()) }
}

fn check<T: Element>(tensor: &Tensor) {
    assert_eq!(tensor.kind(), T::KIND, "element type");
    assert_eq!(tensor.device(), Device::Cpu, "CPU memory");
    assert!(
        tensor.is_contiguous(),
        "a contiguous tensor, not {:?} with strides {:?}",
        tensor.size(),
        tensor.stride()
    );
}

/// Fails unless two ways of computing the same differ by roundings only, which go with the largest value.
#[cfg(test)]
pub(crate) fn assert_close(found: &Tensor, expected: &Tensor, what: &str) {
    let share = if expected.kind() == Kind::Float { 1e-5 } else { 0.02 };
    let most = |x: Tensor| x.to_kind(Kind::Float).abs().max().double_value(&[]);
    let (off, scale) = (most(found - expected), most(expected.shallow_clone()));
    assert!(off <= share * scale.max(1.0), "{what}, {:?}: off by {off} of {scale}", expected.kind());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bf16_is_rounded_as_elsewhere() {
        // The last two are ties.
        let special = [
            0.0,
            -0.0,
            f32::INFINITY,
            f32::NEG_INFINITY,
            1e-40,
            f32::MAX,
            f32::from_bits(0x3f80_8000),
            f32::from_bits(0x3f81_8000),
        ];
        let spread = (0..100_000u32).map(|i| f32::from_bits(i.wrapping_mul(0x9e37_79b9)));
        for value in special.into_iter().chain(spread.filter(|value| !value.is_nan())) {
            let found: bf16 = Element::from_f32(value);
            assert_eq!(found, bf16::from_f32(value), "{value}");
            assert_eq!(Element::to_f32(found), found.to_f32());
        }
        let nan: bf16 = Element::from_f32(f32::NAN);
        assert!(nan.is_nan());
    }
}
