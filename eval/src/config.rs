//! The `[eval]` section of a recipe: prompts, tasks and decoders. And the models that are evaluated.

use std::path::{Path, PathBuf};

use jacobi_datasets::schema::eval_row::{EvalRow, ModelRole};
use jacobi_datasets::{PromptsConfig, Section};
use jacobi_decoder::{DecoderConfig, DecoderError, DecoderName, Settings, StopRules};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::sandbox::SandboxConfig;
use crate::tasks::{self, SPEED_ONLY, Task};
use crate::{EvalError, tuned};

/// The `[eval]` section of a recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EvalConfig {
    /// Your own held-out prompts, with the keys of `[prompts]`; their `chat_template`, `chat_template_kwargs` and `raw`
    /// are those of all tasks. A task that scores needs `answer_column` or
    /// `answer_template`.
    pub prompts: PromptsConfig,
    /// How answers to your own prompts are read and scored: the name of a task or its file, or `"none"` to
    /// measure speed only.
    pub task: String,
    /// Maximum tokens of a response to your own prompts, EOS included.
    pub max_new_tokens: usize,
    /// `[[eval.tasks]]`: tasks with their own questions, wording and length, measured besides your own prompts
    /// or instead.
    pub tasks: Vec<TaskConfig>,
    /// `[eval.sandbox]`: how generated programs are run.
    pub sandbox: SandboxConfig,
    /// `[[eval.decoders]]`: the decoders to compare. The autoregressive one is always measured. Default: `ar`, and
    /// `jacobi` with the `generate.block_size` of the last round.
    pub decoders: Vec<DecoderConfig>,
    /// Whether a model with a `jacobi.json` in its directory is measured with the decoder in that file, before the
    /// others, and its base model too, unless `base_decoders = "ar"`.
    pub tuned: bool,
    /// Which decoders the base model is measured with, where models trained from it are measured beside it.
    pub base_decoders: BaseDecoders,
    /// Prompts that every decoder decodes as a warm-up, untimed: the first ones of the file.
    pub warmup: usize,
    /// Prompts decoded once more at the end, untimed, to find the rank of the right token where a draft was
    /// wrong: the first ones of the file. 0 turns it off.
    pub rank_prompts: usize,
}

impl Default for EvalConfig {
    fn default() -> Self {
        let jacobi = DecoderConfig { name: DecoderName::Jacobi, ..DecoderConfig::default() };
        Self {
            prompts: PromptsConfig::default(),
            task: SPEED_ONLY.to_owned(),
            max_new_tokens: 256,
            tasks: Vec::new(),
            sandbox: SandboxConfig::default(),
            decoders: vec![DecoderConfig::default(), jacobi],
            tuned: true,
            base_decoders: BaseDecoders::All,
            warmup: 1,
            rank_prompts: 8,
        }
    }
}

impl Section for EvalConfig {
    const NAME: &'static str = "eval";
    const NEUTRAL: &'static [(&'static str, &'static str)] =
        &[("prompts.path", "the content of the files decides; it is recorded as a digest")];
}

/// The decoders of a base model beside the models trained from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BaseDecoders {
    /// Those of the trained models, for a comparison before and after training.
    All,
    /// The autoregressive one alone. It takes about half the time, and tokens per pass before training are not known.
    Ar,
}

/// One `[[eval.tasks]]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TaskConfig {
    /// The name of a built-in task, or a TOML file.
    pub name: String,
    /// File with its questions, with the columns of the published one. Default: the path in the task's file.
    pub path: Option<PathBuf>,
    /// Number of questions to skip.
    pub offset: usize,
    /// Maximum number of questions, after `offset`. Default: all.
    pub limit: Option<usize>,
    /// Maximum tokens of a response, EOS included. Default: that of the task.
    pub max_new_tokens: Option<usize>,
}

impl TaskConfig {
    /// Reads `NAME` or `NAME=FILE`.
    pub fn chosen(text: &str) -> Self {
        let (name, path) =
            text.split_once('=').map_or((text, None), |(name, path)| (name, Some(path.into())));
        Self { name: name.to_owned(), path, ..Self::default() }
    }

