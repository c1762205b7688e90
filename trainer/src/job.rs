//! What a training run is asked for, and how it ended.

use std::path::{Path, PathBuf};

use jacobi_model::{Adapter, Compute, Device, Dtype, StoredAdapter, Transformer, load, weight_hash};

use crate::{
    TrainConfig, TrainError,
    data::{CutRows, TrainData},
    ranks::Ranks,
};

/// Where the initial weights come from.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Init {
    /// The weights of the model directory.
    #[default]
    Weights,
    /// Random weights of the shape in config.json.
    Random,
}

/// One training run.
pub struct TrainJob<'a> {
    /// Hugging Face directory: config.json, tokenizer, and weights unless `init` is random.
    pub model_dir: &'a Path,
    /// The adapter to go on training, a directory of PEFT; `None` starts a new one where `config` has an adapter.
    pub adapter: Option<&'a Path>,
    /// Where the initial weights come from.
    pub init: Init,
    /// Compute dtype.
    pub dtype: Dtype,
    /// Where to compute.
    pub device: Device,
    /// What to train on.
    pub data: TrainData,
    /// Receives `checkpoints/`, `metrics.jsonl`, `tensorboard/`.
    pub output: &'a Path,
    /// How to train.
    pub config: &'a TrainConfig,
    /// Seed of data order, held-out rows, random schedules and random weights.
    pub seed: u64,
    /// Whether checkpoints and logs of another run in `output` may be removed.
    pub overwrite: bool,
    /// Connection to the other ranks. All ranks run the same job and share a file system.
    pub ranks: Ranks,
}

/// How a run ended.
#[derive(Debug)]
pub struct TrainOutcome {
    /// The best checkpoint, or the newest where no evaluation chose one.
    pub checkpoint: PathBuf,
    /// False when it was stopped; run it again to continue.
    pub finished: bool,
    /// Rows left out for their length.
    pub skipped: usize,
    /// Cut responses, if `cut_responses` leaves them out and there are any.
    pub cut: Option<CutRows>,
}

impl TrainJob<'_> {
    /// The model that training starts from.
    pub(crate) fn initial_model(&self) -> Result<Transformer, TrainError> {
        let compute = Compute { dtype: self.dtype, device: self.device };
        Ok(match self.init {
            Init::Weights => load(self.model_dir, compute)?.transformer,
            Init::Random => Transformer::random(self.model_dir, compute, self.seed)?,
        })
    }

    /// The hash of its weights.
    pub(crate) fn initial_hash(&self) -> Result<String, TrainError> {
        match self.init {
            Init::Weights => Ok(weight_hash(self.model_dir)?),
            Init::Random => Ok("random".to_owned()),
        }
    }

    /// The adapter that training starts from, if one is trained, and the hash of its weights if it is not a new one.
    /// `weights` is the hash of those of `model`.
    pub(crate) fn initial_adapter(
        &self,
        model: &Transformer,
        weights: &str,
    ) -> Result<(Option<Adapter>, Option<String>), TrainError> {
        let Some(settings) = &self.config.adapter else { return Ok((None, None)) };
        settings.check_rank(model.architecture())?;
        let Some(dir) = self.adapter else { return Ok((Some(settings.start(model, self.seed)), None)) };
        let stored = StoredAdapter::read(dir)?;
        settings.check_shape(stored.config())?;
        let hash = stored.weight_hash().to_owned();
        Ok((Some(stored.attach(model.architecture(), weights, model.device())?), Some(hash)))
    }
}
