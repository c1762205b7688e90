//! The recipe: one TOML schema for all verbs. Each section's struct lives in the crate that obeys it.

use std::path::{Path, PathBuf};

use jacobi_datasets::{PromptsConfig, hub};
use jacobi_eval::{EvalConfig, EvalError, tasks};
use jacobi_model::{DeviceChoice, Dtype};
use jacobi_trainer::{Init, TrainConfig};
use jacobi_trajectory_gen::GenerateConfig;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::exit::UsageError;
use crate::layers::{self, ConfigError};
use crate::schema;

/// Everything a run is told.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Recipe {
    /// Name of the run and of the model it makes; by default the name of the config file.
    pub name: String,
    /// Where everything is written; by default `runs/NAME`.
    pub output_dir: PathBuf,
    /// Seed of random block starts, data order and random schedules.
    pub seed: u64,
    /// The base model.
    pub model: ModelSection,
    /// The prompts that trajectories are made from.
    pub prompts: PromptsConfig,
    /// How trajectories are made.
    pub generate: GenerateConfig,
    /// How the model is trained.
    pub train: TrainConfig,
    /// How models are measured.
    pub eval: EvalConfig,
    /// Rounds of generate and train, in order; each is complete once the recipe is loaded.
    pub rounds: Vec<Round>,
}

/// Which model to start from.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelSection {
    /// A local Hugging Face directory, or `ORG/NAME[@REVISION]` of the hub.
    pub path: PathBuf,
    /// The dtype to compute in.
    pub dtype: Dtype,
    /// Where to compute.
    pub device: DeviceChoice,
    /// Where the first weights come from.
    pub init: Init,
}

/// One round: what `[prompts]`, `[generate]` and `[train]` are in it.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Round {
    /// The prompts that its trajectories are made from.
    pub prompts: PromptsConfig,
    /// How its trajectories are made.
    pub generate: GenerateConfig,
    /// How the model is trained on them.
    pub train: TrainConfig,
}

