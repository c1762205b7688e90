//! Responses to verdicts: answers compared, programs run.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use jacobi_datasets::BadRow;

use crate::config::SandboxConfig;
use crate::questions::{self, Question};
use crate::sandbox::{Ended, Isolation, Sandbox};
use crate::tasks::{Scorer, Task, test_program};
use crate::{EvalError, TaskConfig};

/// What is to be said about a response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// The answer read from it.
    pub(crate) answer: Option<String>,
    /// Whether it is right; `None` if the task does not score or its program could not be run.
    pub(crate) correct: Option<bool>,
    /// Why a program did not pass.
    pub(crate) failure: Option<String>,
}

/// Judges the responses of all tasks of a run.
#[derive(Debug)]
pub(crate) struct Judge {
    sandbox: Option<Sandbox>,
    /// Decoders mostly give the same text: each program runs once.
    known: RefCell<HashMap<String, Verdict>>,
}

impl Judge {
    /// Opens a sandbox if one of the tasks needs it.
    pub(crate) fn open<'a>(
        mut tasks: impl Iterator<Item = &'a Task>,
        config: &SandboxConfig,
    ) -> Result<Self, EvalError> {
        let runs = tasks.any(|task| task.scorer == Scorer::Python);
        let sandbox = runs.then(|| Sandbox::open(config)).transpose()?;
        Ok(Self { sandbox, known: RefCell::default() })
    }

    /// What isolates programs, where a task has any.
    pub(crate) fn isolation(&self) -> Option<Isolation> {
        self.sandbox.as_ref().map(Sandbox::isolation)
    }

    pub(crate) fn verdict(&self, task: &Task, expected: Option<&String>, response: &str) -> Verdict {
        let answer = task.extract(response);
        let (Scorer::Python, Some(tests)) = (task.scorer, expected) else {
            let correct = expected.map(|expected| answer.as_ref() == Some(expected));
            return Verdict { answer, correct, failure: None };
        };
        let Some(code) = &answer else {
            let failure = Some("there is no code in it".to_owned());
            return Verdict { answer, correct: Some(false), failure };
        };
        let key = test_program(tests, code, "");
        if let Some(known) = self.known.borrow().get(&key) {
            return known.clone();
        }
        let verdict = Verdict { answer: answer.clone(), ..self.run(tests, code) };
        self.known.borrow_mut().insert(key, verdict.clone());
        verdict
    }

    /// A program has passed when it says so in a word it cannot know, so that an early exit is none.
    fn run(&self, tests: &str, code: &str) -> Verdict {
        let sandbox = self.sandbox.as_ref().expect("it is opened for tasks that run programs");
        let passed = format!("passed-{:016x}", RandomState::new().hash_one(code));
        let judged = |correct, failure| Verdict { answer: None, correct, failure };
        match sandbox.run(&test_program(tests, code, &passed)) {
            Ok(Ended::Well { output }) if output.lines().any(|line| line == passed) => {
                judged(Some(true), None)
            }
            Ok(Ended::Well { .. }) => judged(Some(false), Some("it ended before its tests did".to_owned())),
            Ok(Ended::Badly { why }) => judged(Some(false), Some(why)),
            Err(error) => judged(None, Some(error.to_string())),
        }
    }
}

/// What checking a task found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskCheck {
    /// Questions whose reference response was judged.
    pub judged: usize,
    /// Those judged right.
    pub right: usize,
    /// The others, by name, with the reason.
    pub wrong: Vec<(String, String)>,
    /// Malformed rows, left out.
    pub bad_rows: Vec<BadRow>,
    /// What isolated programs, if the task has any.
    pub isolation: Option<Isolation>,
}

/// Judges the reference responses of a task as if a model had given them: all should be right. `progress` hears how many
/// are done, of how many.
///
/// # Errors
/// The task or its questions are not usable, or there is no sandbox; [`EvalError::NoReference`].
pub fn check_task(
    config: &TaskConfig,
    sandbox: &SandboxConfig,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<TaskCheck, EvalError> {
    let task = config.task()?;
    let (questions, bad_rows) = questions::read(&task)?;
    let judge = Judge::open([&task].into_iter(), sandbox)?;
    let mut check =
        TaskCheck { judged: 0, right: 0, wrong: Vec::new(), bad_rows, isolation: judge.isolation() };
    for (done, Question { prompt, expected }) in questions.iter().enumerate() {
        if let Some(response) = prompt.response.as_ref().filter(|_| task.scores()) {
            let verdict = judge.verdict(&task, expected.as_ref(), response);
            check.judged += 1;
            if verdict.correct == Some(true) {
                check.right += 1;
            } else {
                let compared = || format!("{:?} is not {:?}", verdict.answer, expected);
                check.wrong.push((prompt.id.clone(), verdict.failure.clone().unwrap_or_else(compared)));
            }
        }
        progress(done + 1, questions.len());
    }
    if check.judged == 0 { Err(EvalError::NoReference { task: task.name }) } else { Ok(check) }
}
