//! What the tests share: devices, numbers, and comparison of tensors.

use tch::{Device, Kind, Tensor};

use crate::cpu::memory::Element;

/// The CPU, and the first GPU if there is one; if not, the test reports that it did not run there.
pub(crate) fn devices(what: &str) -> Vec<Device> {
    match crate::gpu_count() {
        Ok(_) => vec![Device::Cpu, Device::Cuda(0)],
        Err(reason) => {
            eprintln!("{what}: NOT run on a GPU: {reason}");
            vec![Device::Cpu]
        }
    }
}

/// Scrambled numbers from -1 to 1, the same in every run.
pub(crate) fn numbers<T: Element>(count: usize, seed: usize) -> Vec<T> {
    (0..count).map(|i| T::from_f32(((i * 7919 + seed * 104_729) % 1009) as f32 / 504.5 - 1.0)).collect()
}

/// Normally distributed numbers, on the CPU.
pub(crate) fn random(shape: &[i64], kind: Kind) -> Tensor {
    Tensor::randn(shape, (Kind::Float, Device::Cpu)).to_kind(kind)
}

/// Fails unless the two differ by rounding only, relative to the largest value.
pub(crate) fn assert_close(found: &Tensor, expected: &Tensor, what: &str) {
    let tolerance = if expected.kind() == Kind::Float { 1e-5 } else { 0.02 };
    let largest = |x: Tensor| x.to_kind(Kind::Float).abs().max().double_value(&[]);
    let (off, scale) = (largest(found - expected), largest(expected.shallow_clone()));
    assert!(off <= tolerance * scale.max(1.0), "{what}, {:?}: off by {off} of {scale}", expected.kind());
}
