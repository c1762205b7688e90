//! Checkpoints: an ordinary Hugging Face directory, and in a folder of its own what a resumed run needs: tools that load the
//! directory take every safetensors file at its top for weights. Written beside their final place and renamed, so that a
//! directory named `step-N` is always whole. The links `latest` and `best` say nothing that the
//! states in those directories do not say: whatever a killed save left is made right from them.
//!
//! Several ranks write at the same time, each its own files; the first makes the directory before and renames it after.
//! They share a file system.

use std::path::{Path, PathBuf};

use jacobi_datasets::{Difference, RecordedSettings, TOKENIZER_FILES, copy_tokenizer_file};
use jacobi_model::{MAX_SHARD_BYTES, Transformer, model_files};
use serde::{Deserialize, Serialize};

use crate::{
    TrainError,
    adamw::AdamW,
    disk::Disk,
    evaluation::Evaluations,
    shards::Shards,
    state_files::{self, StateFiles},
};

const STATE_FILE: &str = "trainer_state.json";
/// Of a checkpoint, the folder of what is not the model. Older checkpoints have those files beside the weights.
const STATE_DIR: &str = "trainer";
const CHECKPOINTS: &str = "checkpoints";
const LATEST: &str = "latest";
const BEST: &str = "best";

/// What identifies a run and how far it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainerState {
    /// Optimizer steps taken.
    pub step: usize,
    /// Steps of the whole run.
    pub total_steps: usize,
    /// Everything that decides the weights besides the step: `[train]`, data, base weights.
    pub identity: RecordedSettings,
    /// What the decoder made of the held-out prompts so far.
    #[serde(default)]
    pub evaluations: Evaluations,
    /// Ranks that wrote the optimizer's state, a file each. Any number may go on from there.
    #[serde(default = "one")]
    pub optimizer_files: usize,
}

fn one() -> usize {
    1
}

impl TrainerState {
    /// Of the checkpoint in `dir`.
    ///
    /// # Errors
    /// When it cannot be read, or is damaged.
    pub fn read(dir: &Path) -> Result<Self, TrainError> {
        let path = state_dir(dir).join(STATE_FILE);
        let text = fs_err::read_to_string(&path)?;
        serde_json::from_str(&text)
            .map_err(|error| TrainError::BadCheckpoint { path, reason: error.to_string() })
    }

    /// Whether `dir` is a checkpoint, and no other model.
    pub fn is_in(dir: &Path) -> bool {
        state_dir(dir).join(STATE_FILE).is_file()
    }

    /// `train.batch_size`, by which steps are samples.
    pub fn samples_per_step(&self) -> Option<usize> {
        self.identity.get("train.batch_size")?.parse().ok()
    }

    /// Whether the run that wrote this is over.
    pub fn is_finished(&self) -> bool {
        self.step == self.total_steps
    }

