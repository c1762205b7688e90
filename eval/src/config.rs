//! What to evaluate: prompts, task, decoders, models.

use std::path::PathBuf;

use jacobi_datasets::schema::eval_row::{EvalRow, ModelRole};
use jacobi_datasets::{PromptsConfig, Section};
use jacobi_decoder::{Settings, StopRules};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::decoders::settings_of;
use crate::tasks::{self, SPEED_ONLY, Task};
use crate::{DecoderConfig, DecoderName, EvalError, tuned};

/// The `[eval]` section of a recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EvalConfig {
    /// Your own held-out prompts, with the keys of `[prompts]`. A task that scores needs `answer_column` or
    /// `answer_template`.
    pub prompts: PromptsConfig,
    /// How answers to your own prompts are read and scored: the name of a task or its file, or `"none"` to
    /// measure speed alone.
    pub task: String,
    /// Most tokens of a response to your own prompts, EOS included.
    pub max_new_tokens: usize,
    /// `[[eval.tasks]]`: tasks with their own questions, wording and length, measured besides your own prompts
    /// or instead.
    pub tasks: Vec<TaskConfig>,
    /// `[eval.sandbox]`: where programs that a model wrote are run.
    pub sandbox: SandboxConfig,
    /// `[[eval.decoders]]`: the decoders to compare. The autoregressive one is always measured.
    pub decoders: Vec<DecoderConfig>,
    /// Whether a model with a `jacobi.json` beside it is also measured with the decoder in that file.
    pub tuned: bool,
    /// Prompts that every decoder decodes before the clock starts: the first ones of the file. They are not
    /// counted.
    pub warmup: usize,
    /// Prompts decoded once more at the end, untimed, to see how high the right token ranked where a draft was
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

/// `[eval.sandbox]`: where generated programs are run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SandboxConfig {
    /// The Python interpreter, 3.8 or later: a name or a path.
    pub python: PathBuf,
    /// Seconds that a program may take, both of wall-clock time and of one core.
    pub seconds: u64,
    /// Megabytes that a program may use, all its processes together.
    pub memory_mb: u64,
    /// Run programs with limits alone where nothing isolates them; the same as `--allow-unsafe-execution`.
    pub allow_unsafe_execution: bool,
}

impl Default for SandboxConfig {
    fn default() -> Self {
        Self { python: "python3".into(), seconds: 10, memory_mb: 1024, allow_unsafe_execution: false }
    }
}

/// One `[[eval.tasks]]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TaskConfig {
    /// The name of a built-in task, or a TOML file.
    pub name: String,
    /// File with its questions, with the columns of the published one. Default: where the task says.
    pub path: Option<PathBuf>,
    /// Number of questions to skip.
    pub offset: usize,
    /// Most questions to take, after `offset`. Without it, all.
    pub limit: Option<usize>,
    /// Most tokens of a response, EOS included. Default: what the task says.
    pub max_new_tokens: Option<usize>,
}

impl TaskConfig {
    /// `NAME` or `NAME=FILE`.
    pub fn chosen(text: &str) -> Self {
        let (name, path) =
            text.split_once('=').map_or((text, None), |(name, path)| (name, Some(path.into())));
        Self { name: name.to_owned(), path, ..Self::default() }
    }

    /// The task with what is said here in place of what it says itself.
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

/// A decoder ready to run, with what its rows call it.
#[derive(Clone, Debug)]
pub(crate) struct Contender {
    pub(crate) name: DecoderName,
    pub(crate) shown: Map<String, Value>,
    pub(crate) settings: Settings,
}

impl Contender {
    pub(crate) fn new(decoder: &DecoderConfig, seed: u64, stop: &StopRules) -> Result<Self, EvalError> {
        let settings = decoder.settings(seed, stop.clone())?;
        Ok(Self { name: decoder.name, shown: settings_of(&settings), settings })
    }
}

impl EvalConfig {
    /// What is measured: the prompts of one's own if there are any, then the tasks. Each has its `max_new_tokens`.
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

    /// Measures these tasks and nothing else. Each is `NAME` or `NAME=FILE`; what the configuration says about a task of
    /// this name holds.
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

    /// Compares these decoders with the autoregressive one and with no others: as often and with the settings as the
    /// configuration lists them, or once with their defaults.
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

