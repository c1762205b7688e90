//! metrics.jsonl and TensorBoard events: one record per logged step, also after a resume.

use std::{io::Write, path::Path, time::Instant};

use jacobi_datasets::write_atomic;
use jacobi_torch_ext::gpu_memory;
use serde_json::{Map, Value};
use tch::Device;

use crate::{Evaluation, TrainError, TrainerState, tensorboard::EventWriter};

const JSONL: &str = "metrics.jsonl";
const EVENTS: &str = "tensorboard";

/// Metrics of one optimizer step.
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
    /// Gradient norm before clipping.
    pub grad_norm: f64,
    /// Learning rate of this step.
    pub learning_rate: f64,
    /// Packed tokens per second.
    pub tokens_per_second: f64,
    /// Model FLOPs per second over the GEMM peak, at most 1: the peak is measured again when a step beats it.
    pub mfu: f64,
    /// The newest evaluation, of this step or an earlier one.
    pub evaluation: Option<Evaluation>,
    /// Metrics of each rank, if there are several and the step is logged.
    pub ranks: Vec<RankFigures>,
}

/// Metrics of one rank in a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RankFigures {
    /// Tokens of its rows per second.
    pub tokens_per_second: f64,
    /// Seconds spent waiting for other ranks or their data.
    pub communication_seconds: f64,
    /// Peak memory so far, in bytes.
    pub memory: f64,
}

impl RankFigures {
    fn scalars(&self, rank: usize) -> [(String, f64); 3] {
        [
            (format!("rank/{rank}/tokens_per_second"), self.tokens_per_second),
            (format!("rank/{rank}/communication_seconds"), self.communication_seconds),
            (format!("rank/{rank}/memory_bytes"), self.memory),
        ]
    }
}

/// Peak memory of this process on `device`, in bytes; 0 if unknown.
pub(crate) fn peak_memory(device: Device) -> f64 {
    if let Some(memory) = gpu_memory(device) {
        return memory.peak as f64;
    }
    let text = fs_err::read_to_string("/proc/self/status").unwrap_or_default();
    let kilobytes = text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix("kB"));
    kilobytes.and_then(|number| number.trim().parse::<f64>().ok()).unwrap_or(0.0) * 1024.0
}

impl TrainProgress {
    /// The metrics under their public names.
    pub fn scalars(&self) -> Vec<(String, f64)> {
        let all = [
            ("train/loss", self.loss),
            ("train/loss_ar", self.loss_ar),
            ("train/loss_pc", self.loss_pc),
            ("train/grad_norm", self.grad_norm),
            ("train/learning_rate", self.learning_rate),
            ("train/tokens_per_second", self.tokens_per_second),
            ("train/mfu", self.mfu),
        ];
        let ranks = self.ranks.iter().enumerate().flat_map(|(rank, figures)| figures.scalars(rank));
        all.into_iter().map(|(tag, value)| (tag.to_owned(), value)).chain(ranks).collect()
    }
}

/// Both logs of a run.
pub(crate) struct Metrics {
    jsonl: fs_err::File,
    events: EventWriter,
    /// When this process opened them.
    opened: Instant,
}

impl Metrics {
    /// Opens the logs of `output` and removes the lines of steps after the state `resumed`, which the run repeats.
    pub(crate) fn open(output: &Path, resumed: Option<&TrainerState>) -> Result<Self, TrainError> {
        let path = output.join(JSONL);
        drop_repeated_steps(&path, resumed)?;
        let jsonl = fs_err::OpenOptions::new().create(true).append(true).open(path)?;
        let mut events = EventWriter::create(&output.join(EVENTS))?;
        events.restart(resumed.map_or(0, |state| state.step as u64 + 1))?;
        Ok(Self { jsonl, events, opened: Instant::now() })
    }

    /// Writes a line, and a point for each scalar. The line also has the seconds since the logs were opened.
    pub(crate) fn record(
        &mut self,
        step: usize,
        epoch: f64,
        scalars: &[(String, f64)],
    ) -> Result<(), TrainError> {
        let mut line = Map::new();
        line.insert("step".into(), step.into());
        line.insert("epoch".into(), epoch.into());
        line.insert("seconds".into(), self.opened.elapsed().as_secs_f64().into());
        for (tag, value) in scalars {
            line.insert(tag.clone(), (*value).into());
            self.events.scalar(tag, step as u64, *value as f32)?;
        }
        self.jsonl.write_all(format!("{}\n", Value::Object(line)).as_bytes())?;
        Ok(self.events.flush()?)
    }
}

/// Removes both logs of `output`.
pub(crate) fn discard(output: &Path) -> Result<(), TrainError> {
    let (jsonl, events) = (output.join(JSONL), output.join(EVENTS));
    if jsonl.is_file() {
        fs_err::remove_file(jsonl)?;
    }
    if events.is_dir() {
        fs_err::remove_dir_all(events)?;
    }
    Ok(())
}

/// Removes the lines of steps that the resumed run repeats; all lines if nothing is resumed.
fn drop_repeated_steps(path: &Path, resumed: Option<&TrainerState>) -> Result<(), TrainError> {
    if !path.is_file() {
        return Ok(());
    }
    let text = fs_err::read_to_string(path)?;
    let kept: String =
        text.lines().filter(|line| is_kept(line, resumed)).map(|line| format!("{line}\n")).collect();
    Ok(write_atomic(path, |file| file.write_all(kept.as_bytes()))?)
}

fn is_kept(line: &str, resumed: Option<&TrainerState>) -> bool {
    let (Some(state), Ok(line)) = (resumed, serde_json::from_str::<Map<String, Value>>(line)) else {
        return false;
    };
    let Some(step) = line.get("step").and_then(Value::as_u64).map(|step| step as usize) else { return false };
    // A run can be stopped between a step and its evaluation.
    let has_happened = line.contains_key("train/loss") || state.evaluations.last_step() == Some(step);
    step < state.step || (step == state.step && has_happened)
}
