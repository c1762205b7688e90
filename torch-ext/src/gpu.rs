//! GPUs: devices, recorded passes, and attention of many sequences in one call. All but the devices and the recording runs
//! on a CPU too, where it is tested.

pub(crate) mod device;
pub(crate) mod fixed;
pub(crate) mod graph;
pub(crate) mod packed_runs;
pub(crate) mod packed_spans;
pub(crate) mod varlen;