    /// The decoders, autoregressive first.
    pub(crate) fn contenders(&self, seed: u64, stop: &StopRules) -> Result<Vec<Contender>, EvalError> {
        let others = self.decoders.iter().filter(|decoder| decoder.name != DecoderName::Ar);
        let listed = self.decoders.iter().find(|decoder| decoder.name == DecoderName::Ar);
        let first = listed.cloned().unwrap_or_default();
        let mut contenders: Vec<Contender> = Vec::new();
        for decoder in [&first].into_iter().chain(others) {
            let contender = Contender::new(decoder, seed, stop)?;
            if contenders.iter().any(|other| other.settings == contender.settings) {
                let reason =
                    format!("it is listed twice with the same settings {:?}; remove one", contender.shown);
                return Err(EvalError::Decoder { name: decoder.name.as_str(), reason });
            }
            contenders.push(contender);
        }
        Ok(contenders)
    }

    /// The decoders of one model: those listed, and what was tuned for it unless it is among them.
    pub(crate) fn contenders_of(
        &self,
        model: &EvalModel,
        seed: u64,
        stop: &StopRules,
    ) -> Result<Vec<Contender>, EvalError> {
        let mut contenders = self.contenders(seed, stop)?;
        if self.tuned
            && let Some(decoder) = tuned(&model.dir)?
        {
            let contender = Contender::new(&decoder, seed, stop)?;
            if contenders.iter().all(|other| other.settings != contender.settings) {
                contenders.push(contender);
            }
        }
        Ok(contenders)
    }

    /// Decoders of `models` that none of `rows` is of: such as one that was tuned after they were measured.
    ///
    /// # Errors
    /// `Decoder`, and those of reading what was tuned.
    pub fn unmeasured(&self, models: &[EvalModel], rows: &[EvalRow]) -> Result<Vec<String>, EvalError> {
        let stop = StopRules { max_new_tokens: self.max_new_tokens.max(1), eos_token_ids: Vec::new() };
        let mut unmeasured = Vec::new();
        for model in models {
            for Contender { name, shown, .. } in self.contenders_of(model, 0, &stop)? {
                let (decoder, decoder_settings) = (name.as_str().to_owned(), shown);
                let row = EvalRow { decoder, decoder_settings, ..EvalRow::default() };
                if !rows.iter().any(|other| other.model == model.name && other.is_decoded_as(&row)) {
                    unmeasured.push(format!("{} of {}", row.decoder_label(), model.name));
                }
            }
        }
        Ok(unmeasured)
    }
}

/// A model to evaluate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvalModel {
    /// What rows call it.
    pub name: String,
    /// Before or after training.
    pub role: ModelRole,
    /// A local Hugging Face directory.
    pub dir: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;

    type Listed<'a> = &'a [(DecoderName, Option<usize>)];

    fn stop() -> StopRules {
        StopRules { max_new_tokens: 9, eos_token_ids: vec![2] }
    }

    fn config(decoders: Listed) -> EvalConfig {
        let decoder = |&(name, block_size)| DecoderConfig { name, block_size, ..DecoderConfig::default() };
        let decoders = decoders.iter().map(decoder).collect();
        EvalConfig { decoders, ..EvalConfig::default() }
    }

    #[test]
    fn strictness_makes_another_contender() {
        let mut config = config(&[(DecoderName::Jacobi, None), (DecoderName::Jacobi, None)]);
        config.decoders[1].strict_gap = Some(0.5);
        let contenders = config.contenders(7, &stop()).unwrap();
        let gaps: Vec<Option<f32>> = contenders.iter().map(|c| c.settings.strict_gap).collect();
        assert_eq!(gaps, [None, None, Some(0.5)]);
        assert!(contenders.iter().all(|c| c.settings.stop.eos_token_ids == [2]));
    }

