//! GPUs: devices, recorded passes, and attention of many sequences in one call. Attention also runs on a CPU, where it is
//! tested.

pub(crate) mod device;
pub(crate) mod fixed;
pub(crate) mod graph;
pub(crate) mod packed_runs;
pub(crate) mod packed_spans;
pub(crate) mod transfer;
pub(crate) mod varlen;
