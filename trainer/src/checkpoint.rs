//! Checkpoints: a Hugging Face directory with a folder `trainer/` for the state that resuming needs. The state is in a
//! folder because other tools treat every safetensors file at the top of the directory as weights. An adapter that drafts is
//! saved alone, in the form of PEFT; one of all rows is merged into the weights.
//!
//! A checkpoint is written as `partial-N` and renamed, so that a directory named `step-N` is always complete. The links
//! `latest` and `best` are derived from the saved state, so they are set again after a killed save.
//!
//! Ranks write their files at the same time, into one file system; rank 0 creates the directory and renames it.

use std::path::{Path, PathBuf};

use jacobi_datasets::{Difference, RecordedSettings, TOKENIZER_FILES, copy_tokenizer_file};
use jacobi_model::{Adapter, AdapterBase, MAX_SHARD_BYTES, Transformer, model_files};
use serde::{Deserialize, Serialize};

use crate::{
    AdapterRows, TrainError,
    adamw::AdamW,
    disk::Disk,
    evaluation::Evaluations,
    shards::Shards,
    state_files::{self, StateFiles},
};

const STATE_FILE: &str = "trainer_state.json";
/// The folder of a checkpoint's training state. Older checkpoints have its files beside the weights.
const STATE_DIR: &str = "trainer";
const CHECKPOINTS: &str = "checkpoints";
const LATEST: &str = "latest";
const BEST: &str = "best";

/// Identity and progress of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainerState {
    /// Optimizer steps taken.
    pub step: usize,
    /// Steps of the whole run.
    pub total_steps: usize,
    /// Everything that decides the weights besides the step: `[train]`, data, base weights.
    pub identity: RecordedSettings,
    /// Results on the held-out prompts so far.
    #[serde(default)]
    pub evaluations: Evaluations,
    /// Ranks that wrote optimizer state, a file each. Any number of ranks can resume from them.
    #[serde(default = "one")]
    pub optimizer_files: usize,
}

fn one() -> usize {
    1
}

impl TrainerState {
    /// Reads the state of the checkpoint in `dir`.
    ///
    /// # Errors
    /// When it cannot be read, or is damaged.
    pub fn read(dir: &Path) -> Result<Self, TrainError> {
        let path = state_dir(dir).join(STATE_FILE);
        let text = fs_err::read_to_string(&path)?;
        serde_json::from_str(&text)
            .map_err(|error| TrainError::BadCheckpoint { path, reason: error.to_string() })
    }

    /// Whether `dir` is a checkpoint of training and not just a model.
    pub fn is_in(dir: &Path) -> bool {
        state_dir(dir).join(STATE_FILE).is_file()
    }

    /// `train.batch_size`.
    pub fn samples_per_step(&self) -> Option<usize> {
        self.identity.get("train.batch_size")?.parse().ok()
    }

    /// Whether the run has taken all its steps.
    pub fn is_finished(&self) -> bool {
        self.step == self.total_steps
    }

    /// Checks that `stored`, the state of the checkpoint `dir`, belongs to this run: same identity, same total steps.
    pub(crate) fn check_same_run(&self, stored: &Self, dir: &Path) -> Result<(), TrainError> {
        let mut differences = self.identity.differences(&stored.identity);
        // The number of steps follows from the settings and the data, so it is compared only if those are equal.
        if differences.is_empty() && stored.total_steps != self.total_steps {
            differences.0.push(Difference {
                key: "total steps".to_owned(),
                was: stored.total_steps.to_string(),
                is: self.total_steps.to_string(),
            });
        }
        match differences.is_empty() {
            true => Ok(()),
            false => Err(TrainError::Mismatch { path: dir.to_path_buf(), differences }),
        }
    }
}

/// What a checkpoint holds besides the state.
pub(crate) struct Saved<'a> {
    pub(crate) model: &'a Transformer,
    /// The adapter that is trained, and its rows.
    pub(crate) adapter: Option<(&'a Adapter, AdapterRows)>,
    /// The model that it belongs to.
    pub(crate) base: &'a AdapterBase,
    /// Where the tokenizer's files are copied from.
    pub(crate) tokenizer_dir: &'a Path,
    pub(crate) optimizer: &'a AdamW,
    pub(crate) shards: &'a Shards,
}

/// The `checkpoints/` directory of a run.
pub(crate) struct Checkpoints<'a> {
    dir: PathBuf,
    keep: usize,
    disk: &'a dyn Disk,
}

