//! The recipe: one TOML schema for all verbs. Each section's struct is in the crate that uses it.

use std::path::{Path, PathBuf};

use jacobi_datasets::{PromptsConfig, Section, hub};
use jacobi_decoder::DecoderName;
use jacobi_eval::{EvalConfig, EvalError, TuneConfig, tasks};
use jacobi_model::{DeviceChoice, Dtype};
use jacobi_trainer::{AdapterRows, AdapterSettings, Init, TrainConfig};
use jacobi_trajectory_gen::{GenerateConfig, StatesKept};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::exit::UsageError;
use crate::layers::{self, ConfigError};
use crate::schema;

/// All settings of a run.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Recipe {
    /// Name of the run and of the model it makes. Default: the name of the config file.
    pub name: String,
    /// Directory of all output files. Default: `runs/NAME`.
    pub output_dir: PathBuf,
    /// Seed of block starts, data order and random schedules.
    pub seed: u64,
    /// The base model.
    pub model: ModelSection,
    /// The prompts that trajectories are made from.
    pub prompts: PromptsConfig,
    /// How trajectories are made.
    pub generate: GenerateConfig,
    /// How the model is trained.
    pub train: TrainConfig,
    /// How the fastest decoder of the exported model is found.
    pub tune: TuneConfig,
    /// How models are measured.
    pub eval: EvalConfig,
    /// `[[rounds]]`: rounds of generate and train, in order. A round takes everything it does not override from
    /// `[prompts]`, `[generate]` and `[train]`.
    pub rounds: Vec<Round>,
}

/// Which model to start from.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ModelSection {
    /// A local Hugging Face directory, or `ORG/NAME[@REVISION]` on the hub.
    pub path: PathBuf,
    /// Dtype of weights and activations.
    pub dtype: Dtype,
    /// Where to compute: `"cpu"`; `"cuda"`, the GPU of this process (its number is `LOCAL_RANK`, else
    /// `SLURM_LOCALID`); `"cuda:N"`; or `"auto"`, which is `"cuda"` where there is a GPU, else the CPU.
    pub device: DeviceChoice,
    /// On a GPU: record decoding passes over one sequence as CUDA graphs when a model is first used. A pass that cannot be
    /// recorded is run without one.
    pub graphs: bool,
    /// Where the first weights come from.
    pub init: Init,
}

impl Default for ModelSection {
    fn default() -> Self {
        Self {
            path: PathBuf::default(),
            dtype: Dtype::default(),
            device: DeviceChoice::default(),
            graphs: true,
            init: Init::default(),
        }
    }
}

impl Section for ModelSection {
    const NAME: &'static str = "model";
    const NEUTRAL: &'static [(&'static str, &'static str)] = &[
        ("device", "decides speed and rounding; an evaluation, which measures speed, records it"),
        ("graphs", "decides speed; an evaluation, which measures speed, records it"),
        ("init", "decides the first weights, which are recorded as a digest"),
    ];
}

/// The sections `[prompts]`, `[generate]` and `[train]` of one round.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Round {
    /// The prompts that its trajectories are made from.
    pub prompts: PromptsConfig,
    /// How its trajectories are made.
    pub generate: GenerateConfig,
    /// How the model is trained on them.
    pub train: TrainConfig,
}

impl Round {
    /// Tokens of the blocks that it trains on.
    pub fn block_size(&self) -> usize {
        let of_adapter = self.train.adapter.as_ref().and_then(|adapter| adapter.block_size);
        of_adapter.unwrap_or(self.generate.block_size)
    }
}

/// The options that select a recipe, for every verb that needs one.
#[derive(Debug, clap::Args)]
pub struct RecipeArgs {
    /// The recipe, a TOML file; `jacobi config schema` describes it
    #[arg(long, short, value_name = "FILE")]
    pub config: PathBuf,
    /// Overrides one setting; wins over the file. May be given several times
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub set: Vec<String>,
}

impl RecipeArgs {
    /// Reads the recipe these options name.
    ///
    /// # Errors
    /// As [`Recipe::load`].
    pub fn load(&self) -> anyhow::Result<Recipe> {
        Recipe::load(&self.config, &self.set)
    }
}

