//! The stages of a run in which all ranks take part. The first rank decides what is done and posts each task in the store;
//! the others do their part of it and wait for the next, while the first one exports, tunes and evaluates.

use std::time::Duration;

use anyhow::Context;
use jacobi_datasets::{Manifest, Rank};
use jacobi_trainer::{Peers, TrainData};
use jacobi_trajectory_gen::{merge, ranks_in};
use serde::{Deserialize, Serialize};

use crate::exit::UsageError;
use crate::pipeline::{models_of_round, models_that_generate};
use crate::recipe::Recipe;
use crate::run_dir::{DirLock, RunDir};
use crate::signals::Stop;
use crate::stages::{self, GenerateOptions, TrainStage};
use crate::{device, output};

/// What all ranks do together.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Task {
    /// Generates the trajectories of a round, in this number of shares.
    Generate { round: usize, shares: usize },
    /// Trains a round.
    Train { round: usize },
    /// The run has ended.
    End,
}

/// A task as posted.
#[derive(Serialize, Deserialize)]
struct Posted {
    task: Task,
    /// The recipe of the first rank, which must be that of all.
    recipe: String,
}

/// All ranks at work on a recipe.
pub struct SharedWork<'a> {
    recipe: &'a Recipe,
    run: RunDir,
    overwrite: bool,
    peers: &'a Peers,
    stop: &'a Stop,
    /// Tasks posted or done so far.
    tasks: usize,
}

impl<'a> SharedWork<'a> {
    /// Work on `recipe` by `peers`. With `overwrite`, results of other settings are removed.
    pub fn new(recipe: &'a Recipe, overwrite: bool, peers: &'a Peers, stop: &'a Stop) -> Self {
        Self { recipe, run: RunDir::new(&recipe.output_dir), overwrite, peers, stop, tasks: 0 }
    }

    /// On the first rank: all ranks generate the trajectories of `round`.
    ///
    /// # Errors
    /// Those of [`stages::generate`] and [`merge`], on any rank; [`crate::exit::Interrupted`] after a signal.
    pub fn generate(&mut self, round: usize) -> anyhow::Result<()> {
        let target = self.run.trajectories(round);
        let ranks = self.peers.world_size();
        let shares = ranks_in(&target)?.unwrap_or(ranks);
        if shares < ranks {
            output::status(&format!(
                "generate: begun on {shares} ranks, so {} of {ranks} wait; remove {} to share the work anew",
                ranks - shares,
                target.display()
            ));
        }
        self.together(Task::Generate { round, shares })?;
        if shares > 1 {
            let _lock = DirLock::take(&target)?;
            let manifest = merge(&target)?;
            output::status(&format!("generate: {}", stages::generation_summary(&manifest, &target)));
        }
        Ok(())
    }

    /// On the first rank: all ranks train `round`.
    ///
    /// # Errors
    /// Those of [`stages::train`], on any rank; [`crate::exit::Interrupted`] after a signal.
    pub fn train(&mut self, round: usize) -> anyhow::Result<()> {
        self.together(Task::Train { round })
    }

    /// On the first rank: the other ranks may end.
    ///
    /// # Errors
    /// The store is gone.
    pub fn end(&mut self) -> anyhow::Result<()> {
        self.post(Task::End)
    }

    /// On every other rank: does its part of each task until the first one ends the run.
    ///
    /// # Errors
    /// Those of the tasks, on any rank; [`UsageError`] if the first rank has another recipe; [`crate::exit::Interrupted`] after a
    /// signal.
    pub fn follow(&mut self) -> anyhow::Result<()> {
        loop {
            let posted = self.peers.hear(&format!("task/{}", self.tasks), || self.stop.check().is_err())?;
            let Some(posted) = posted else { return Ok(self.stop.check()?) };
            let Posted { task, recipe } =
                serde_json::from_str(&posted).context("a task of the first rank")?;
            if recipe != self.digest() {
                let text = "its recipe differs from that of rank 0: give all ranks the same command";
                return Err(UsageError(text.to_owned()).into());
            }
            if task == Task::End {
                return Ok(());
            }
            self.perform(task)?;
        }
    }

    fn together(&mut self, task: Task) -> anyhow::Result<()> {
        self.post(task)?;
        self.perform(task)
    }

    fn post(&self, task: Task) -> anyhow::Result<()> {
        let posted = serde_json::to_string(&Posted { task, recipe: self.digest() })?;
        Ok(self.peers.tell(&format!("task/{}", self.tasks), &posted)?)
    }

    fn digest(&self) -> String {
        blake3::hash(self.recipe.to_toml().as_bytes()).to_hex().to_string()
    }

    /// Does this rank's part of `task` and waits until all have done theirs.
    fn perform(&mut self, task: Task) -> anyhow::Result<()> {
        match task {
            Task::Generate { round, shares } => self.generate_shares(round, shares)?,
            Task::Train { round } => self.train_round(round)?,
            Task::End => {}
        }
        let name = format!("task/{}", self.tasks);
        self.tasks += 1;
        if !self.peers.meet(&name, || self.stop.check().is_err())? {
            self.stop.check()?;
        }
        Ok(())
    }

    /// The shares of this rank: usually one, another number after a restart on another number of ranks.
    fn generate_shares(&self, round: usize, shares: usize) -> anyhow::Result<()> {
        let models = models_that_generate(self.recipe, &self.run, round)?;
        let target = self.run.trajectories(round);
        for rank in (self.peers.rank()..shares).step_by(self.peers.world_size()) {
            let rank = (shares > 1).then(|| Rank::new(rank, shares)).transpose()?;
            let options = GenerateOptions { rank, overwrite: self.overwrite, quiet: !self.peers.is_first() };
            let job = stages::generate_job(self.recipe, round, &models, &target, options)?;
            let _: Manifest = stages::generate(&job, options, self.stop)?;
        }
        Ok(())
    }

    fn train_round(&self, round: usize) -> anyhow::Result<()> {
        let models = models_of_round(self.recipe, &self.run, round)?;
        let device = device::of(&self.recipe.model)?;
        let timeout = Duration::from_secs(self.recipe.rounds[round - 1].train.dist_timeout);
        let stage = TrainStage {
            round,
            models: &models,
            data: TrainData::Trajectories(self.run.trajectories(round)),
            output: &self.run.round(round),
            overwrite: self.overwrite,
            device,
            ranks: self.peers.join(device, timeout)?,
        };
        stages::train(self.recipe, stage, self.stop).map(drop)
    }
}
