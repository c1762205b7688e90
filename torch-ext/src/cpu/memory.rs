//! Tensor memory as slices: checked, CPU only.

use std::{
    marker::PhantomData,
    ops::{Deref, DerefMut, Range},
    ptr::NonNull,
};

use half::bf16;
use pulp::Simd;
use tch::{Device, Kind, Tensor};

#[cfg(target_arch = "x86_64")]
use crate::cpu::avx512::LoadVectors;
use crate::storage_elements;
// Other processors have no kernels that need more of a number type.
#[cfg(not(target_arch = "x86_64"))]
use std::marker::Sized as LoadVectors;

/// A number type that the kernels are written for.
pub(crate) trait Element: LoadVectors + Copy + Send + Sync {
    const KIND: Kind;
    fn to_f32(self) -> f32;
    fn from_f32(value: f32) -> Self;
    /// Rows of `k` as f32, in the order of [`Element::load_half`]; converted ones are written to `buffer`.
    fn widened<'a, S: Simd>(simd: S, rows: &'a [Self], k: usize, buffer: &'a mut Vec<f32>) -> &'a [f32];

    /// The first or the second half of two vectors of numbers as f32, in the order that costs least.
    ///
    /// # Safety
    /// There are two vectors of numbers at `address`.
    unsafe fn load_half<S: Simd>(simd: S, address: *const Self, second: bool) -> S::f32s;
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
    fn widened<'a, S: Simd>(_simd: S, rows: &'a [Self], _k: usize, _buffer: &'a mut Vec<f32>) -> &'a [f32] {
        rows
    }

    #[inline(always)]
    unsafe fn load_half<S: Simd>(_simd: S, address: *const Self, second: bool) -> S::f32s {
        // SAFETY: the caller's promise.
        unsafe { address.cast::<S::f32s>().add(usize::from(second)).read_unaligned() }
    }
}

impl Element for bf16 {
    const KIND: Kind = Kind::BFloat16;

    // Unlike the conversion of `half` without branches, so that loops over elements become vector instructions.
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    /// Rounds to nearest, ties to even.
    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        let bits = value.to_bits();
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1));
        let result = if value.is_nan() { bits | 0x0040_0000 } else { rounded };
        Self::from_bits((result >> 16) as u16)
    }

    #[inline(always)]
    fn widened<'a, S: Simd>(simd: S, rows: &'a [Self], k: usize, buffer: &'a mut Vec<f32>) -> &'a [f32] {
        buffer.resize(rows.len(), 0.0);
        let step = 2 * S::F32_LANES;
        for (row, wide) in rows.chunks_exact(k).zip(buffer.chunks_exact_mut(k)) {
            let (mut numbers, mut places) = (row.chunks_exact(step), wide.chunks_exact_mut(step));
            for (numbers, places) in numbers.by_ref().zip(places.by_ref()) {
                for (second, half) in [false, true].into_iter().zip(places.chunks_exact_mut(S::F32_LANES)) {
                    // SAFETY: two vectors of numbers, and half of their places.
                    unsafe {
                        let half_numbers = Self::load_half(simd, numbers.as_ptr(), second);
                        half.as_mut_ptr().cast::<S::f32s>().write_unaligned(half_numbers);
                    }
                }
            }
            for (number, place) in numbers.remainder().iter().zip(places.into_remainder()) {
                *place = Element::to_f32(*number);
            }
        }
        buffer
    }

    /// The numbers in even places, or those in odd ones: a shift or a mask, where the low byte comes first, as on all
    /// processors with vector instructions here.
    #[inline(always)]
    unsafe fn load_half<S: Simd>(simd: S, address: *const Self, second: bool) -> S::f32s {
        // SAFETY: the caller's promise; two of these numbers are as long as one of 32 bits.
        let pairs = unsafe { address.cast::<S::u32s>().read_unaligned() };
        simd.transmute_f32s_u32s(match second {
            false => simd.wrapping_dyn_shl_u32s(pairs, simd.splat_u32s(16)),
            true => simd.and_u32s(pairs, simd.splat_u32s(0xffff_0000)),
        })
    }
}