impl<'a> Checkpoints<'a> {
    /// Opens the checkpoints of the run in `output`. Each save keeps the newest `keep`.
    pub(crate) fn open(output: &Path, keep: usize, disk: &'a dyn Disk) -> Result<Self, TrainError> {
        let dir = output.join(CHECKPOINTS);
        disk.create_dir(&dir)?;
        Ok(Self { dir, keep, disk })
    }

    /// Cleans up after a killed save: removes partial checkpoints and sets the links from `state`, the state of the
    /// newest checkpoint.
    pub(crate) fn repair(&self, state: Option<&TrainerState>) -> Result<(), TrainError> {
        for entry in fs_err::read_dir(&self.dir)? {
            let path = entry?.path();
            if is_partial(&path) && path.is_dir() && !path.is_symlink() {
                self.disk.remove_dir(&path)?;
            }
        }
        state.map_or(Ok(()), |state| self.link_both(state))
    }

    fn step_dir(&self, step: usize) -> PathBuf {
        self.dir.join(step_name(step))
    }

    fn partial_dir(&self, step: usize) -> PathBuf {
        self.dir.join(format!("partial-{step:06}"))
    }

    /// Saves model, optimizer and state as `step-N`, sets the links, removes the oldest beyond the limit. All
    /// ranks call it together.
    pub(crate) fn save(&self, saved: &Saved, state: &TrainerState) -> Result<(), TrainError> {
        let (target, partial) = (self.step_dir(state.step), self.partial_dir(state.step));
        let ranks = saved.shards.ranks();
        let exists = ranks.any(ranks.is_first() && target.exists())?;
        if ranks.is_first() && exists {
            self.replace_state(&target, state)?;
        }
        if !exists {
            if ranks.is_first() {
                if partial.exists() {
                    self.disk.remove_dir(&partial)?;
                }
                self.disk.create_dir(&partial.join(STATE_DIR))?;
            }
            ranks.barrier()?;
            saved.shards.with_all(|| self.write_model(&partial, saved))??;
            let (rank, holds_part) = (ranks.rank(), saved.shards.are_gradients_sharded());
            let place = (rank, ranks.world_size());
            let write = |path: &Path| state_files::write(path, saved.optimizer, place, holds_part);
            self.disk.write(&partial.join(STATE_DIR).join(state_files::file_name(rank)), &write)?;
            ranks.barrier()?;
            if ranks.is_first() {
                self.disk
                    .write(&partial.join(STATE_DIR).join(STATE_FILE), &|path| write_state(path, state))?;
                self.disk.rename(&partial, &target)?;
            }
        }
        if ranks.is_first() {
            self.link_both(state)?;
            self.rotate(state)?;
        }
        Ok(ranks.barrier()?)
    }

    /// Rank r of n writes files r, r + n, ..; rank 0 also the tokenizer's.
    fn write_model(&self, dir: &Path, saved: &Saved) -> Result<(), TrainError> {
        let Saved { model, adapter, base, tokenizer_dir, shards, .. } = saved;
        let merged = match adapter {
            Some((adapter, AdapterRows::All)) => Some(adapter.merged(model.parameters())),
            _ => None,
        };
        let files = match adapter {
            Some((adapter, AdapterRows::Draft)) => adapter.files(base),
            _ => {
                let tensors = merged.as_deref().unwrap_or(model.parameters());
                model_files(&model.architecture().config_json, tensors, model.kind(), MAX_SHARD_BYTES)
            }
        };
        let ranks = shards.ranks();
        for file in files.iter().skip(ranks.rank()).step_by(ranks.world_size()) {
            self.disk.write(&dir.join(&file.name), &|path| Ok(file.write(path)?))?;
        }
        if !ranks.is_first() {
            return Ok(());
        }
        for file in TOKENIZER_FILES {
            let source = tokenizer_dir.join(file);
            if source.is_file() {
                let copy = |path: &Path| Ok(copy_tokenizer_file(&source, path)?);
                self.disk.write(&dir.join(file), &copy)?;
            }
        }
        Ok(())
    }

    /// Replaces only the state: the weights of a step do not change, but it may have been evaluated since.
    fn replace_state(&self, dir: &Path, state: &TrainerState) -> Result<(), TrainError> {
        let dir = state_dir(dir);
        let partial = dir.join(format!("{STATE_FILE}.partial"));
        self.disk.write(&partial, &|path| write_state(path, state))?;
        self.disk.rename(&partial, &dir.join(STATE_FILE))
    }

