//! Checkpoints: an ordinary Hugging Face directory plus what a resumed run needs. Written beside their final
//! place and renamed, so that a directory named `step-N` is always whole.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use jacobi_datasets::{TOKENIZER_FILES, write_atomic};
use jacobi_model::{MAX_SHARD_BYTES, Transformer, save_model, save_tensors};
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::{TrainError, adamw::AdamW};

const STATE_FILE: &str = "trainer_state.json";
const OPTIMIZER_FILE: &str = "optimizer-rank-0.safetensors";
const LATEST: &str = "latest";

/// What identifies a run and how far it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainerState {
    /// Optimizer steps taken.
    pub step: usize,
    /// Steps of the whole run.
    pub total_steps: usize,
    /// Everything that decides the weights besides the step: settings, data, base weights.
    pub identity: BTreeMap<String, String>,
}

impl TrainerState {
    /// Whether the run that wrote this is over.
    pub fn is_finished(&self) -> bool {
        self.step == self.total_steps
    }
}

/// The `checkpoints/` directory of a run.
pub struct Checkpoints {
    dir: PathBuf,
    keep: usize,
}

impl Checkpoints {
    pub(crate) fn open(dir: PathBuf, keep: usize) -> Result<Self, TrainError> {
        fs_err::create_dir_all(&dir)?;
        Ok(Self { dir, keep })
    }

    fn step_dir(&self, step: usize) -> PathBuf {
        self.dir.join(format!("step-{step:06}"))
    }

    /// Saves model, optimizer and state as `step-N`, points `latest` at it, removes the oldest beyond the limit.
    pub(crate) fn save(
        &self,
        model: &Transformer,
        tokenizer_dir: &Path,
        optimizer: &AdamW,
        state: &TrainerState,
    ) -> Result<PathBuf, TrainError> {
        let target = self.step_dir(state.step);
        if !target.exists() {
            let partial = self.dir.join(format!("partial-{:06}", state.step));
            if partial.exists() {
                fs_err::remove_dir_all(&partial)?;
            }
            let config = &model.architecture().config_json;
            save_model(&partial, config, model.parameters(), model.kind(), MAX_SHARD_BYTES)?;
            save_tensors(&partial.join(OPTIMIZER_FILE), &optimizer.state(), None)?;
            for file in TOKENIZER_FILES {
                if tokenizer_dir.join(file).is_file() {
                    fs_err::copy(tokenizer_dir.join(file), partial.join(file))?;
                }
            }
            let json = serde_json::to_vec_pretty(state).expect("a state of strings and numbers");
            write_atomic(&partial.join(STATE_FILE), |file| file.write_all(&json))?;
            fs_err::rename(&partial, &target)?;
        }
        self.link_latest(state.step)?;
        self.rotate()?;
        Ok(target)
    }

    fn link_latest(&self, step: usize) -> Result<(), TrainError> {
        let link = self.dir.join("latest.partial");
        if link.is_symlink() {
            fs_err::remove_file(&link)?;
        }
        fs_err::os::unix::fs::symlink(format!("step-{step:06}"), &link)?;
        Ok(fs_err::rename(link, self.dir.join(LATEST))?)
    }

    /// Steps that have a whole checkpoint, ascending.
    fn steps(&self) -> Result<Vec<usize>, TrainError> {
        let mut steps = Vec::new();
        for entry in fs_err::read_dir(&self.dir)? {
            let name = entry?.file_name();
            if let Some(step) = name.to_str().and_then(|n| n.strip_prefix("step-")?.parse().ok()) {
                steps.push(step);
            }
        }
        steps.sort_unstable();
        Ok(steps)
    }

    fn rotate(&self) -> Result<(), TrainError> {
        let steps = self.steps()?;
        for &step in &steps[..steps.len().saturating_sub(self.keep)] {
            // Renamed first: a directory named step-N is whole even while it is being removed.
            let doomed = self.dir.join(format!("partial-{step:06}"));
            fs_err::rename(self.step_dir(step), &doomed)?;
            fs_err::remove_dir_all(doomed)?;
        }
        Ok(())
    }

    /// The newest whole checkpoint.
    pub(crate) fn newest(&self) -> Result<Option<(PathBuf, TrainerState)>, TrainError> {
        let Some(&step) = self.steps()?.last() else { return Ok(None) };
        let dir = self.step_dir(step);
        let path = dir.join(STATE_FILE);
        let text = fs_err::read_to_string(&path)?;
        let state = serde_json::from_str(&text)
            .map_err(|error| TrainError::BadCheckpoint { path, reason: error.to_string() })?;
        Ok(Some((dir, state)))
    }

    /// Puts the stored masters and moments into `optimizer`, and so the weights into the model.
    pub(crate) fn restore(dir: &Path, step: usize, optimizer: &mut AdamW) -> Result<(), TrainError> {
        let path = dir.join(OPTIMIZER_FILE);
        let bytes = fs_err::read(&path)?;
        let bad = |reason: String| TrainError::BadCheckpoint { path: path.clone(), reason };
        let stored = SafeTensors::deserialize(&bytes).map_err(|error| bad(error.to_string()))?;
        let find = |name: &str| {
            let view = stored.tensor(name).ok()?;
            let shape: Vec<i64> = view.shape().iter().map(|&n| n as i64).collect();
            Tensor::f_from_data_size(view.data(), &shape, Kind::Float).ok()
        };
        optimizer.restore(step, &find).map_err(|name| bad(format!("tensor `{name}` is missing or misshapen")))
    }
}

/// Refuses to continue a run whose settings, data or base differ from the stored ones.
pub(crate) fn check_identity(
    dir: &Path,
    stored: &TrainerState,
    now: &TrainerState,
) -> Result<(), TrainError> {
    let total = [("total_steps".to_owned(), stored.total_steps.to_string(), now.total_steps.to_string())];
    let identity = now.identity.iter().map(|(field, value)| {
        (field.clone(), stored.identity.get(field).cloned().unwrap_or_default(), value.clone())
    });
    match identity.chain(total).find(|(_, then, now)| then != now) {
        None => Ok(()),
        Some((field, stored, current)) => {
            Err(TrainError::Mismatch { path: dir.to_path_buf(), field, stored, current })
        }
    }
}

/// The directory that `checkpoints/latest` of a run points at, if there is one.
pub fn latest_checkpoint(round_dir: &Path) -> Option<PathBuf> {
    let link = round_dir.join("checkpoints").join(LATEST);
    let target = fs_err::read_link(link).ok()?;
    Some(round_dir.join("checkpoints").join(target)).filter(|dir| dir.is_dir())
}

/// Whether the newest checkpoint of a run is its last.
///
/// # Errors
/// A state file that does not parse.
pub fn is_finished(round_dir: &Path) -> Result<bool, TrainError> {
    let dir = round_dir.join("checkpoints");
    if !dir.is_dir() {
        return Ok(false);
    }
    Ok(Checkpoints::open(dir, 1)?.newest()?.is_some_and(|(_, state)| state.is_finished()))
}
