//! Reads the questions of an evaluation, checks its models and encodes the questions for each, and loads one model at a time.

use std::fmt;
use std::path::PathBuf;
use std::slice::from_ref;

use jacobi_datasets::{BadRow, Tokenizer};
use jacobi_decoder::StopRules;
use jacobi_model::{Compute, Device, LoadedModel, StoredAdapter, load, outline, weight_hash};
use rayon::prelude::*;

use crate::questions::{self, Question};
use crate::tasks::Task;
use crate::{EvalConfig, EvalError, EvalModel};

/// A task with its questions.
pub(crate) struct QuestionSet {
    pub(crate) task: Task,
    pub(crate) questions: Vec<Question>,
}

impl QuestionSet {
    pub(crate) fn stop_rules(&self, eos_token_ids: &[u32]) -> StopRules {
        let max_new_tokens = self.task.max_new_tokens.expect("tasks that are measured have a limit");
        StopRules { max_new_tokens, eos_token_ids: eos_token_ids.to_vec() }
    }
}

/// Rows of a task's file that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// Name of the task.
    pub task: String,
    /// Rows read, according to `offset` and `limit`.
    pub rows: usize,
    /// The malformed ones; at least one.
    pub bad_rows: Vec<BadRow>,
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { task, rows, bad_rows } = self;
        write!(f, "{} of {rows} rows of task \"{task}\" could not be read", bad_rows.len())?;
        bad_rows.first().map_or(Ok(()), |bad| write!(f, "; the first, {bad}"))
    }
}

/// The questions of every task, and the malformed rows.
pub(crate) fn read_questions(config: &EvalConfig) -> Result<(Vec<QuestionSet>, Vec<LeftOut>), EvalError> {
    let (mut sets, mut left_out) = (Vec::new(), Vec::new());
    for task in config.measured()? {
        let (questions, bad_rows) = questions::read(&task)?;
        if !bad_rows.is_empty() {
            let rows = questions.len() + bad_rows.len();
            left_out.push(LeftOut { task: task.name.clone(), rows, bad_rows });
        }
        sets.push(QuestionSet { task, questions });
    }
    Ok((sets, left_out))
}

/// The token ids of a question, or why the model cannot answer it.
pub(crate) type Tokens = Result<Vec<u32>, String>;

/// A model that has been checked and not loaded, with its prompts.
pub(crate) struct PreparedModel {
    pub(crate) tokenizer: Tokenizer,
    /// By question set, then question.
    pub(crate) prompts: Vec<Vec<Tokens>>,
}

/// Checks a model and its adapter without reading the values of the weights, and encodes every question with its tokenizer
/// and chat template. It is an error if the model can answer no question of a set.
pub(crate) fn prepare_model(model: &EvalModel, sets: &[QuestionSet]) -> Result<PreparedModel, EvalError> {
    let tokenizer = Tokenizer::load(&model.dir)?;
    let error = |source| EvalError::Model { name: model.name.clone(), source };
    let architecture = outline(&model.dir).map_err(error)?.architecture;
    if let Some(dir) = &model.adapter {
        let attach = |stored: StoredAdapter| {
            stored.attach(&architecture, &weight_hash(&model.dir)?, Device::Cpu).map(drop)
        };
        StoredAdapter::read(dir).and_then(attach).map_err(error)?;
    }
    let context = architecture.context_length() as usize;
    let mut prompts = Vec::with_capacity(sets.len());
    for QuestionSet { task, questions } in sets {
        let tokenizer = tokenizer.with_prompts(&task.prompts)?;
        let encode = |question| encode(question, &tokenizer, &model.name, context);
        let encoded: Vec<Result<Vec<u32>, EvalError>> = questions.par_iter().map(encode).collect();
        prompts.push(if encoded.iter().any(Result::is_ok) {
            encoded.into_iter().map(|tokens| tokens.map_err(|error| error.to_string())).collect()
        } else {
            encoded.into_iter().collect::<Result<Vec<_>, _>>()?.into_iter().map(Ok).collect()
        });
    }
    Ok(PreparedModel { tokenizer, prompts })
}

/// The weights of one model at a time. They stay loaded for the next model if that has the same ones.
#[derive(Default)]
pub(crate) struct Weights(Option<(PathBuf, LoadedModel)>);

impl Weights {
    /// Loads the weights of `model`, after those of the model before are freed.
    pub(crate) fn load(&mut self, model: &EvalModel, compute: Compute) -> Result<&LoadedModel, EvalError> {
        let error = |source| EvalError::Model { name: model.name.clone(), source };
        let kept = self.0.take().filter(|(dir, _)| *dir == model.dir);
        let loaded = match kept {
            Some(kept) => kept,
            None => (model.dir.clone(), load(&model.dir, compute).map_err(error)?),
        };
        Ok(&self.0.insert(loaded).1)
    }
}

/// The token ids of a question for the model `name`, which leave room in its context for a response.
pub(crate) fn encode(
    question: &Question,
    tokenizer: &Tokenizer,
    name: &str,
    context: usize,
) -> Result<Vec<u32>, EvalError> {
    let tokens = tokenizer.encode_chat(&question.prompt)?;
    questions::check_room(from_ref(question), from_ref(&tokens), name, context)?;
    Ok(tokens)
}
