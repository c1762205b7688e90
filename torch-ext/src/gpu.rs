//! GPUs: which there are or why there is none, what their memory holds, and how long work on them takes.
//!
//! Without the feature `cuda` there is none, and that is the reason given.

use tch::Device;

/// Why no GPU can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoGpu {
    /// Compiled without.
    #[error(
        "this build has no CUDA: it was compiled without the feature `cuda` (docs/gpu.md says how to build it)"
    )]
    NotBuilt,
    /// What CUDA says.
    #[error("CUDA finds no GPU: {0}")]
    NotFound(String),
}

/// A GPU that did not do what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct GpuError(pub String);

/// Memory of a GPU, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GpuMemory {
    /// Held by tensors.
    pub allocated: u64,
    /// The most held by tensors so far.
    pub peak: u64,
    /// Held by libtorch's allocator, whether by tensors or not.
    pub reserved: u64,
    /// Free for any process.
    pub free: u64,
    /// Of the GPU.
    pub total: u64,
}

/// How many GPUs there are; at least one.
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

/// Has this thread's work on unnamed GPUs go to `device`; nothing for a CPU.
///
/// # Errors
/// No such GPU.
pub fn select(device: Device) -> Result<(), GpuError> {
    match device {
        Device::Cuda(index) => bindings::select(index),
        _ => Ok(()),
    }
}

/// What the memory of `device` holds; `None` for a CPU.
pub fn gpu_memory(device: Device) -> Option<GpuMemory> {
    match device {
        Device::Cuda(index) => bindings::memory(index).ok(),
        _ => None,
    }
}

/// Has [`GpuMemory::peak`] count from here on.
pub fn reset_peak_memory(device: Device) {
    if let Device::Cuda(index) = device {
        bindings::reset_peak_memory(index);
    }
}

/// Waits until all work of `device` is done; that of a CPU always is.
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
    /// On a CPU work is done when the call returns.
    Cpu(std::time::Instant),
    /// Reached when all work before it is done.
    #[cfg(feature = "cuda")]
    Gpu(bindings::Event),
}

impl Timestamp {
    /// After all that `device` has been told to do.
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

    /// Waits for this moment; the seconds since `earlier`.
    ///
    /// # Errors
    /// Work that failed.
    ///
    /// # Panics
    /// If the other is a moment of another kind of device.
    pub fn since(&self, earlier: &Self) -> Result<f64, GpuError> {
        match (self, earlier) {
            (Self::Cpu(later), Self::Cpu(earlier)) => Ok((*later - *earlier).as_secs_f64()),
            #[cfg(feature = "cuda")]
            (Self::Gpu(later), Self::Gpu(earlier)) => later.since(earlier),
            #[cfg(feature = "cuda")]
            _ => panic!("moments of one device"),
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

    pub(super) fn wait(_: usize) -> Result<(), GpuError> {
        Err(none())
    }
}

#[cfg(feature = "cuda")]
mod bindings {
    use std::ffi::{c_char, c_int, c_void};

    use super::{GpuError, GpuMemory, NoGpu};
    use crate::store::{outcome, take};

    unsafe extern "C" {
        fn jacobi_cuda_count(count: *mut c_int) -> *mut c_char;
        fn jacobi_cuda_select(device: c_int) -> *mut c_char;
        fn jacobi_cuda_name(device: c_int, name: *mut *mut c_char) -> *mut c_char;
        fn jacobi_cuda_memory(device: c_int, bytes: *mut i64) -> *mut c_char;
        fn jacobi_cuda_reset_peak_memory(device: c_int) -> *mut c_char;
        fn jacobi_cuda_wait(device: c_int) -> *mut c_char;
        fn jacobi_event_record(device: c_int, out: *mut *mut c_void) -> *mut c_char;
        fn jacobi_event_since(
            earlier: *mut c_void,
            later: *mut c_void,
            milliseconds: *mut f64,
        ) -> *mut c_char;
        fn jacobi_event_free(event: *mut c_void);
    }

    pub(super) fn count() -> Result<usize, NoGpu> {
        let mut count = 0;
        // SAFETY: a place for the answer.
        outcome(unsafe { jacobi_cuda_count(&mut count) }).map_err(|text| {
            // Its first sentence says what is wrong, the rest where to look for drivers.
            let sentence = text.split(". ").next().unwrap_or_default();
            NoGpu::NotFound(sentence.trim().trim_end_matches('.').to_owned())
        })?;
        Ok(count as usize)
    }

    pub(super) fn name(device: usize) -> Result<String, GpuError> {
        let mut name = std::ptr::null_mut();
        // SAFETY: a place for the answer, which is a text of the C library's where there is no error.
        outcome(unsafe { jacobi_cuda_name(device as c_int, &mut name) }).map_err(GpuError)?;
        // SAFETY: as above.
        Ok(unsafe { take(name) })
    }

    pub(super) fn select(device: usize) -> Result<(), GpuError> {
        // SAFETY: a number.
        outcome(unsafe { jacobi_cuda_select(device as c_int) }).map_err(GpuError)
    }

    pub(super) fn memory(device: usize) -> Result<GpuMemory, GpuError> {
        let mut bytes = [0i64; 5];
        // SAFETY: room for five numbers.
        outcome(unsafe { jacobi_cuda_memory(device as c_int, bytes.as_mut_ptr()) }).map_err(GpuError)?;
        let [allocated, peak, reserved, free, total] = bytes.map(i64::cast_unsigned);
        Ok(GpuMemory { allocated, peak, reserved, free, total })
    }

    pub(super) fn reset_peak_memory(device: usize) {
        // SAFETY: a number. A device that is not there has no peak to forget.
        let _ = outcome(unsafe { jacobi_cuda_reset_peak_memory(device as c_int) });
    }

    pub(super) fn wait(device: usize) -> Result<(), GpuError> {
        // SAFETY: a number.
        outcome(unsafe { jacobi_cuda_wait(device as c_int) }).map_err(GpuError)
    }

    #[derive(Debug)]
    pub struct Event(*mut c_void);

    impl Event {
        pub(super) fn record(device: usize) -> Result<Self, GpuError> {
            let mut raw = std::ptr::null_mut();
            // SAFETY: a place for the answer.
            outcome(unsafe { jacobi_event_record(device as c_int, &mut raw) }).map_err(GpuError)?;
            Ok(Self(raw))
        }

        pub(super) fn since(&self, earlier: &Self) -> Result<f64, GpuError> {
            let mut milliseconds = 0.0;
            // SAFETY: two events that live, and a place for the answer.
            let text = unsafe { jacobi_event_since(earlier.0, self.0, &mut milliseconds) };
            outcome(text).map_err(GpuError)?;
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
    fn why_there_is_no_gpu_is_said() {
        match gpu_count() {
            Ok(count) => assert!(count > 0 && !gpu_name(0).unwrap().is_empty()),
            Err(NoGpu::NotBuilt) => assert_eq!(Some("cuda").filter(|_| cfg!(feature = "cuda")), None),
            Err(NoGpu::NotFound(reason)) => {
                assert_eq!((cfg!(feature = "cuda"), reason.is_empty()), (true, false))
            }
        }
    }

    #[test]
    fn moments_are_in_order_and_memory_is_counted() {
        for device in devices("moments and memory") {
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
