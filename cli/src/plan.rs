//! The stages of a run, worked out before anything is done: what each makes, from which settings, and about how much.

use std::path::{Path, PathBuf};

use anyhow::Context;
use jacobi_datasets::schema::tuned::TUNED_FILE;
use jacobi_datasets::{PromptsConfig, Responses, Tokenizer, stream_prompts};
use jacobi_eval::EvalModel;
use jacobi_eval::tasks::Task;
use jacobi_model::Architecture;
use jacobi_trainer::{Init, TrainConfig};
use serde_json::to_value;

use crate::environment;
use crate::exit::UsageError;
use crate::ledger::{Settings, flatten};
use crate::recipe::{Recipe, Round};
use crate::run_dir::RunDir;

/// What a stage does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Prompts to trajectories, in this round (from 1).
    Generate(usize),
    /// Trajectories to checkpoints, in this round (from 1).
    Train(usize),
    /// Last checkpoint to a Hugging Face directory.
    Export,
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
    /// What decides its result, beyond what decides the stages before it.
    pub settings: Settings,
    /// What it makes: gone, it has to run again.
    pub outputs: Vec<PathBuf>,
    /// How much there is to do, in words.
    pub summary: String,
}

/// Plans the run of `recipe`, looking at every file it will read, so that a missing one is found before hours of work.
///
/// # Errors
/// A model directory or prompt file that is missing or unusable.
pub fn plan(recipe: &Recipe) -> anyhow::Result<Vec<Stage>> {
    let model = recipe.model_dir()?;
    if recipe.model.init == Init::Random {
        let message = "model.init = \"random\" has no answers to make trajectories from: train the model with `jacobi train` first";
        return Err(UsageError(message.into()).into());
    }
    Architecture::from_dir(&model)?;
    Tokenizer::load(&model)?;
    let run = RunDir::new(&recipe.output_dir);
    let mut stages = Vec::new();
    for round in 1..=recipe.rounds.len() {
        let prompts = count(&recipe.rounds[round - 1].prompts)?;
        stages.push(generate_stage(recipe, &run, round, prompts)?);
        stages.push(train_stage(recipe, &run, round, prompts)?);
    }
    let mut rounds = Settings::new();
    flatten("rounds", &recipe.rounds.len().into(), &mut rounds);
    stages.push(Stage {
        work: Work::Export,
        name: "export".into(),
        settings: rounds,
        outputs: vec![run.export()],
        summary: format!("the last checkpoint to {}", run.export().display()),
    });
    stages.push(eval_stage(recipe, &run)?);
    Ok(stages)
}

fn generate_stage(recipe: &Recipe, run: &RunDir, round: usize, counted: Counted) -> anyhow::Result<Stage> {
    let Round { prompts, generate, .. } = &recipe.rounds[round - 1];
    let mut settings = Settings::new();
    flatten("seed", &recipe.seed.into(), &mut settings);
    flatten("model.path", &to_value(&recipe.model.path)?, &mut settings);
    flatten("model.dtype", &to_value(recipe.model.dtype)?, &mut settings);
    flatten("model.files", &digest_of_model(&recipe.model_dir()?)?.into(), &mut settings);
    flatten("prompts", &to_value(prompts)?, &mut settings);
    flatten("prompts.file", &digest(prompts)?.into(), &mut settings);
    flatten("generate", &to_value(generate)?, &mut settings);
    // What they say, not where they lie.
    if let Some(path) = &generate.responses {
        settings.insert("generate.responses".into(), Responses::read(path)?.digest().into());
    }
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
    let settings = train.objective();
    let dir = run.round(round);
    let outputs = vec![dir.join("checkpoints"), dir.join("metrics.jsonl"), dir.join("tensorboard")];
    let summary = format!(
        "{} steps of {} samples, learning rate {:e}, window_size {}",
        steps(train, prompts.usable),
        train.batch_size,
        train.learning_rate,
        train.window_size
    );
    Ok(Stage { work: Work::Train(round), name: format!("round-{round}/train"), settings, outputs, summary })
}

