//! Errors of evaluations and of tuning.

use std::path::PathBuf;

use jacobi_datasets::{BadRow, DatasetError};
use jacobi_decoder::DecoderError;
use jacobi_model::ModelError;

use crate::sandbox::SandboxError;

/// Why an evaluation could not run.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// No task of this name.
    #[error("unknown task \"{name}\"; the tasks are {known}")]
    UnknownTask {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: String,
    },
    /// The file of a task cannot be read; the cause names it.
    #[error("cannot read the task: give its TOML file, or the name of a built-in one")]
    TaskUnread(#[source] std::io::Error),
    /// The file of a task is malformed.
    #[error("{} is not a task: {reason}", path.display())]
    TaskFile {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A task without questions of its own was given none.
    #[error(
        "task \"{task}\" comes without questions: give --tasks {task}=FILE, or path in its [[eval.tasks]]"
    )]
    NoQuestions {
        /// The task.
        task: String,
    },
    /// Two tasks of one name: their rows would be indistinguishable.
    #[error("task \"{task}\" is listed twice: remove one, or give its file another name")]
    TaskTwice {
        /// The task.
        task: String,
    },
    /// A task without reference responses cannot be checked.
    #[error(
        "task \"{task}\" has no reference responses: set response_column or response_template in its [prompts]"
    )]
    NoReference {
        /// The task.
        task: String,
    },
    /// Generated programs cannot be run.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// Neither prompts nor tasks are given.
    #[error("there is nothing to evaluate on: set eval.prompts.path, add [[eval.tasks]], or give --tasks")]
    NoTasks,
    /// A decoder's settings, or the same decoder twice.
    #[error(transparent)]
    Decoder(#[from] DecoderError),
    /// No token to decode.
    #[error("eval.max_new_tokens is 0; it must be at least 1")]
    MaxNewTokens,
    /// No models were given.
    #[error("there is no model to evaluate; name at least one")]
    NoModels,
    /// The questions of a task cannot be read; the cause names the file, and settings by their names in `[prompts]`.
    #[error(
        "cannot read the questions of task \"{task}\" (prompt settings are in [eval.prompts], or in [prompts] of the task's file)"
    )]
    Questions {
        /// The task.
        task: String,
        /// The cause.
        #[source]
        source: DatasetError,
    },
    /// A file of questions for a built-in task that lacks one of its columns.
    #[error(
        "cannot read the questions of task \"{task}\": {} has no column `{column}`, which the task reads, but {}; rename one of them, or write a task file with your own [prompts]",
        path.display(), available.join(", ")
    )]
    TaskColumn {
        /// The task.
        task: String,
        /// The file of questions.
        path: PathBuf,
        /// The column.
        column: String,
        /// The columns of the file.
        available: Vec<String>,
    },
    /// Prompts or tokenizer; the cause names the file.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// A model could not be loaded.
    #[error("cannot load the model {name} for evaluation")]
    Model {
        /// Its name.
        name: String,
        /// The cause.
        #[source]
        source: ModelError,
    },
    /// Every row of the prompt file is malformed.
    #[error("{} has no usable prompt: {failed} rows are malformed; the first, {first}", path.display())]
    NoUsablePrompts {
        /// The prompt file.
        path: PathBuf,
        /// How many rows are malformed.
        failed: usize,
        /// The first of them.
        first: BadRow,
    },
    /// The task scores answers, and a prompt has no right answer.
    #[error(
        "task \"{task}\" scores answers, but {missing} of {prompts} prompts have none, the first is {sample_id}; \
         set eval.prompts.answer_column, or task = \"none\" to measure speed only"
    )]
    MissingAnswer {
        /// The task.
        task: String,
        /// Prompts without an answer.
        missing: usize,
        /// Prompts in all.
        prompts: usize,
        /// The first one.
        sample_id: String,
    },
    /// The task cannot parse a right answer.
    #[error(
        "task \"{task}\" cannot read the answer of prompt {sample_id}: {answer:?}; correct it in the prompt file"
    )]
    UnreadableAnswer {
        /// The task.
        task: String,
        /// The prompt.
        sample_id: String,
        /// The content of the answer column.
        answer: String,
    },
    /// A prompt leaves no room for a response.
    #[error(
        "prompt {sample_id} has {tokens} tokens and the model {model} a context of {context}: no room for a response; \
         leave it out with eval.prompts.offset and limit, or shorten it"
    )]
    PromptTooLong {
        /// The prompt.
        sample_id: String,
        /// Its length, chat template included.
        tokens: usize,
        /// The model.
        model: String,
        /// Longest sequence of the model.
        context: usize,
    },
    /// A model's `jacobi.json` cannot be used.
    #[error("{} is not usable: delete it, or run `jacobi tune` again", path.display())]
    Tuned {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The file of samples cannot be read or written.
    #[error("cannot keep samples in {}; free some space or give another --output, and run it again", path.display())]
    Journal {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A line of the file of samples is malformed.
    #[error("{}:{line}: not a sample of an evaluation; delete the line, or measure again with --overwrite", path.display())]
    JournalLine {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The cause.
        #[source]
        source: serde_json::Error,
    },
    /// A prompt is empty after the chat template.
    #[error("prompt {sample_id} has no tokens; remove it from the prompt file")]
    EmptyPrompt {
        /// The prompt.
        sample_id: String,
    },
}

impl EvalError {
    /// Whether the command line or the recipe has to be corrected.
    pub fn is_usage(&self) -> bool {
        use EvalError::{
            Decoder, MaxNewTokens, NoModels, NoQuestions, NoReference, NoTasks, TaskTwice, UnknownTask,
        };
        matches!(
            self,
            UnknownTask { .. }
                | NoQuestions { .. }
                | TaskTwice { .. }
                | NoReference { .. }
                | NoTasks
                | Decoder(_)
                | MaxNewTokens
                | NoModels
        )
    }
}
