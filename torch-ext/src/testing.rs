//! What tests here share: the devices they run on, and numbers.

use tch::Device;

use crate::memory::Element;

/// The CPU, and the first GPU where there is one; where there is none, the test says that it has not seen one.
pub(crate) fn devices(what: &str) -> Vec<Device> {
    match crate::gpu_count() {
        Ok(_) => vec![Device::Cpu, Device::Cuda(0)],
        Err(reason) => {
            eprintln!("{what}: NOT run on a GPU: {reason}");
            vec![Device::Cpu]
        }
    }
}

/// Numbers from -1 to 1, in no order.
pub(crate) fn numbers<T: Element>(count: usize, seed: usize) -> Vec<T> {
    (0..count).map(|i| T::from_f32(((i * 7919 + seed * 104_729) % 1009) as f32 / 504.5 - 1.0)).collect()
}