impl Recipe {
    /// Reads `file`, applies `--set` assignments, and checks every value that can be checked without other files.
    ///
    /// # Errors
    /// [`ConfigError`] if the recipe cannot be read, [`UsageError`] for invalid values.
    pub fn load(file: &Path, assignments: &[String]) -> anyhow::Result<Self> {
        let table = layers::load::<Self>(file, assignments)?;
        let lists_decoders = table.get("eval").is_some_and(|eval| eval.get("decoders").is_some());
        let mut recipe: Self = table.try_into().map_err(|error: toml::de::Error| ConfigError::File {
            file: file.into(),
            line: 1,
            column: 1,
            message: error.message().to_owned(),
        })?;
        if recipe.name.is_empty() {
            recipe.name = file.file_stem().map_or("run".into(), |stem| stem.to_string_lossy().into_owned());
        }
        if recipe.output_dir.as_os_str().is_empty() {
            recipe.output_dir = Path::new("runs").join(&recipe.name);
        }
        recipe.validate()?;
        if !lists_decoders {
            recipe.evaluate_as_trained()?;
        }
        Ok(recipe)
    }

    /// The block size of the last round.
    pub fn block_size(&self) -> usize {
        self.rounds.last().map_or(self.generate.block_size, Round::block_size)
    }

    /// Whether the last round trains an adapter that drafts, so that the run exports an adapter and no model.
    pub fn exports_adapter(&self) -> bool {
        self.rounds.last().is_some_and(|round| trains_drafter(&round.train))
    }

    /// The round (from 1) that trains the model which `round` starts from; `None` if that is the base model. Rounds that train
    /// an adapter that drafts leave their model as it is.
    pub fn round_of_model(&self, round: usize) -> Option<usize> {
        (1..round).rev().find(|before| !trains_drafter(&self.rounds[before - 1].train))
    }

    /// The round that trains the adapter which drafts in `round`, and which it goes on training.
    pub fn round_of_adapter(&self, round: usize) -> Option<usize> {
        let before = round.checked_sub(1).filter(|&before| before > 0)?;
        trains_drafter(&self.rounds[before - 1].train).then_some(before)
    }

    /// Gives `jacobi` among the default decoders of the evaluation the block size that the model is trained for. The
    /// default is not written out: evaluations have recorded it without.
    fn evaluate_as_trained(&mut self) -> Result<(), UsageError> {
        let block_size = self.block_size();
        for decoder in self.eval.decoders.iter_mut().filter(|decoder| decoder.name == DecoderName::Jacobi) {
            if decoder.resolved().block_size != Some(block_size) {
                decoder.block_size = Some(block_size);
                decoder.strategy(self.seed).map_err(|error| UsageError(format!("[eval]: {error}")))?;
            }
        }
        Ok(())
    }

    fn validate(&self) -> Result<(), UsageError> {
        for (index, round) in self.rounds.iter().enumerate() {
            let in_round = |error: String| UsageError(format!("round {}: {error}", index + 1));
            round.generate.validate().map_err(|error| in_round(error.to_string()))?;
            round.train.validate().map_err(|error| in_round(error.to_string()))?;
            if round.generate.states == StatesKept::None && round.train.uses_recorded_states() {
                let reason = "generate.states = \"none\" leaves out the states that its [train] section needs: set \
                              train.adapter.states = \"random\" or \"on_policy\", or train.pc_weight = 0";
                return Err(in_round(reason.to_owned()));
            }
            if index == 0 && trains_drafter(&round.train) && self.model.init == Init::Random {
                let reason = "train.adapter.rows = \"draft\" with model.init = \"random\": the adapter would belong to a \
                              model that is not saved";
                return Err(in_round(reason.to_owned()));
            }
            if index > 0 && trains_drafter(&self.rounds[index - 1].train) {
                continues_adapter(&self.rounds[index - 1].train, &round.train).map_err(in_round)?;
            }
        }
        self.tune.validate().map_err(UsageError)?;
        let in_eval = |error: EvalError| UsageError(format!("[eval]: {error}"));
        for decoder in &self.eval.decoders {
            decoder.strategy(self.seed).map_err(|error| in_eval(error.into()))?;
        }
        let prompts = &self.eval.prompts;
        let scores = tasks::find(&self.eval.task).map_err(in_eval)?.scores();
        let answers = prompts.answer_column.is_some() || prompts.answer_template.is_some();
        if scores && !prompts.path.as_os_str().is_empty() && !answers {
            return Err(UsageError(format!(
                "eval.task = \"{}\" compares with right answers: set eval.prompts.answer_column to their column",
                self.eval.task
            )));
        }
        match self.eval.measured() {
            Ok(_) | Err(EvalError::NoTasks) => Ok(()),
            Err(error) => Err(in_eval(error)),
        }
    }