    #[test]
    fn autoregressive_is_always_there_and_first() {
        use DecoderName::{Ar, Jacobi};
        let rows: [(Listed, &[&str]); 4] = [
            (&[], &["ar {}"]),
            (&[(Ar, None)], &["ar {}"]),
            (&[(Jacobi, None)], &["ar {}", "jacobi {\"block_size\":16}"]),
            (
                &[(Jacobi, Some(4)), (Ar, None), (Jacobi, Some(8))],
                &["ar {}", "jacobi {\"block_size\":4}", "jacobi {\"block_size\":8}"],
            ),
        ];
        for (decoders, expected) in rows {
            let contenders = config(decoders).contenders(7, &stop()).unwrap();
            let names: Vec<String> = contenders
                .iter()
                .map(|c| format!("{} {}", c.name.as_str(), Value::Object(c.shown.clone())))
                .collect();
            assert_eq!(names, expected);
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        use DecoderName::{Ar, Jacobi};
        let rows: [(Listed, &str); 2] =
            [(&[(Ar, Some(4))], "no block_size"), (&[(Jacobi, Some(16)), (Jacobi, None)], "twice")];
        for (decoders, expected) in rows {
            let message = config(decoders).contenders(7, &stop()).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn prompts_of_ones_own_and_tasks_are_measured_one_after_the_other() {
        let task = |name: &str| TaskConfig { name: name.to_owned(), ..TaskConfig::default() };
        let mut config = EvalConfig { task: "gsm8k".to_owned(), ..EvalConfig::default() };
        assert!(matches!(config.measured(), Err(EvalError::NoTasks)));
        config.tasks = vec![task("math500"), TaskConfig { limit: Some(3), ..task("gsm8k") }];
        let names = |config: &EvalConfig| -> Vec<(String, Option<u32>, Option<usize>)> {
            let measured = config.measured().unwrap().into_iter();
            measured.map(|task| (task.name, task.version, task.max_new_tokens)).collect()
        };
        let (math, school) = (("math500".into(), Some(2), Some(2048)), ("gsm8k".into(), Some(2), Some(512)));
        assert_eq!(names(&config), [math.clone(), school]);
        assert_eq!(config.measured().unwrap()[1].prompts.limit, Some(3));
        config.prompts.path = "own.jsonl".into();
        assert!(config.measured().unwrap_err().to_string().contains("\"gsm8k\" is listed twice"));
        config.tasks[1] = TaskConfig {
            path: Some("q.jsonl".into()),
            offset: 2,
            max_new_tokens: Some(7),
            ..task("spec_bench")
        };
        let spec = ("spec_bench".into(), Some(1), Some(7));
        assert_eq!(names(&config), [("gsm8k".into(), None, Some(256)), math, spec]);
        let prompts = &config.measured().unwrap()[2].prompts;
        assert_eq!((prompts.path.as_path(), prompts.offset), (std::path::Path::new("q.jsonl"), 2));
        config.tasks[1].path = None;
        assert!(config.measured().unwrap_err().to_string().contains("--tasks spec_bench=FILE"));
        config.tasks.pop();
        config.max_new_tokens = 0;
        assert!(matches!(config.measured(), Err(EvalError::MaxNewTokens)));
    }

    #[test]
    fn what_is_chosen_is_measured_as_it_is_configured() {
        use DecoderName::{Jacobi, MultiBlock};
        let mut config = config(&[(Jacobi, Some(4)), (Jacobi, Some(8))]);
        config.prompts.path = "own.jsonl".into();
        config.tasks = vec![TaskConfig { name: "gsm8k".to_owned(), limit: Some(3), ..TaskConfig::default() }];
        config.choose_tasks(&["math500=m.jsonl".to_owned(), "gsm8k".to_owned()]);
        let measured = config.measured().unwrap();
        let shown = |task: &Task| (task.name.clone(), task.prompts.limit, task.prompts.path.is_file());
        assert_eq!(
            measured.iter().map(shown).collect::<Vec<_>>(),
            [("math500".to_owned(), None, false), ("gsm8k".to_owned(), Some(3), false)]
        );
        assert_eq!(measured[0].prompts.path, PathBuf::from("m.jsonl"));
        config.choose_decoders(&[MultiBlock, Jacobi]);
        let decoders: Vec<_> = config.decoders.iter().map(|d| (d.name, d.block_size)).collect();
        assert_eq!(decoders, [(MultiBlock, None), (Jacobi, Some(4)), (Jacobi, Some(8))]);
    }

    #[test]
    fn unknown_keys_are_errors() {
        let read = |text: &str| serde_json::from_str::<EvalConfig>(text).map_err(|err| err.to_string());
        let config = read(r#"{"decoders": [{"name": "jacobi", "block_size": 32}]}"#).unwrap();
        assert_eq!(config.decoders[0].block_size, Some(32));
        assert!(read(r#"{"max_tokens": 1}"#).unwrap_err().contains("max_tokens"));
        assert!(read(r#"{"decoders": [{"n": 1}]}"#).unwrap_err().contains("`n`"));
    }
}