    /// The task, with these settings over its own.
    ///
    /// # Errors
    /// Those of [`tasks::find`]; [`EvalError::NoQuestions`].
    pub fn task(&self) -> Result<Task, EvalError> {
        let mut task = tasks::find(&self.name)?;
        if let Some(path) = &self.path {
            task.prompts.path.clone_from(path);
        }
        if task.prompts.path.as_os_str().is_empty() {
            return Err(EvalError::NoQuestions { task: task.name });
        }
        task.prompts.offset += self.offset;
        task.prompts.limit = self.limit.or(task.prompts.limit);
        task.max_new_tokens = self.max_new_tokens.or(task.max_new_tokens);
        Ok(task)
    }
}

impl EvalConfig {
    /// The tasks to measure: the recipe's own prompts first, if set, then `tasks`. Every `max_new_tokens` is set.
    ///
    /// # Errors
    /// Those of [`TaskConfig::task`]; [`EvalError::TaskTwice`], [`EvalError::NoTasks`], [`EvalError::MaxNewTokens`].
    pub fn measured(&self) -> Result<Vec<Task>, EvalError> {
        let mut measured = Vec::new();
        if !self.prompts.path.as_os_str().is_empty() {
            let (prompts, max_new_tokens) = (self.prompts.clone(), Some(self.max_new_tokens));
            measured.push(Task { version: None, prompts, max_new_tokens, ..tasks::find(&self.task)? });
        }
        for config in &self.tasks {
            let mut task = config.task()?;
            task.max_new_tokens = task.max_new_tokens.or(Some(self.max_new_tokens));
            task.prompts.take_template(&self.prompts);
            measured.push(task);
        }
        for (index, task) in measured.iter().enumerate() {
            if task.max_new_tokens == Some(0) {
                return Err(EvalError::MaxNewTokens);
            }
            if measured[..index].iter().any(|other| other.name == task.name) {
                return Err(EvalError::TaskTwice { task: task.name.clone() });
            }
        }
        if measured.is_empty() { Err(EvalError::NoTasks) } else { Ok(measured) }
    }

    /// Measures only these tasks, each `NAME` or `NAME=FILE`, with the settings that the configuration has for them.
    pub fn choose_tasks(&mut self, chosen: &[String]) {
        let config = |text: &String| {
            let chosen = TaskConfig::chosen(text);
            let listed = self.tasks.iter().find(|task| task.name == chosen.name).cloned();
            match listed {
                Some(listed) => TaskConfig { path: chosen.path.or(listed.path), ..listed },
                None => chosen,
            }
        };
        self.tasks = chosen.iter().map(config).collect();
        self.prompts.path = PathBuf::new();
    }

    /// Compares only these decoders with the autoregressive one: every entry of the configuration with such a
    /// name, or one with defaults if there is none.
    pub fn choose_decoders(&mut self, chosen: &[DecoderName]) {
        self.tuned = false;
        let listed = std::mem::take(&mut self.decoders);
        for &name in chosen {
            let before = self.decoders.len();
            self.decoders.extend(listed.iter().filter(|decoder| decoder.name == name).cloned());
            if self.decoders.len() == before {
                self.decoders.push(DecoderConfig { name, ..DecoderConfig::default() });
            }
        }
    }

    /// The decoders ready to run, autoregressive first.
    pub(crate) fn contenders(&self, seed: u64, stop: &StopRules) -> Result<Vec<Settings>, EvalError> {
        let others = self.decoders.iter().filter(|decoder| decoder.name != DecoderName::Ar);
        let listed = self.decoders.iter().find(|decoder| decoder.name == DecoderName::Ar);
        let first = listed.cloned().unwrap_or_default();
        let mut contenders: Vec<Settings> = Vec::new();
        for decoder in [&first].into_iter().chain(others) {
            let contender = decoder.settings(seed, stop.clone())?;
            if contenders.contains(&contender) {
                let settings = contender.decoder_settings();
                let reason = format!("it is listed twice with the same settings {settings:?}; remove one");
                return Err(DecoderError { name: decoder.name, reason }.into());
            }
            contenders.push(contender);
        }
        Ok(contenders)
    }

