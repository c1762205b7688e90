//! Types of the files on disk, one module each.

pub mod eval_row;
pub mod eval_statistics;
pub mod manifest;
pub mod trajectory;
pub mod tuned;
