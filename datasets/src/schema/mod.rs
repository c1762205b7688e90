//! One file per kind of row on disk.

pub mod eval_row;
pub mod manifest;
pub mod trajectory;
pub mod tuned;
