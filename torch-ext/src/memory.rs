//! Tensor memory as slices: checked, CPU only.

use half::bf16;
use tch::{Device, Kind, Tensor};

/// A number type that kernels are written for.
pub(crate) trait Element: Copy {
    const KIND: Kind;
    fn to_f32(self) -> f32;
    fn from_f32(value: f32) -> Self;
}

impl Element for f32 {
    const KIND: Kind = Kind::Float;

    fn to_f32(self) -> f32 {
        self
    }

    fn from_f32(value: f32) -> Self {
        value
    }
}

impl Element for bf16 {
    const KIND: Kind = Kind::BFloat16;

    fn to_f32(self) -> f32 {
        Self::to_f32(self)
    }

    fn from_f32(value: f32) -> Self {
        Self::from_f32(value)
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
