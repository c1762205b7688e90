//! Estimates a run: counts its prompts, and answers a few of them to measure time and size.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use jacobi_datasets::write_shard;

use crate::engine::{Event, Sample, make_trajectories};
use crate::generate::Run;
use crate::prompts::{Judged, PromptJudge};
use crate::{GenerateError, GenerateJob};

/// Calibration ends with the first pass after this time.
const CALIBRATION_LIMIT: Duration = Duration::from_secs(60);

/// What a run would do.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Estimate {
    /// Prompts of this rank.
    pub input: usize,
    /// Prompts that a rule or an error excludes before they are answered.
    pub rejected: usize,
    /// Prompts to be answered, those on disk included.
    pub candidates: usize,
    /// Tokens of those prompts.
    pub prompt_tokens: usize,
    /// Measurements on a few of them, if any were answered.
    pub calibration: Option<Calibration>,
}

/// Measurements on a few prompts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Calibration {
    /// Prompts answered.
    pub prompts: usize,
    /// Seconds.
    pub seconds: f64,
    /// Response tokens.
    pub response_tokens: usize,
    /// Bytes on disk.
    pub bytes: u64,
}

impl Estimate {
    /// The figure `of` of the calibration, scaled to all prompts to be answered.
    pub fn scaled(&self, of: impl Fn(&Calibration) -> f64) -> Option<f64> {
        let calibration = self.calibration.filter(|calibration| calibration.prompts > 0)?;
        Some(of(&calibration) / calibration.prompts as f64 * self.candidates as f64)
    }
}

/// Counts the prompts of `job` and answers up to `calibrate` of them. Writes temporary files only.
///
/// # Errors
/// Those of reading model and prompts.
pub fn estimate(job: &GenerateJob, calibrate: usize) -> Result<Estimate, GenerateError> {
    job.config.validate()?;
    let run = Run::open(job)?;
    let mut estimate = Estimate::default();
    let mut few = Vec::new();
    for judged in PromptJudge::open(run.rules())? {
        match judged? {
            Judged::OtherRank => continue,
            Judged::Rejected(_) => estimate.rejected += 1,
            Judged::Candidate(candidate) => {
                estimate.candidates += 1;
                estimate.prompt_tokens += candidate.sample.prompt.len();
                if few.len() < calibrate {
                    few.push(candidate.sample);
                }
            }
        }
        estimate.input += 1;
    }
    if !few.is_empty() {
        estimate.calibration = Some(measure(&run, few)?);
    }
    Ok(estimate)
}

fn measure(run: &Run, samples: Vec<Sample>) -> Result<Calibration, GenerateError> {
    let prompts: Vec<Vec<u32>> = samples.iter().map(|sample| sample.prompt.clone()).collect();
    let mut rows = Vec::new();
    let start = Instant::now();
    make_trajectories(
        &run.model(),
        run.engine_settings(),
        &mut samples.into_iter().enumerate(),
        &mut |_, event| {
            if let Event::Completed(at, completion) = event {
                rows.push(completion.into_row(at.to_string(), prompts[at].clone()));
            }
            if start.elapsed() < CALIBRATION_LIMIT {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        },
    );
    let seconds = start.elapsed().as_secs_f64();
    let scratch = tempfile::tempdir()?;
    let digest = write_shard(&scratch.path().join("part.parquet"), &run.metadata(), &rows)?;
    let response_tokens = rows.iter().map(|row| row.response_tokens.len()).sum();
    Ok(Calibration { prompts: rows.len(), seconds, response_tokens, bytes: digest.bytes })
}