fn eval_stage(recipe: &Recipe, run: &RunDir) -> anyhow::Result<Stage> {
    let mut questions = Vec::new();
    let before_tasks = usize::from(!recipe.eval.prompts.path.as_os_str().is_empty());
    for (index, task) in (1..).zip(recipe.eval.measured()?) {
        let counted = count(&task.prompts).with_context(|| match index > before_tasks {
            true => format!(
                "no questions for {}: where you have them give --set eval.tasks.{}.path=FILE, or measure on other prompts \
                 with --set eval.tasks=[] --set eval.prompts.path=FILE",
                task.name,
                index - before_tasks
            ),
            false => format!("in the prompts of {}", task.name),
        })?;
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

/// What is asked and how.
fn question_settings(recipe: &Recipe) -> anyhow::Result<Settings> {
    let mut settings = Settings::new();
    flatten("eval", &to_value(&recipe.eval)?, &mut settings);
    for task in recipe.eval.measured()? {
        let file = format!("eval.questions.{}", task.name);
        let unread = || format!("cannot read the questions of task \"{}\"", task.name);
        flatten(&file, &digest(&task.prompts).with_context(unread)?.into(), &mut settings);
        flatten(&format!("{file}.version"), &to_value(task.version)?, &mut settings);
        flatten(&format!("{file}.task"), &digest_of_task(&task)?.into(), &mut settings);
    }
    Ok(settings)
}

/// Everything that decides the samples of an evaluation, the machine and the version of jacobi included: figures of two
/// machines, or of two versions, are not of one evaluation.
///
/// # Errors
/// A model directory or prompt file that cannot be read.
pub fn eval_settings(recipe: &Recipe, models: &[EvalModel]) -> anyhow::Result<Settings> {
    let mut settings = question_settings(recipe)?;
    flatten("seed", &recipe.seed.into(), &mut settings);
    flatten("model.dtype", &to_value(recipe.model.dtype)?, &mut settings);
    flatten("model.device", &to_value(recipe.model.device)?, &mut settings);
    for (index, model) in models.iter().enumerate() {
        let key = format!("models.{}", index + 1);
        flatten(&format!("{key}.name"), &model.name.as_str().into(), &mut settings);
        flatten(&format!("{key}.role"), &model.role.as_str().into(), &mut settings);
        flatten(&format!("{key}.files"), &digest_of_model(&model.dir)?.into(), &mut settings);
    }
    flatten("machine", &environment::machine(), &mut settings);
    flatten("jacobi", &env!("CARGO_PKG_VERSION").into(), &mut settings);
    Ok(settings)
}

/// What a task asks, in words.
pub fn questions_of(task: &Task, prompts: Counted) -> String {
    let (name, tokens) = (&task.name, task.max_new_tokens.unwrap_or_default());
    format!("{name} ({prompts}, at most {tokens} new tokens)")
}

/// Optimizer steps over `samples` samples; long ones are left out later, so this is the most.
pub fn steps(train: &TrainConfig, samples: usize) -> usize {
    let trained = samples.saturating_sub(train.held_out_samples());
    train.max_steps.unwrap_or(train.epochs * trained.div_ceil(train.batch_size))
}

/// How many prompts a file gives.
#[derive(Clone, Copy, Debug)]
pub struct Counted {
    /// Rows that are prompts.
    pub usable: usize,
    /// Rows that are not.
    pub bad: usize,
}

impl std::fmt::Display for Counted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} prompts", self.usable)?;
        if self.bad > 0 { write!(f, " ({} unreadable rows beside)", self.bad) } else { Ok(()) }
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

/// A size as people say it: `512 B`, `3.4 MB`.
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

/// The first 16 hex digits of the BLAKE3 of the prompt files.
fn digest(prompts: &PromptsConfig) -> anyhow::Result<String> {
    let mut hasher = blake3::Hasher::new();
    for path in prompts.files()? {
        hasher.update_reader(fs_err::File::open(path)?)?;
    }
    Ok(hasher.finalize().to_hex()[..16].to_owned())
}

/// The first 16 hex digits of the BLAKE3 of what a task says: who edits one may forget to raise its version. Where its
/// questions lie is not part of it; what they are, [`digest`] says.
fn digest_of_task(task: &Task) -> anyhow::Result<String> {
    let prompts = PromptsConfig { path: PathBuf::new(), ..task.prompts.clone() };
    let text = serde_json::to_string(&Task { prompts, ..task.clone() })?;
    Ok(blake3::hash(text.as_bytes()).to_hex()[..16].to_owned())
}

/// One digest of all that a model directory says: shape, weights, tokenizer.
///
/// # Errors
/// When a file of it cannot be read.
pub fn digest_of_model(dir: &Path) -> anyhow::Result<String> {
    let mut files = Vec::new();
    for entry in fs_err::read_dir(dir)? {
        let path = entry?.path();
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        // How fast it is decoded changes nothing of what is made with it.
        let tuned = path.file_name().is_some_and(|name| name == TUNED_FILE);
        if ["safetensors", "json", "jinja"].contains(&extension) && path.is_file() && !tuned {
            files.push(path);
        }
    }
    files.sort();
    let mut hasher = blake3::Hasher::new();
    for path in files {
        hasher.update(path.file_name().unwrap_or_default().as_encoded_bytes());
        hasher.update_reader(fs_err::File::open(&path)?)?;
    }
    Ok(hasher.finalize().to_hex()[..16].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_count_partial_batches_and_obey_max_steps() {
        let train = TrainConfig { epochs: 2, batch_size: 8, ..Default::default() };
        assert_eq!(steps(&train, 17), 6);
        assert_eq!(steps(&TrainConfig { max_steps: Some(5), ..train }, 17), 5);
    }

    #[test]
    fn sizes_read_well() {
        for (count, expected) in
            [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (999_950, "1.0 MB"), (7_240_000_000, "7.2 GB")]
        {
            assert_eq!(bytes(count), expected);
        }
    }

    #[test]
    fn a_task_digest_depends_on_all_that_a_task_says_but_where_its_questions_lie() {
        let good = "name = \"sums\"\nversion = 1\nfollows = \"mine\"\nmax_new_tokens = 9\nextractor = { pattern = \"a\" }\n\
                    scorer = \"text\"\n[prompts]\npath = \"a.jsonl\"\ntemplate = \"{{ q }}\"\nanswer_column = \"a\"\n";
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sums.toml");
        let digest = |from: &str, to: &str| {
            fs_err::write(&path, good.replace(from, to)).unwrap();
            digest_of_task(&jacobi_eval::tasks::find(path.to_str().unwrap()).unwrap()).unwrap()
        };
        let mut seen = std::collections::BTreeSet::from([digest("", "")]);
        let edits = [
            ("{{ q }}", "{{ q }}?"),
            ("pattern = \"a\"", "pattern = \"b\""),
            ("\"text\"", "\"number\""),
            ("= 9", "= 8"),
        ];
        for (from, to) in edits {
            assert!(seen.insert(digest(from, to)), "{to}");
        }
        assert!(!seen.insert(digest("a.jsonl", "b.jsonl")));
    }

    #[test]
    fn a_model_digest_depends_on_every_file_that_matters() {
        let dir = tempfile::tempdir().unwrap();
        let mut seen = std::collections::BTreeSet::new();
        for (name, text) in [("config.json", "1"), ("config.json", "2"), ("model.safetensors", "3")] {
            fs_err::write(dir.path().join(name), text).unwrap();
            assert!(seen.insert(digest_of_model(dir.path()).unwrap()));
        }
        fs_err::write(dir.path().join("README.md"), "words").unwrap();
        fs_err::write(dir.path().join(TUNED_FILE), "{}").unwrap();
        assert!(!seen.insert(digest_of_model(dir.path()).unwrap()));
    }
}