    /// The decoders of one of `models`: autoregressive, the tuned ones, then the others of the configuration. Without a
    /// decoder of its own a base model has those of the models trained from it, for a comparison. A base model of which
    /// only the autoregressive one is wanted has no other.
    pub(crate) fn contenders_of(
        &self,
        model: &EvalModel,
        models: &[EvalModel],
        seed: u64,
        stop: &StopRules,
    ) -> Result<Vec<Settings>, EvalError> {
        let mut contenders = self.contenders(seed, stop)?;
        if self.is_baseline_only(model, models) {
            contenders.truncate(1);
            return Ok(contenders);
        }
        let mut first = 1;
        for decoder in self.tuned_decoders(model, models)? {
            let contender = decoder.settings(seed, stop.clone())?;
            match contenders.iter().position(|other| *other == contender) {
                Some(at) if at < first => continue,
                Some(at) => contenders[first..=at].rotate_right(1),
                None => contenders.insert(first, contender),
            }
            first += 1;
        }
        Ok(contenders)
    }

    /// Whether only the autoregressive decoder of this one of `models` is measured.
    fn is_baseline_only(&self, model: &EvalModel, models: &[EvalModel]) -> bool {
        self.base_decoders == BaseDecoders::Ar
            && model.role == ModelRole::Base
            && models.iter().any(|other| other.role != ModelRole::Base)
    }

    fn tuned_decoders(
        &self,
        model: &EvalModel,
        models: &[EvalModel],
    ) -> Result<Vec<DecoderConfig>, EvalError> {
        let own = if self.tuned { tuned(model.tuned_dir())? } else { None };
        if own.is_some() || !self.tuned || model.role != ModelRole::Base {
            return Ok(own.into_iter().collect());
        }
        let trained = models.iter().filter(|other| other.role != ModelRole::Base);
        let found = trained.map(|other| tuned(other.tuned_dir())).collect::<Result<Vec<_>, _>>()?;
        Ok(found.into_iter().flatten().collect())
    }

    /// The label of the decoder that tuning chose for one of `models`, if `rows` lack it: it was tuned after the
    /// measurement.
    ///
    /// # Errors
    /// Those of [`tuned()`].
    pub fn unmeasured_tuned(
        &self,
        models: &[EvalModel],
        rows: &[EvalRow],
    ) -> Result<Option<String>, EvalError> {
        let stop = StopRules { max_new_tokens: 1, eos_token_ids: Vec::new() };
        for model in models.iter().filter(|model| self.tuned && !self.is_baseline_only(model, models)) {
            let Some(decoder) = tuned(model.tuned_dir())? else { continue };
            let row = row_of(&decoder.settings(0, stop.clone())?);
            if !has_row(rows, model, &row) {
                return Ok(Some(row.decoder_label()));
            }
        }
        Ok(None)
    }

    /// Labels of the decoders of `models` that have no row in `rows`, for instance one tuned after the measurement.
    ///
    /// # Errors
    /// `Decoder`, and those of [`tuned()`].
    pub fn unmeasured(&self, models: &[EvalModel], rows: &[EvalRow]) -> Result<Vec<String>, EvalError> {
        let stop = StopRules { max_new_tokens: self.max_new_tokens.max(1), eos_token_ids: Vec::new() };
        let mut unmeasured = Vec::new();
        for model in models {
            for contender in self.contenders_of(model, models, 0, &stop)? {
                let row = row_of(&contender);
                if !has_row(rows, model, &row) {
                    unmeasured.push(format!("{} of {}", row.decoder_label(), model.name));
                }
            }
        }
        Ok(unmeasured)
    }
}

/// A row with nothing but the decoder.
pub(crate) fn row_of(contender: &Settings) -> EvalRow {
    let decoder = contender.strategy.name().as_str().to_owned();
    EvalRow { decoder, decoder_settings: contender.decoder_settings(), ..EvalRow::default() }
}

fn has_row(rows: &[EvalRow], model: &EvalModel, row: &EvalRow) -> bool {
    rows.iter().any(|other| other.model == model.name && other.is_decoded_as(row))
}

/// A model to evaluate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvalModel {
    /// Its name in rows.
    pub name: String,
    /// Before or after training.
    pub role: ModelRole,
    /// A local Hugging Face directory.
    pub dir: PathBuf,
    /// A draft adapter for it, which every decoder but `ar` uses.
    pub adapter: Option<PathBuf>,
}

impl EvalModel {
    /// The directory of its `jacobi.json`: an adapter has its own.
    pub(crate) fn tuned_dir(&self) -> &Path {
        self.adapter.as_deref().unwrap_or(&self.dir)
    }
}

#[cfg(test)]
mod tests;
