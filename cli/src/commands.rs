//! The verbs, one file each: options, one call, its result printed.

pub mod config;
pub mod decode;
pub mod env;
pub mod eval;
pub mod export;
pub mod generate;
pub mod hub;
pub mod import;
pub mod inspect;
pub mod quickstart;
pub mod report;
pub mod run;
pub mod serve;
pub mod tasks;
pub mod train;
pub mod tune;
