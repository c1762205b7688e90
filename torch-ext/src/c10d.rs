//! c10d: the store by which processes find each other, and the groups in which they compute together.

pub(crate) mod collectives;
pub(crate) mod store;
