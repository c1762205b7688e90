//! Which devices a test runs its assertions on.

use tch::Device;

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
