//! CUDA graphs: work that is repeated over the same memory is recorded once, and then one call starts all of it.

use tch::Device;

use crate::GpuError;

/// Memory for intermediate results, shared by graphs that run one after the other.
#[derive(Debug, Default)]
pub struct GraphPool {
    #[cfg(feature = "cuda")]
    raw: std::cell::OnceCell<bindings::Pool>,
}

/// Recorded work.
#[derive(Debug)]
pub struct Graph {
    #[cfg(feature = "cuda")]
    raw: bindings::Recording,
    #[cfg(not(feature = "cuda"))]
    never: std::convert::Infallible,
}

impl Graph {
    /// Runs `work` twice and records what it starts on the GPU the second time. All tensors that it reads and writes have to
    /// stay where they are, and it must neither wait for the GPU nor read from it. `None` on a CPU, where nothing can be
    /// recorded and the caller repeats `work` itself.
    ///
    /// # Errors
    /// Work that cannot be recorded, which includes work that panics: libtorch refuses some operations only while recording.
    pub fn record(
        device: Device,
        pool: &GraphPool,
        work: &mut dyn FnMut(),
    ) -> Result<Option<Self>, GpuError> {
        match device {
            #[cfg(feature = "cuda")]
            Device::Cuda(index) => {
                let pool = pool.raw.get_or_init(bindings::Pool::new);
                Ok(Some(Self { raw: bindings::Recording::make(index, pool, work)? }))
            }
            _ => {
                let _ = (pool, work);
                Ok(None)
            }
        }
    }

    /// Starts the recorded work.
    ///
    /// # Errors
    /// A GPU that fails.
    pub fn replay(&self) -> Result<(), GpuError> {
        #[cfg(feature = "cuda")]
        return self.raw.replay();
        #[cfg(not(feature = "cuda"))]
        match self.never {}
    }
}

#[cfg(feature = "cuda")]
mod bindings {
    use std::{
        ffi::{c_char, c_int, c_void},
        panic::{AssertUnwindSafe, catch_unwind},
    };

    use crate::{GpuError, shim::outcome};

    type Work = extern "C" fn(*mut c_void) -> bool;

    unsafe extern "C" {
        fn jacobi_pool_new() -> *mut c_void;
        fn jacobi_pool_free(pool: *mut c_void);
        fn jacobi_graph_capture(
            device: c_int,
            pool: *mut c_void,
            work: Work,
            context: *mut c_void,
            out: *mut *mut c_void,
        ) -> *mut c_char;
        fn jacobi_graph_replay(graph: *mut c_void) -> *mut c_char;
        fn jacobi_graph_free(graph: *mut c_void);
    }

    #[derive(Debug)]
    pub(super) struct Pool(*mut c_void);

    // SAFETY: the handle is not bound to a thread.
    unsafe impl Send for Pool {}

    impl Pool {
        pub(super) fn new() -> Self {
            // SAFETY: returns a new handle.
            Self(unsafe { jacobi_pool_new() })
        }
    }

    impl Drop for Pool {
        fn drop(&mut self) {
            // SAFETY: made once, freed once.
            unsafe { jacobi_pool_free(self.0) }
        }
    }

    /// What the C++ side passes to [`call`].
    struct Context<'a> {
        work: &'a mut dyn FnMut(),
        /// The message of a panic.
        panic: Option<String>,
    }

    /// Catches panics, which must not cross the C++ side.
    extern "C" fn call(context: *mut c_void) -> bool {
        // SAFETY: `make` passes its own context, which lives as long as the call.
        let context = unsafe { &mut *context.cast::<Context>() };
        match catch_unwind(AssertUnwindSafe(|| (context.work)())) {
            Ok(()) => true,
            Err(panic) => {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                context.panic = Some(text.unwrap_or_else(|| "a panic".to_owned()));
                false
            }
        }
    }

    #[derive(Debug)]
    pub(super) struct Recording(*mut c_void);

    // SAFETY: the handle is not bound to a thread; without `Sync` one thread at a time uses it.
    unsafe impl Send for Recording {}

    impl Recording {
        pub(super) fn make(device: usize, pool: &Pool, work: &mut dyn FnMut()) -> Result<Self, GpuError> {
            let mut context = Context { work, panic: None };
            let mut raw = std::ptr::null_mut();
            let place = (&raw mut context).cast();
            // SAFETY: a live pool, a function that takes the context, and a place for the answer.
            let text = unsafe { jacobi_graph_capture(device as c_int, pool.0, call, place, &mut raw) };
            match (outcome(text), context.panic) {
                (Ok(()), None) => Ok(Self(raw)),
                (_, Some(text)) | (Err(text), None) => Err(GpuError(text)),
            }
        }

        pub(super) fn replay(&self) -> Result<(), GpuError> {
            // SAFETY: a live graph.
            outcome(unsafe { jacobi_graph_replay(self.0) }).map_err(GpuError)
        }
    }

    impl Drop for Recording {
        fn drop(&mut self) {
            // SAFETY: made once, freed once.
            unsafe { jacobi_graph_free(self.0) }
        }
    }
}

#[cfg(test)]
mod tests {
    use tch::{Kind, Tensor};

    use super::*;
    use crate::{synchronize, testing::devices};

    #[test]
    fn repeated_work_reads_its_inputs_anew() {
        for device in devices("graphs") {
            let input = Tensor::zeros([4], (Kind::Float, device));
            let output = Tensor::zeros([4], (Kind::Float, device));
            let mut work = || output.shallow_clone().copy_(&((&input + 1.0) * 2.0));
            let graph = Graph::record(device, &GraphPool::default(), &mut work).unwrap();
            assert_eq!(graph.is_some(), device != Device::Cpu);
            for value in [3.0, 5.0] {
                let _ = input.shallow_clone().fill_(value);
                match &graph {
                    Some(graph) => graph.replay().unwrap(),
                    None => work(),
                }
                synchronize(device).unwrap();
                assert_eq!(output.sum(Kind::Double).double_value(&[]), 8.0 * (value + 1.0));
            }
        }
    }
}