    fn link_both(&self, state: &TrainerState) -> Result<(), TrainError> {
        self.link(LATEST, state.step)?;
        match best_step(state) {
            Some(step) if self.step_dir(step).is_dir() => self.link(BEST, step),
            _ => Ok(()),
        }
    }

    fn link(&self, name: &str, step: usize) -> Result<(), TrainError> {
        let (link, target) = (self.dir.join(name), PathBuf::from(step_name(step)));
        if fs_err::read_link(&link).is_ok_and(|found| found == target) {
            return Ok(());
        }
        let partial = self.dir.join(format!("{name}.partial"));
        if partial.is_symlink() {
            fs_err::remove_file(&partial)?;
        }
        self.disk.link(&target, &partial)?;
        self.disk.rename(&partial, &link)
    }

    /// Steps of the complete checkpoints, ascending.
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

    /// Removes all but the newest and the best.
    fn rotate(&self, state: &TrainerState) -> Result<(), TrainError> {
        let steps = self.steps()?;
        for &step in &steps[..steps.len().saturating_sub(self.keep)] {
            if best_step(state) != Some(step) {
                self.remove(step)?;
            }
        }
        Ok(())
    }

    /// Renames before removing: a directory named `step-N` is complete at every moment.
    fn remove(&self, step: usize) -> Result<(), TrainError> {
        let partial = self.partial_dir(step);
        self.disk.rename(&self.step_dir(step), &partial)?;
        self.disk.remove_dir(&partial)
    }

    /// The newest complete checkpoint.
    pub(crate) fn newest(&self) -> Result<Option<(PathBuf, TrainerState)>, TrainError> {
        let Some(&step) = self.steps()?.last() else { return Ok(None) };
        let dir = self.step_dir(step);
        let state = TrainerState::read(&dir)?;
        Ok(Some((dir, state)))
    }

    /// Restores master weights and moments into `optimizer`, and the parameters it updates.
    pub(crate) fn restore(dir: &Path, state: &TrainerState, optimizer: &mut AdamW) -> Result<(), TrainError> {
        let files = StateFiles::open(&state_dir(dir), state.optimizer_files)?;
        optimizer.restore(state.step, &mut |part| files.fill(part))
    }

    /// Removes every checkpoint.
    pub(crate) fn discard(&self) -> Result<(), TrainError> {
        // The newest first: after an interruption `latest` is a dangling link and does not name an older checkpoint.
        self.steps()?.into_iter().rev().try_for_each(|step| self.remove(step))?;
        for link in [LATEST, BEST].map(|name| self.dir.join(name)) {
            if link.is_symlink() {
                fs_err::remove_file(link)?;
            }
        }
        Ok(())
    }
}

/// The directory of the training state of checkpoint `dir`.
fn state_dir(dir: &Path) -> PathBuf {
    let folder = dir.join(STATE_DIR);
    if folder.is_dir() { folder } else { dir.to_path_buf() }
}

fn step_name(step: usize) -> String {
    format!("step-{step:06}")
}

fn is_partial(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("partial-"))
}

fn best_step(state: &TrainerState) -> Option<usize> {
    state.evaluations.best.as_ref().map(|best| best.step)
}

fn write_state(path: &Path, state: &TrainerState) -> Result<(), TrainError> {
    let json = serde_json::to_vec_pretty(state).expect("a state of strings and numbers");
    Ok(fs_err::write(path, json)?)
}

/// The result of a run: the checkpoint that `checkpoints/best` points to, or else `checkpoints/latest`.
pub fn result_checkpoint(round_dir: &Path) -> Option<PathBuf> {
    linked(round_dir, BEST).or_else(|| latest_checkpoint(round_dir))
}

/// The checkpoint that `checkpoints/latest` of a run points to, if there is one.
pub fn latest_checkpoint(round_dir: &Path) -> Option<PathBuf> {
    linked(round_dir, LATEST)
}

fn linked(round_dir: &Path, name: &str) -> Option<PathBuf> {
    let checkpoints = round_dir.join(CHECKPOINTS);
    let target = fs_err::read_link(checkpoints.join(name)).ok()?;
    Some(checkpoints.join(target)).filter(|dir| dir.is_dir())
}
