//! GPUs: how many there are, or why there is none; their memory; how long work on them takes. Without the feature `cuda`
//! there is none, and [`NoGpu::NotBuilt`] says so.

use tch::Device;

/// Why no GPU can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoGpu {
    /// Compiled without CUDA.
    #[error(
        "this build has no CUDA: it was compiled without the feature `cuda` (docs/gpu.md says how to build it)"
    )]
    NotBuilt,
    /// CUDA's own reason.
    #[error("CUDA finds no GPU: {0}")]
    NotFound(String),
}

/// A call to a GPU that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct GpuError(pub String);

/// Memory of a GPU, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GpuMemory {
    /// In use by tensors.
    pub allocated: u64,
    /// The most in use by tensors so far.
    pub peak: u64,
    /// Held by libtorch's allocator, in use or not.
    pub reserved: u64,
    /// Free for any process.
    pub free: u64,
    /// All memory of the GPU.
    pub total: u64,
}

/// The number of GPUs, at least one.
///
/// # Errors
/// [`NoGpu`].
pub fn gpu_count() -> Result<usize, NoGpu> {
    bindings::count()
}

/// The name of GPU `index`.
///
/// # Errors
/// No such GPU.
pub fn gpu_name(index: usize) -> Result<String, GpuError> {
    bindings::name(index)
}

/// Makes `device` this thread's current GPU; does nothing for a CPU.
///
/// # Errors
/// No such GPU.
pub fn select(device: Device) -> Result<(), GpuError> {
    match device {
        Device::Cuda(index) => bindings::select(index),
        _ => Ok(()),
    }
}

/// The memory of `device`; `None` for a CPU.
pub fn gpu_memory(device: Device) -> Option<GpuMemory> {
    match device {
        Device::Cuda(index) => bindings::memory(index).ok(),
        _ => None,
    }
}

/// Starts [`GpuMemory::peak`] anew.
pub fn reset_peak_memory(device: Device) {
    if let Device::Cuda(index) = device {
        bindings::reset_peak_memory(index);
    }
}

/// Gives memory that no tensor uses back to the GPU; does nothing for a CPU. Memory of freed recordings is not used for
/// other tensors before.
pub fn release_unused_memory(device: Device) {
    if let Device::Cuda(index) = device {
        bindings::release_unused_memory(index);
    }
}

/// Waits until all work of `device` is done. That of a CPU always is.
///
/// # Errors
/// Work that failed.
pub fn synchronize(device: Device) -> Result<(), GpuError> {
    match device {
        Device::Cuda(index) => bindings::wait(index),
        _ => Ok(()),
    }
}

/// A moment in the order of a device's work.
#[derive(Debug)]
pub enum Timestamp {
    /// The time: on a CPU work is done when the call returns.
    Cpu(std::time::Instant),
    /// A CUDA event, reached when all work before it is done.
    #[cfg(feature = "cuda")]
    Gpu(bindings::Event),
}

impl Timestamp {
    /// After all work that `device` has been given so far.
    ///
    /// # Errors
    /// Work that failed.
    pub fn now(device: Device) -> Result<Self, GpuError> {
        match device {
            #[cfg(feature = "cuda")]
            Device::Cuda(index) => bindings::Event::record(index).map(Self::Gpu),
            _ => Ok(Self::Cpu(std::time::Instant::now())),
        }
    }

    /// Waits for this moment.
    ///
    /// # Errors
    /// Work that failed.
    pub fn wait(&self) -> Result<(), GpuError> {
        self.since(self).map(drop)
    }

    /// Waits for this moment; the seconds since `earlier`.
    ///
    /// # Errors
    /// Work that failed.
    ///
    /// # Panics
    /// If the other timestamp is of another kind of device.
    pub fn since(&self, earlier: &Self) -> Result<f64, GpuError> {
        match (self, earlier) {
            (Self::Cpu(later), Self::Cpu(earlier)) => Ok((*later - *earlier).as_secs_f64()),
            #[cfg(feature = "cuda")]
            (Self::Gpu(later), Self::Gpu(earlier)) => later.since(earlier),
            #[cfg(feature = "cuda")]
            _ => panic!("timestamps of one device"),
        }
    }
}

#[cfg(not(feature = "cuda"))]
mod bindings {
    use super::{GpuError, GpuMemory, NoGpu};

    pub(super) fn count() -> Result<usize, NoGpu> {
        Err(NoGpu::NotBuilt)
    }

    fn none() -> GpuError {
        GpuError(NoGpu::NotBuilt.to_string())
    }

    pub(super) fn name(_: usize) -> Result<String, GpuError> {
        Err(none())
    }

    pub(super) fn select(_: usize) -> Result<(), GpuError> {
        Err(none())
    }

    pub(super) fn memory(_: usize) -> Result<GpuMemory, GpuError> {
        Err(none())
    }

    pub(super) fn reset_peak_memory(_: usize) {}

    pub(super) fn release_unused_memory(_: usize) {}

    pub(super) fn wait(_: usize) -> Result<(), GpuError> {
        Err(none())
    }
}

#[cfg(feature = "cuda")]
mod bindings {
    use std::ffi::{c_char, c_int, c_void};

    use super::{GpuError, GpuMemory, NoGpu};
    use crate::shim::{outcome, take};

