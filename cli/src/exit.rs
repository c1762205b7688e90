//! Exit codes: 2 for usage and configuration errors, 128+n for signal n, 1 for every other failure.

use jacobi_datasets::RankError;
use jacobi_decoder::DecoderError;
use jacobi_eval::EvalError;
use jacobi_trainer::TrainError;
use jacobi_trajectory_gen::GenerateError;

use crate::layers::ConfigError;

/// A usage or configuration error.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

/// Work stopped at a safe point after signal `.0`.
#[derive(Debug, thiserror::Error)]
#[error("stopped by {}; finished work is kept, and the same command resumes it", signal_name(*.0))]
pub struct Interrupted(pub i32);

/// Some ranks failed. They have printed their own errors.
#[derive(Debug, thiserror::Error)]
#[error("{0}; the same command, with any number of ranks, resumes from the last checkpoint")]
pub struct RanksEnded(pub String);

/// A response interrupted by signal `.0`; its beginning has been printed.
#[derive(Debug, thiserror::Error)]
#[error("the response was interrupted by {}", signal_name(*.0))]
pub struct ResponseInterrupted(pub i32);

/// A measurement interrupted by signal `.0`; partial results are not reported.
#[derive(Debug, thiserror::Error)]
#[error("stopped by {}; the same command measures again from the beginning", signal_name(*.0))]
pub struct MeasurementInterrupted(pub i32);

impl From<Interrupted> for MeasurementInterrupted {
    fn from(interrupted: Interrupted) -> Self {
        Self(interrupted.0)
    }
}

impl From<Interrupted> for ResponseInterrupted {
    fn from(interrupted: Interrupted) -> Self {
        Self(interrupted.0)
    }
}

/// The signal that stopped the work, if any. It is not an error and is printed without `error:`.
pub fn signal(error: &anyhow::Error) -> Option<i32> {
    error.chain().find_map(|cause| {
        let interrupted = cause.downcast_ref().map(|Interrupted(number)| *number);
        let response = || cause.downcast_ref().map(|ResponseInterrupted(number)| *number);
        let measurement = || cause.downcast_ref().map(|MeasurementInterrupted(number)| *number);
        interrupted.or_else(response).or_else(measurement)
    })
}

/// The name of signal `number`.
pub fn signal_name(number: i32) -> String {
    match number {
        signal_hook::consts::SIGINT => "Ctrl-C".into(),
        signal_hook::consts::SIGTERM => "SIGTERM".into(),
        other => format!("signal {other}"),
    }
}

/// The exit code for `error`.
pub fn code(error: &anyhow::Error) -> u8 {
    if let Some(number) = signal(error) {
        return u8::try_from(128 + number).unwrap_or(1);
    }
    let usage = error.chain().any(|cause| {
        let generate = cause.downcast_ref().is_some_and(GenerateError::is_usage);
        let train = cause.downcast_ref().is_some_and(TrainError::is_usage);
        let eval = cause.downcast_ref().is_some_and(EvalError::is_usage);
        generate
            || train
            || eval
            || cause.is::<DecoderError>()
            || cause.is::<UsageError>()
            || cause.is::<ConfigError>()
            || cause.is::<RankError>()
    });
    if usage { 2 } else { 1 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::{Context, anyhow};

    #[test]
    fn each_kind_of_error_has_its_code() {
        let config = ConfigError::Flag { assignment: "a".into(), message: "b".into() };
        let rows = [
            (anyhow!("disk full"), 1),
            (UsageError("no such verb".into()).into(), 2),
            (config.into(), 2),
            (EvalError::NoTasks.into(), 2),
            (Interrupted(2).into(), 130),
            (Interrupted(15).into(), 143),
            (ResponseInterrupted(2).into(), 130),
            (MeasurementInterrupted(2).into(), 130),
        ];
        for (error, expected) in rows {
            let wrapped = Err::<(), _>(error).context("while training").unwrap_err();
            assert_eq!(code(&wrapped), expected, "{wrapped:#}");
        }
    }
}