    /// Refuses to continue the run that `stored` is of, in `dir`, under another identity.
    pub(crate) fn check_continues(&self, stored: &Self, dir: &Path) -> Result<(), TrainError> {
        let mut differences = self.identity.differences(&stored.identity);
        // The number of steps follows from the settings and the data: it is only named where they do not differ.
        if differences.is_empty() && stored.total_steps != self.total_steps {
            differences.0.push(Difference {
                key: "steps in all".to_owned(),
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

/// What is saved besides the state.
pub(crate) struct Saved<'a> {
    pub(crate) model: &'a Transformer,
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
    /// Those of the run in `output`, of which the newest `keep` stay.
    pub(crate) fn open(output: &Path, keep: usize, disk: &'a dyn Disk) -> Result<Self, TrainError> {
        let dir = output.join(CHECKPOINTS);
        disk.create_dir(&dir)?;
        Ok(Self { dir, keep, disk })
    }

    /// Finishes or undoes what a killed save left. `state` is that of the newest checkpoint.
    pub(crate) fn mend(&self, state: Option<&TrainerState>) -> Result<(), TrainError> {
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

    /// Saves model, optimizer and state as `step-N`, points the links at it, removes the oldest beyond the limit. All
    /// ranks do that together.
    pub(crate) fn save(&self, saved: &Saved, state: &TrainerState) -> Result<(), TrainError> {
        let (target, partial) = (self.step_dir(state.step), self.partial_dir(state.step));
        let ranks = saved.shards.ranks();
        let is_there = ranks.any(ranks.is_first() && target.exists())?;
        if ranks.is_first() && is_there {
            self.replace_state(&target, state)?;
        }
        if !is_there {
            if ranks.is_first() {
                if partial.exists() {
                    self.disk.remove_dir(&partial)?;
                }
                self.disk.create_dir(&partial.join(STATE_DIR))?;
            }
            ranks.meet()?;
            saved.shards.with_all(|| self.write_model(&partial, saved))??;
            let (rank, holds_part) = (ranks.rank(), saved.shards.are_gradients_shared());
            let place = (rank, ranks.world_size());
            let write = |path: &Path| state_files::write(path, saved.optimizer, place, holds_part);
            self.disk.write(&partial.join(STATE_DIR).join(state_files::file_name(rank)), &write)?;
            ranks.meet()?;
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
        Ok(ranks.meet()?)
    }

    /// Each rank writes every so manieth file.
    fn write_model(&self, dir: &Path, saved: &Saved) -> Result<(), TrainError> {
        let Saved { model, tokenizer_dir, shards, .. } = saved;
        let config = &model.architecture().config_json;
        let files = model_files(config, model.parameters(), model.kind(), MAX_SHARD_BYTES);
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

    /// The weights of a step are those they were; what is known about them may have grown.
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

    /// Removes all but the newest and the best.
    fn rotate(&self, state: &TrainerState) -> Result<(), TrainError> {
        let steps = self.steps()?;
        for &step in &steps[..steps.len().saturating_sub(self.keep)] {
            if best_step(state) != Some(step) {
                // Renamed first: a directory named step-N is whole even while it is being removed.
                let doomed = self.partial_dir(step);
                self.disk.rename(&self.step_dir(step), &doomed)?;
                self.disk.remove_dir(&doomed)?;
            }
        }
        Ok(())
    }

    /// The newest whole checkpoint.
    pub(crate) fn newest(&self) -> Result<Option<(PathBuf, TrainerState)>, TrainError> {
        let Some(&step) = self.steps()?.last() else { return Ok(None) };
        let dir = self.step_dir(step);
        let state = TrainerState::read(&dir)?;
        Ok(Some((dir, state)))
    }

    /// Puts the stored masters and moments into `optimizer`, and so the weights into what it updates.
    pub(crate) fn restore(dir: &Path, state: &TrainerState, optimizer: &mut AdamW) -> Result<(), TrainError> {
        let files = StateFiles::open(&state_dir(dir), state.optimizer_files)?;
        optimizer.restore(state.step, &mut |part| files.fill(part))
    }

    /// Removes every checkpoint: what a run with another identity made.
    pub(crate) fn discard(&self) -> Result<(), TrainError> {
        // From the newest on, so that no older one is taken for the newest if this is cut short.
        for step in self.steps()?.into_iter().rev() {
            let doomed = self.partial_dir(step);
            self.disk.rename(&self.step_dir(step), &doomed)?;
            self.disk.remove_dir(&doomed)?;
        }
        for link in [LATEST, BEST].map(|name| self.dir.join(name)) {
            if link.is_symlink() {
                fs_err::remove_file(link)?;
            }
        }
        Ok(())
    }
}

/// Where in the whole checkpoint `dir` lies what is not the model.
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

/// The checkpoint that a run made: the one `checkpoints/best` points at, or `checkpoints/latest` where no evaluation
/// chose one.
pub fn result_checkpoint(round_dir: &Path) -> Option<PathBuf> {
    linked(round_dir, BEST).or_else(|| latest_checkpoint(round_dir))
}

/// The checkpoint that `checkpoints/latest` of a run points at, if there is one.
pub fn latest_checkpoint(round_dir: &Path) -> Option<PathBuf> {
    linked(round_dir, LATEST)
}

fn linked(round_dir: &Path, name: &str) -> Option<PathBuf> {
    let checkpoints = round_dir.join(CHECKPOINTS);
    let target = fs_err::read_link(checkpoints.join(name)).ok()?;
    Some(checkpoints.join(target)).filter(|dir| dir.is_dir())
}