    unsafe extern "C" {
        fn jacobi_cuda_count(count: *mut c_int) -> *mut c_char;
        fn jacobi_cuda_select(device: c_int) -> *mut c_char;
        fn jacobi_cuda_name(device: c_int, name: *mut *mut c_char) -> *mut c_char;
        fn jacobi_cuda_memory(device: c_int, bytes: *mut i64) -> *mut c_char;
        fn jacobi_cuda_reset_peak_memory(device: c_int) -> *mut c_char;
        fn jacobi_cuda_release_unused(device: c_int) -> *mut c_char;
        fn jacobi_cuda_wait(device: c_int) -> *mut c_char;
        fn jacobi_event_record(device: c_int, out: *mut *mut c_void) -> *mut c_char;
        fn jacobi_event_since(
            earlier: *mut c_void,
            later: *mut c_void,
            milliseconds: *mut f64,
        ) -> *mut c_char;
        fn jacobi_event_free(event: *mut c_void);
    }

    fn checked(error: *mut c_char) -> Result<(), GpuError> {
        outcome(error).map_err(GpuError)
    }

    pub(super) fn count() -> Result<usize, NoGpu> {
        let mut count = 0;
        // SAFETY: a place for the answer.
        outcome(unsafe { jacobi_cuda_count(&mut count) }).map_err(|text| {
            // Only the first sentence says what is wrong; the rest says where to find drivers.
            let sentence = text.split(". ").next().unwrap_or_default();
            NoGpu::NotFound(sentence.trim().trim_end_matches('.').to_owned())
        })?;
        Ok(count as usize)
    }

    pub(super) fn name(device: usize) -> Result<String, GpuError> {
        let mut name = std::ptr::null_mut();
        // SAFETY: a place for the answer, which the C library allocates.
        checked(unsafe { jacobi_cuda_name(device as c_int, &mut name) })?;
        // SAFETY: as above.
        Ok(unsafe { take(name) })
    }

    pub(super) fn select(device: usize) -> Result<(), GpuError> {
        // SAFETY: a number.
        checked(unsafe { jacobi_cuda_select(device as c_int) })
    }

    pub(super) fn memory(device: usize) -> Result<GpuMemory, GpuError> {
        let mut bytes = [0i64; 5];
        // SAFETY: room for five numbers.
        checked(unsafe { jacobi_cuda_memory(device as c_int, bytes.as_mut_ptr()) })?;
        let [allocated, peak, reserved, free, total] = bytes.map(i64::cast_unsigned);
        Ok(GpuMemory { allocated, peak, reserved, free, total })
    }

    pub(super) fn reset_peak_memory(device: usize) {
        // SAFETY: a number. For a missing device there is nothing to do.
        let _ = outcome(unsafe { jacobi_cuda_reset_peak_memory(device as c_int) });
    }

    pub(super) fn release_unused_memory(device: usize) {
        // SAFETY: a number. Without success the memory stays where it is.
        let _ = outcome(unsafe { jacobi_cuda_release_unused(device as c_int) });
    }

    pub(super) fn wait(device: usize) -> Result<(), GpuError> {
        // SAFETY: a number.
        checked(unsafe { jacobi_cuda_wait(device as c_int) })
    }

    #[derive(Debug)]
    pub struct Event(*mut c_void);

    impl Event {
        pub(super) fn record(device: usize) -> Result<Self, GpuError> {
            let mut raw = std::ptr::null_mut();
            // SAFETY: a place for the answer.
            checked(unsafe { jacobi_event_record(device as c_int, &mut raw) })?;
            Ok(Self(raw))
        }

        pub(super) fn since(&self, earlier: &Self) -> Result<f64, GpuError> {
            let mut milliseconds = 0.0;
            // SAFETY: two live events, and a place for the answer.
            checked(unsafe { jacobi_event_since(earlier.0, self.0, &mut milliseconds) })?;
            Ok(milliseconds / 1e3)
        }
    }

    impl Drop for Event {
        fn drop(&mut self) {
            // SAFETY: made once, freed once.
            unsafe { jacobi_event_free(self.0) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::devices;

    #[test]
    fn a_missing_gpu_has_a_reason() {
        match gpu_count() {
            Ok(count) => assert!(count > 0 && !gpu_name(0).unwrap().is_empty()),
            Err(NoGpu::NotBuilt) => assert_eq!(Some("cuda").filter(|_| cfg!(feature = "cuda")), None),
            Err(NoGpu::NotFound(reason)) => {
                assert_eq!((cfg!(feature = "cuda"), reason.is_empty()), (true, false))
            }
        }
    }

    #[test]
    fn timestamps_are_in_order_and_memory_is_counted() {
        for device in devices("timestamps and memory") {
            let start = Timestamp::now(device).unwrap();
            reset_peak_memory(device);
            let x = tch::Tensor::ones([1 << 20], (tch::Kind::Float, device));
            assert_eq!(x.sum(tch::Kind::Double).double_value(&[]), f64::from(1 << 20));
            synchronize(device).unwrap();
            assert!(Timestamp::now(device).unwrap().since(&start).unwrap() >= 0.0);
            match (device, gpu_memory(device)) {
                (Device::Cuda(_), Some(memory)) => {
                    assert!(memory.peak >= 4 << 20 && memory.peak >= memory.allocated, "{memory:?}");
                    assert!(memory.reserved >= memory.allocated && memory.free <= memory.total, "{memory:?}");
                }
                (_, memory) => assert_eq!(memory, None),
            }
        }
    }
}