/// The options by which every verb that works from a recipe is told which.
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
    /// Reads `file`, lays `--set` assignments over it, and checks every value that can be checked without the world.
    ///
    /// # Errors
    /// [`ConfigError`] for what cannot be read, [`UsageError`] for values that no run can have.
    pub fn load(file: &Path, assignments: &[String]) -> anyhow::Result<Self> {
        let table = layers::load::<Self>(file, assignments)?;
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
        Ok(recipe)
    }

    fn validate(&self) -> Result<(), UsageError> {
        for (index, round) in self.rounds.iter().enumerate() {
            let in_round = |error: String| UsageError(format!("round {}: {error}", index + 1));
            round.generate.validate().map_err(|error| in_round(error.to_string()))?;
            round.train.validate().map_err(|error| in_round(error.to_string()))?;
        }
        let in_eval = |error: EvalError| UsageError(format!("[eval]: {error}"));
        for decoder in &self.eval.decoders {
            decoder.strategy(self.seed).map_err(|error| in_eval(error.into()))?;
        }
        let prompts = &self.eval.prompts;
        let scores = tasks::find(&self.eval.task).map_err(in_eval)?.scores();
        let answers = prompts.answer_column.is_some() || prompts.answer_template.is_some();
        if scores && !prompts.path.as_os_str().is_empty() && !answers {
            return Err(UsageError(format!(
                "eval.task = \"{}\" compares with right answers: set eval.prompts.answer_column to the column that has them",
                self.eval.task
            )));
        }
        match self.eval.measured() {
            Ok(_) | Err(EvalError::NoTasks) => Ok(()),
            Err(error) => Err(in_eval(error)),
        }
    }

    /// What the recipe still lacks for some verbs, a line each.
    ///
    /// # Errors
    /// [`UsageError`] when it is of no use to any of them.
    pub fn lacks(&self) -> Result<Vec<String>, UsageError> {
        self.model_path()?;
        let no_prompts = self.rounds.iter().any(|round| round.prompts.path.as_os_str().is_empty());
        match (no_prompts, self.eval.prompts.path.as_os_str().is_empty() && self.eval.tasks.is_empty()) {
            (true, true) => Err(UsageError(
                "neither prompts.path nor eval.prompts.path is set: there is nothing to work on".into(),
            )),
            (true, false) => Ok(vec!["without prompts.path it is of use to `eval` and `tune` alone".into()]),
            (false, true) => {
                Ok(vec!["without eval.prompts.path or [[eval.tasks]] `run` and `eval` refuse it".into()])
            }
            (false, false) => Ok(Vec::new()),
        }
    }

    /// The recipe as TOML: what was resolved, defaults included.
    pub fn to_toml(&self) -> String {
        let mut shown = self.clone();
        shown.eval.decoders.iter_mut().for_each(|decoder| *decoder = decoder.resolved());
        let table = toml::Table::try_from(shown).expect("a recipe is a table of plain values");
        toml::to_string(&table).expect("a table of plain values is TOML")
    }

    /// The JSON Schema of recipes.
    pub fn schema() -> Value {
        let defaults = serde_json::to_value(Self::default()).expect("a recipe is plain values");
        schema::of::<Self>(&defaults)
    }

    /// `model.path`, which most verbs cannot do without.
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
    /// [`UsageError`] when it is not set; what keeps it from arriving.
    pub fn model_dir(&self) -> anyhow::Result<PathBuf> {
        Ok(hub::model_dir(self.model_path()?)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str, set: &[&str]) -> anyhow::Result<Recipe> {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("small.toml");
        fs_err::write(&file, text).unwrap();
        Recipe::load(&file, &set.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn the_resolved_recipe_reads_back_as_itself() {
        let text = "[model]\npath = \"m\"\n[train]\nbatch_size = 3\n[[rounds]]\n[[rounds]]\n[rounds.train]\nbatch_size = 5\n";
        let recipe = load(text, &["seed=9"]).unwrap();
        assert_eq!((recipe.name.as_str(), recipe.output_dir.as_path()), ("small", Path::new("runs/small")));
        let again = load(&recipe.to_toml(), &[]).unwrap();
        assert_eq!(again.to_toml(), recipe.to_toml());
        let batches: Vec<usize> = again.rounds.iter().map(|round| round.train.batch_size).collect();
        assert_eq!((again.seed, batches), (9, vec![3, 5]));
    }

    #[test]
    fn values_no_run_can_have_are_the_users_to_mend() {
        let error = load("", &["train.batch_size=0"]).unwrap_err();
        assert!(error.is::<UsageError>(), "{error:#}");
        assert!(error.to_string().contains("batch_size = 0"), "{error:#}");
        assert!(
            load("", &[]).unwrap().model_path().unwrap_err().to_string().contains("--set model.path=DIR")
        );
    }

    #[test]
    fn what_no_verb_could_use_is_not_valid_and_what_some_could_is_said() {
        let model = "model.path=m";
        let rows: [(&[&str], Result<usize, &str>); 5] = [
            (&[], Err("model.path is not set")),
            (&[model], Err("neither prompts.path nor eval.prompts.path")),
            (&[model, "prompts.path=a.jsonl"], Ok(1)),
            (&[model, "eval.prompts.path=a.jsonl"], Ok(1)),
            (&[model, "prompts.path=a.jsonl", "eval.prompts.path=a.jsonl"], Ok(0)),
        ];
        for (set, expected) in rows {
            let found = load("", set).unwrap().lacks().map(|lines| lines.len()).map_err(|e| e.to_string());
            match expected {
                Ok(count) => assert_eq!(found, Ok(count), "{set:?}"),
                Err(part) => assert!(found.as_ref().is_err_and(|e| e.contains(part)), "{set:?}: {found:?}"),
            }
        }
        let error = load("", &["eval.task=gsm8k", "eval.prompts.path=a.jsonl"]).unwrap_err().to_string();
        assert!(error.contains("eval.prompts.answer_column"), "{error}");
    }

    #[test]
    fn the_decoders_shown_have_every_setting() {
        let shown = load("[[eval.decoders]]\nname = \"multi_block\"\n", &[]).unwrap().to_toml();
        for key in [
            "block_size = 16",
            "window = \"blocks\"",
            "max_blocks = 2",
            "filler = \"random\"",
            "pool_size = 4",
        ] {
            assert!(shown.contains(key), "{key} is missing: {shown}");
        }
        assert_eq!(load(&shown, &[]).unwrap().to_toml(), shown);
    }

    #[test]
    fn the_schema_knows_every_section() {
        let schema = Recipe::schema();
        for section in ["model", "prompts", "generate", "train", "eval"] {
            assert_eq!(schema["properties"][section]["type"], "object", "{section}");
        }
        assert_eq!(schema["properties"]["rounds"]["items"]["properties"]["train"]["type"], "object");
    }
}
