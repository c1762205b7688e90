//! The stages of a run, planned before the first one starts: the settings, the outputs and the amount of work of each.

use std::path::PathBuf;

use anyhow::Context;
use jacobi_datasets::schema::tuned::TUNED_FILE;
use jacobi_datasets::{PromptsConfig, RecordedSettings, Responses, Section, Tokenizer, stream_prompts};
use jacobi_eval::tasks::Task;
use jacobi_eval::{EvalError, EvalModel};
use jacobi_model::{Architecture, digest_of_model};
use jacobi_trainer::{Init, TrainConfig};
use serde_json::json;

use crate::environment;
use crate::exit::UsageError;
use crate::recipe::{Recipe, Round};
use crate::run_dir::RunDir;
use crate::tuning::Tuning;

/// What a stage does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Prompts to trajectories, in this round (from 1).
    Generate(usize),
    /// Trajectories to checkpoints, in this round (from 1).
    Train(usize),
    /// Last checkpoint to a Hugging Face directory.
    Export,
    /// The fastest decoder of the exported model found.
    Tune,
    /// Base and trained model measured; the report written.
    Eval,
}

/// One stage of a run.
#[derive(Debug)]
pub struct Stage {
    /// What it does.
    pub work: Work,
    /// Its name in the ledger and on the terminal.
    pub name: String,
    /// The settings that decide its result, besides those of the stages before it.
    pub settings: RecordedSettings,
    /// Its output files and directories. If one is missing, the stage runs again.
    pub outputs: Vec<PathBuf>,
    /// How much there is to do, in words.
    pub summary: String,
}

/// Plans the run of `recipe` and checks every file that it will read, so that errors appear before hours of work.
///
/// # Errors
/// A model directory or prompt file that is missing or unusable.
pub fn plan(recipe: &Recipe) -> anyhow::Result<Vec<Stage>> {
    let model = recipe.model_dir()?;
    if recipe.model.init == Init::Random {
        let message = "model.init = \"random\": an untrained model gives no useful trajectories; train it with `jacobi train` first";
        return Err(UsageError(message.into()).into());
    }
    Architecture::from_dir(&model)?;
    let tokenizer = Tokenizer::load(&model)?;
    let run = RunDir::new(&recipe.output_dir);
    let mut stages = Vec::new();
    for round in 1..=recipe.rounds.len() {
        tokenizer.with_prompts(&recipe.rounds[round - 1].prompts)?.check_template()?;
        let prompts = count(recipe.prompts(round)?).with_context(|| {
            format!("in the prompts of round {round}: [prompts], or rounds.{round}.prompts")
        })?;
        stages.push(generate_stage(recipe, &run, round, prompts)?);
        stages.push(train_stage(recipe, &run, round, prompts)?);
    }
    let mut rounds = RecordedSettings::default();
    rounds.set("rounds", recipe.rounds.len());
    stages.push(Stage {
        work: Work::Export,
        name: "export".into(),
        settings: rounds,
        outputs: vec![run.export()],
        summary: format!("the last checkpoint to {}", run.export().display()),
    });
    // First: its messages about missing questions say more.
    let eval = has_evaluation(recipe)?.then(|| eval_stage(recipe, &run, &tokenizer)).transpose()?;
    if recipe.tune.enabled {
        stages.push(tune_stage(recipe, &run)?);
    }
    stages.extend(eval);
    Ok(stages)
}

