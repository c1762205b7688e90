//! Whether a GPU's passes of fixed shape are recorded as CUDA graphs: one setting for the process, like its threads.

use std::sync::{
    Once, OnceLock,
    atomic::{AtomicBool, Ordering},
};

use jacobi_torch_ext::{GpuError, Graph, GraphPool};
use tch::Device;

static RECORDS: AtomicBool = AtomicBool::new(true);
static WARN: OnceLock<fn(&str)> = OnceLock::new();
static WARNED: Once = Once::new();

/// Records work, as [`Graph::record`] does. Tests replace it.
pub type Record = fn(Device, &GraphPool, &mut dyn FnMut()) -> Result<Option<Graph>, GpuError>;

/// Whether passes are recorded from now on, and what to do with a warning about a pass that could not be: it is given once
/// per process. The first `warn` stays.
pub fn set_graphs(records: bool, warn: fn(&str)) {
    RECORDS.store(records, Ordering::Relaxed);
    let _ = WARN.set(warn);
}

pub(crate) fn are_on() -> bool {
    RECORDS.load(Ordering::Relaxed)
}

/// Says once that passes are run instead of replayed.
pub(crate) fn warn(width: usize, error: &GpuError) {
    let Some(warn) = WARN.get() else { return };
    WARNED.call_once(|| {
        warn(&format!(
            "a pass of {width} rows cannot be recorded as a CUDA graph ({error}): such passes run without one, which is \
             slower; --no-graphs or model.graphs = false records none"
        ));
    });
}
