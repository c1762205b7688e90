//! metrics.jsonl and TensorBoard events: one record per logged step, never two for the same one.

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use jacobi_datasets::write_atomic;
use serde_json::{Map, Value};

use crate::{TrainError, tensorboard::EventWriter};

/// What one optimizer step did.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainProgress {
    /// Steps taken, from 1.
    pub step: usize,
    /// Steps of the run.
    pub total_steps: usize,
    /// Passes over the data so far.
    pub epoch: f64,
    /// Total loss.
    pub loss: f64,
    /// L_ar.
    pub loss_ar: f64,
    /// L_pc.
    pub loss_pc: f64,
    /// Before clipping.
    pub grad_norm: f64,
    /// Of this step.
    pub learning_rate: f64,
    /// Packed tokens per second.
    pub tokens_per_second: f64,
    /// Model FLOPs per second over the GEMM peak measured at the start.
    pub mfu: f64,
}

impl TrainProgress {
    /// The metrics under their public names.
    pub fn scalars(&self) -> [(&'static str, f64); 7] {
        [
            ("train/loss", self.loss),
            ("train/loss_ar", self.loss_ar),
            ("train/loss_pc", self.loss_pc),
            ("train/grad_norm", self.grad_norm),
            ("train/learning_rate", self.learning_rate),
            ("train/tokens_per_second", self.tokens_per_second),
            ("train/mfu", self.mfu),
        ]
    }
}

/// Both logs of a run.
pub(crate) struct Metrics {
    jsonl: fs_err::File,
    events: EventWriter,
}

impl Metrics {
    /// Opens the logs of `output`; lines after `step` are of steps that will be taken again, and go.
    pub(crate) fn open(output: &Path, step: usize) -> Result<Self, TrainError> {
        let path = output.join("metrics.jsonl");
        keep_until(&path, step)?;
        let jsonl = fs_err::OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self { jsonl, events: EventWriter::create(&output.join("tensorboard"))? })
    }

    pub(crate) fn record(&mut self, progress: &TrainProgress) -> Result<(), TrainError> {
        let mut line = Map::new();
        line.insert("step".into(), progress.step.into());
        line.insert("epoch".into(), progress.epoch.into());
        for (tag, value) in progress.scalars() {
            line.insert(tag.into(), value.into());
            self.events.scalar(tag, progress.step as u64, value as f32)?;
        }
        self.jsonl.write_all(format!("{}\n", Value::Object(line)).as_bytes())?;
        Ok(self.events.flush()?)
    }
}

fn keep_until(path: &PathBuf, step: usize) -> Result<(), TrainError> {
    if !path.is_file() {
        return Ok(());
    }
    let text = fs_err::read_to_string(path)?;
    let of = |line: &str| serde_json::from_str::<Value>(line).ok()?.get("step")?.as_u64();
    let kept: String = text
        .lines()
        .filter(|line| of(line).is_some_and(|s| s <= step as u64))
        .map(|l| format!("{l}\n"))
        .collect();
    Ok(write_atomic(path, |file| file.write_all(kept.as_bytes()))?)
}