/// Memory that several threads write to, each to its own parts.
pub(crate) struct Shared<'a, T> {
    start: *mut T,
    len: usize,
    memory: PhantomData<&'a mut [T]>,
}

// SAFETY: `part` is unsafe, and its callers promise not to ask for overlapping parts.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    pub(crate) fn new(memory: &'a mut [T]) -> Self {
        Self { start: memory.as_mut_ptr(), len: memory.len(), memory: PhantomData }
    }

    /// # Safety
    /// No other part that overlaps with `range` is alive.
    #[allow(clippy::mut_from_ref, reason = "the whole point: see the safety section")]
    pub(crate) unsafe fn part(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of {}", self.len);
        // SAFETY: in bounds, and by the caller's promise not aliased.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}

/// A buffer that starts at a cache line, so that no vector crosses one.
#[derive(Default)]
pub(crate) struct AlignedBuffer {
    memory: Vec<f32>,
    start: usize,
    len: usize,
}

impl AlignedBuffer {
    /// Numbers in a cache line.
    const LINE: usize = 16;

    /// Sets the length; the numbers are arbitrary.
    pub(crate) fn resize(&mut self, len: usize) {
        // The vector never shrinks: growing it again would set the new numbers to 0.
        if self.memory.len() < len + Self::LINE {
            self.memory.resize(len + Self::LINE, 0.0);
        }
        // The offset is unknown (`usize::MAX`) only in an interpreter.
        self.start = self.memory.as_ptr().align_offset(Self::LINE * size_of::<f32>()).min(Self::LINE);
        self.len = len;
    }
}

impl Deref for AlignedBuffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.memory[self.start..self.start + self.len]
    }
}

impl DerefMut for AlignedBuffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.memory[self.start..self.start + self.len]
    }
}

/// Whether the kernels support `tensor`: fp32 or bf16 in CPU memory, and autograd does not follow it.
pub(crate) fn is_plain(tensor: &Tensor) -> bool {
    tensor.device() == Device::Cpu
        && matches!(tensor.kind(), Kind::Float | Kind::BFloat16)
        && !tensor.requires_grad()
}

/// The elements of a contiguous CPU tensor.
pub(crate) fn elements<T: Element>(tensor: &Tensor) -> &[T] {
    // SAFETY: `start` made sure of a contiguous CPU tensor of T with memory; the tensor, and so its memory, outlives the
    // slice.
    unsafe { std::slice::from_raw_parts(start(tensor), tensor.numel()) }
}

/// The elements of a contiguous CPU tensor, to be written.
pub(crate) fn elements_mut<T: Element>(tensor: &mut Tensor) -> &mut [T] {
    // SAFETY: as above. Tensors are shared handles, so the borrow is exclusive of the handle only; the callers in this
    // crate hold one slice of a storage at a time, or slices that do not overlap.
    unsafe { std::slice::from_raw_parts_mut(start(tensor), tensor.numel()) }
}

/// The first element; dangling if there is none.
///
/// # Panics
/// If `tensor` is not a contiguous CPU tensor of `T`, or if its memory is released.
fn start<T: Element>(tensor: &Tensor) -> *mut T {
    assert_eq!(tensor.kind(), T::KIND, "element type");
    assert_eq!(tensor.device(), Device::Cpu, "CPU memory");
    assert!(
        tensor.is_contiguous(),
        "a contiguous tensor, not {:?} with strides {:?}",
        tensor.size(),
        tensor.stride()
    );
    if tensor.numel() == 0 {
        return NonNull::dangling().as_ptr();
    }
    assert!(storage_elements(tensor) > 0, "memory that is not released");
    tensor.data_ptr().cast()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tensor_without_elements_is_an_empty_slice() {
        let mut tensor = Tensor::empty([0, 3], (Kind::Float, Device::Cpu));
        assert!(elements::<f32>(&tensor).is_empty() && elements_mut::<f32>(&mut tensor).is_empty());
    }

    #[test]
    fn bf16_is_rounded_as_by_the_crate_half() {
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