/// Whether the recipe says what to evaluate on.
pub fn has_evaluation(recipe: &Recipe) -> anyhow::Result<bool> {
    match recipe.eval.measured() {
        Ok(_) => Ok(true),
        Err(EvalError::NoTasks) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn generate_stage(recipe: &Recipe, run: &RunDir, round: usize, counted: Counted) -> anyhow::Result<Stage> {
    let Round { prompts, generate, .. } = &recipe.rounds[round - 1];
    let mut settings = recipe.model.deciding();
    settings.set("seed", recipe.seed);
    settings.set("model.files", digest_of_model(&recipe.model_dir()?)?);
    settings.extend(prompts.deciding());
    settings.set("prompts.file", digest(prompts)?);
    settings.extend(generate.deciding());
    let responses = generate.responses.as_deref().map(Responses::read).transpose()?;
    settings.set("generate.responses", responses.as_ref().map(Responses::digest));
    let summary = format!(
        "{counted}, block_size {}, at most {} new tokens each",
        generate.block_size, generate.max_new_tokens
    );
    let outputs = vec![run.trajectories(round)];
    Ok(Stage {
        work: Work::Generate(round),
        name: format!("round-{round}/generate"),
        settings,
        outputs,
        summary,
    })
}

fn train_stage(recipe: &Recipe, run: &RunDir, round: usize, prompts: Counted) -> anyhow::Result<Stage> {
    let train = &recipe.rounds[round - 1].train;
    let settings = train.deciding();
    let dir = run.round(round);
    let outputs = vec![dir.join("checkpoints"), dir.join("metrics.jsonl"), dir.join("tensorboard")];
    let adapter = adapter_in_words(train);
    // Prompts without a usable response, and samples that are too long, are left out.
    let at_most = if train.max_steps.is_some() { "" } else { "at most " };
    let summary = format!(
        "{at_most}{} steps of {} samples, learning rate {:e}, window_size {}{adapter}",
        steps(train, prompts.usable),
        train.batch_size,
        train.learning_rate,
        train.window_size
    );
    Ok(Stage { work: Work::Train(round), name: format!("round-{round}/train"), settings, outputs, summary })
}

/// `, an adapter of rank 64` if an adapter is trained, else nothing.
pub fn adapter_in_words(train: &TrainConfig) -> String {
    let adapter = train.adapter.as_ref();
    adapter.map_or_else(String::new, |adapter| format!(", an adapter of rank {}", adapter.rank))
}

fn tune_stage(recipe: &Recipe, run: &RunDir) -> anyhow::Result<Stage> {
    let tuning = Tuning::planned(recipe)?;
    let prompts =
        count(&tuning.prompts).context("in the prompts of [tune], the first ones of the evaluation")?;
    let mut settings = recipe.tune.deciding();
    settings.set("tune.max_new_tokens", tuning.max_new_tokens);
    settings.set("tune.questions", PromptsConfig { path: PathBuf::new(), ..tuning.prompts.clone() });
    settings.set("tune.questions.file", digest(&tuning.prompts)?);
    Ok(Stage {
        work: Work::Tune,
        name: "tune".into(),
        settings,
        outputs: vec![run.tune(), run.export().join(TUNED_FILE)],
        summary: tuning.summary(prompts),
    })
}

fn eval_stage(recipe: &Recipe, run: &RunDir, tokenizer: &Tokenizer) -> anyhow::Result<Stage> {
    let mut questions = Vec::new();
    let before_tasks = usize::from(!recipe.eval.prompts.path.as_os_str().is_empty());
    for (index, task) in (1..).zip(recipe.eval.measured()?) {
        let counted = count(&task.prompts).with_context(|| match index > before_tasks {
            true => format!(
                "no questions for {}: give a file with --set eval.tasks.{}.path=FILE, or measure on other prompts \
                 with --set eval.tasks=[] --set eval.prompts.path=FILE",
                task.name,
                index - before_tasks
            ),
            false => format!("in the prompts of {}, whose settings are eval.prompts.NAME", task.name),
        })?;
        tokenizer.with_prompts(&task.prompts)?.check_template()?;
        questions.push(questions_of(&task, counted));
    }
    let settings = question_settings(recipe)?;
    Ok(Stage {
        work: Work::Eval,
        name: "eval".into(),
        settings,
        outputs: vec![run.report()],
        summary: format!("base and trained model on {}", questions.join(", ")),
    })
}

/// The questions, and how they are asked.
fn question_settings(recipe: &Recipe) -> anyhow::Result<RecordedSettings> {
    let mut settings = recipe.eval.deciding();
    for task in recipe.eval.measured()? {
        let key = format!("eval.questions.{}", task.name);
        let unreadable = || format!("cannot read the questions of task \"{}\"", task.name);
        settings.set(&key, digest(&task.prompts).with_context(unreadable)?);
        settings.set(&format!("{key}.version"), task.version);
        settings.set(&format!("{key}.task"), digest_of_task(&task)?);
    }
    Ok(settings)
}

/// The settings that decide the samples of an evaluation, with the machine and the version of jacobi: figures of two
/// machines or versions must not be mixed.
///
/// # Errors
/// A model directory or prompt file that cannot be read.
pub fn eval_settings(recipe: &Recipe, models: &[EvalModel]) -> anyhow::Result<RecordedSettings> {
    let mut settings = question_settings(recipe)?;
    settings.set("seed", recipe.seed);
    settings.set("model.dtype", recipe.model.dtype);
    settings.set("model.device", recipe.model.device);
    // The default is not written out: evaluations have been recorded without it.
    if !recipe.model.graphs {
        settings.set("model.graphs", false);
    }
    for (index, model) in models.iter().enumerate() {
        let key = format!("models.{}", index + 1);
        settings.set(&format!("{key}.name"), &model.name);
        settings.set(&format!("{key}.role"), model.role);
        settings.set(&format!("{key}.files"), digest_of_model(&model.dir)?);
        if let Some(adapter) = &model.adapter {
            settings.set(&format!("{key}.adapter"), digest_of_model(adapter)?);
        }
    }
    settings.set("machine", environment::machine());
    settings.set("jacobi", env!("CARGO_PKG_VERSION"));
    Ok(settings)
}

/// The questions of a task, in words.
pub fn questions_of(task: &Task, prompts: Counted) -> String {
    let (name, tokens) = (&task.name, task.max_new_tokens.unwrap_or_default());
    format!("{name} ({prompts}, at most {tokens} new tokens)")
}

/// The maximum number of optimizer steps over `samples` samples. Samples that are too long are left out later.
pub fn steps(train: &TrainConfig, samples: usize) -> usize {
    let trained = samples.saturating_sub(train.held_out_samples());
    train.max_steps.unwrap_or(train.epochs * trained.div_ceil(train.batch_size))
}

/// The number of prompts in a file.
#[derive(Clone, Copy, Debug)]
pub struct Counted {
    /// Rows that are prompts.
    pub usable: usize,
    /// Malformed rows.
    pub bad: usize,
}

impl std::fmt::Display for Counted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} prompts", self.usable)?;
        if self.bad > 0 { write!(f, " ({} unreadable rows skipped)", self.bad) } else { Ok(()) }
    }
}

