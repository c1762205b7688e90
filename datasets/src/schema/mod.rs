//! One file per kind of row on disk.

pub mod eval_row;
pub mod eval_statistics;
pub mod manifest;
pub mod trajectory;
pub mod tuned;