    /// Settings that some verbs need and this recipe lacks, a message each.
    ///
    /// # Errors
    /// [`UsageError`] when no verb can use the recipe.
    pub fn missing_settings(&self) -> Result<Vec<String>, UsageError> {
        self.model_path()?;
        let no_prompts = self.rounds.iter().any(|round| round.prompts.path.as_os_str().is_empty());
        match (no_prompts, self.eval.prompts.path.as_os_str().is_empty() && self.eval.tasks.is_empty()) {
            (true, true) => Err(UsageError(
                "neither prompts.path nor eval.prompts.path is set: no verb can use this recipe".into(),
            )),
            (true, false) => {
                Ok(vec!["prompts.path is not set: only `eval` and `tune` can use this recipe".into()])
            }
            (false, true) => Ok(vec![
                "neither eval.prompts.path nor [[eval.tasks]] is set: `run` evaluates nothing, and `eval` refuses this recipe"
                    .into(),
            ]),
            (false, false) => Ok(Vec::new()),
        }
    }

    /// The resolved recipe as TOML, defaults included.
    pub fn to_toml(&self) -> String {
        let mut shown = self.clone();
        shown.eval.decoders.iter_mut().for_each(|decoder| *decoder = decoder.resolved());
        let table = toml::Table::try_from(shown).expect("a recipe is a table of plain values");
        toml::to_string(&table).expect("a table of plain values is TOML")
    }

    /// The JSON Schema of recipes.
    pub fn schema() -> Value {
        schema::of::<Self>()
    }

    /// The prompts of round `round` (from 1), which generation needs.
    ///
    /// # Errors
    /// [`UsageError`] when their path is not set.
    pub fn prompts(&self, round: usize) -> Result<&PromptsConfig, UsageError> {
        let prompts = &self.rounds[round - 1].prompts;
        if prompts.path.as_os_str().is_empty() {
            return Err(UsageError(
                "prompts.path is not set: add it to [prompts] in the config, or use --set prompts.path=FILE"
                    .into(),
            ));
        }
        Ok(prompts)
    }

    /// `model.path`, which most verbs need.
    ///
    /// # Errors
    /// [`UsageError`] when it is not set.
    pub fn model_path(&self) -> Result<&Path, UsageError> {
        if self.model.path.as_os_str().is_empty() {
            return Err(UsageError(
                "model.path is not set: add it to [model] in the config, or use --set model.path=DIR".into(),
            ));
        }
        Ok(&self.model.path)
    }

    /// The directory of the base model, downloaded if `model.path` names one of the hub.
    ///
    /// # Errors
    /// [`UsageError`] when it is not set; a download that fails.
    pub fn model_dir(&self) -> anyhow::Result<PathBuf> {
        Ok(hub::model_dir(self.model_path()?)?)
    }
}

/// Checks that a round can follow one that trains an adapter that drafts.
fn continues_adapter(before: &TrainConfig, train: &TrainConfig) -> Result<(), String> {
    let shape = |train: &TrainConfig| train.adapter.as_ref().map(AdapterSettings::shape);
    if !trains_drafter(train) {
        return Err("the round before trains an adapter that drafts, and no model that this round could start from: give this \
                    round the same [train.adapter], or train the model in earlier rounds"
            .to_owned());
    }
    match shape(before) == shape(train) {
        true => Ok(()),
        false => Err("train.adapter has another rank, alpha or other targets than the adapter of the round before, which this \
                      round goes on training: set them alike"
            .to_owned()),
    }
}

fn trains_drafter(train: &TrainConfig) -> bool {
    train.adapter.as_ref().is_some_and(|adapter| adapter.rows == AdapterRows::Draft)
}

#[cfg(test)]
mod tests;