/// Counts the prompts that `config` selects.
///
/// # Errors
/// When the file cannot be used.
pub fn count(config: &PromptsConfig) -> anyhow::Result<Counted> {
    let mut counted = Counted { usable: 0, bad: 0 };
    for row in stream_prompts(config)? {
        match row? {
            Ok(_) => counted.usable += 1,
            Err(_) => counted.bad += 1,
        }
    }
    Ok(counted)
}

/// A size with its unit: `512 B`, `3.4 MB`.
pub fn bytes(count: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", units[unit]) }
}

/// The first 16 hex digits of the BLAKE3 of the prompt files, and of the chat template that replaces the model's.
fn digest(prompts: &PromptsConfig) -> anyhow::Result<String> {
    let mut hasher = blake3::Hasher::new();
    for path in prompts.files()? {
        hasher.update_reader(fs_err::File::open(path)?)?;
    }
    hasher.update(prompts.template_source()?.unwrap_or_default().as_bytes());
    Ok(hasher.finalize().to_hex()[..16].to_owned())
}

/// Keys of `[prompts]` that the first digests of tasks did not have. A task that does not set them keeps its digest.
const LATER_KEYS: [&str; 6] =
    ["role_map", "tools_column", "system_column", "chat_template", "chat_template_kwargs", "raw"];

/// The first 16 hex digits of the BLAKE3 of a task, since a task can be edited without a new version. The path of its
/// questions is left out; their content is in [`digest`].
fn digest_of_task(task: &Task) -> anyhow::Result<String> {
    let prompts = PromptsConfig { path: PathBuf::new(), ..task.prompts.clone() };
    let mut task = serde_json::to_value(Task { prompts, ..task.clone() })?;
    if let Some(prompts) = task["prompts"].as_object_mut() {
        prompts.retain(|key, value| {
            let is_unset = value.is_null() || *value == json!({}) || *value == json!(false);
            !(is_unset && LATER_KEYS.contains(&key.as_str()))
        });
    }
    Ok(blake3::hash(task.to_string().as_bytes()).to_hex()[..16].to_owned())
}

#[cfg(test)]
mod tests;
