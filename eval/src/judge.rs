//! Verdicts on responses, by comparing answers or running programs.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use jacobi_datasets::BadRow;

use crate::questions::{self, Question};
use crate::sandbox::{Isolation, ProgramEnd, Sandbox, SandboxConfig, SandboxError};
use crate::tasks::{Scorer, Task, test_program};
use crate::{EvalError, TaskConfig};

/// The verdict on a response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// The answer extracted from it.
    pub(crate) answer: Option<String>,
    /// Whether the answer is right; `None` if the task does not score.
    pub(crate) correct: Option<bool>,
    /// Why a program did not pass.
    pub(crate) failure: Option<String>,
}

/// Judges the responses to all tasks of a run.
#[derive(Debug)]
pub(crate) struct Judge {
    sandbox: Option<Sandbox>,
    /// Verdicts by program: decoders mostly give the same text, and each program runs once.
    cache: RefCell<HashMap<String, Verdict>>,
}

impl Judge {
    /// Opens a sandbox if one of the tasks needs it.
    pub(crate) fn open<'a>(
        mut tasks: impl Iterator<Item = &'a Task>,
        config: &SandboxConfig,
    ) -> Result<Self, EvalError> {
        let runs_programs = tasks.any(|task| task.scorer == Scorer::Python);
        let sandbox = runs_programs.then(|| Sandbox::open(config)).transpose()?;
        Ok(Self { sandbox, cache: RefCell::default() })
    }

    /// How programs are isolated, if a task has any.
    pub(crate) fn isolation(&self) -> Option<Isolation> {
        self.sandbox.as_ref().map(Sandbox::isolation)
    }

    /// The verdict on a response.
    ///
    /// # Errors
    /// [`SandboxError::Warden`]: the sandbox failed, so there is no verdict. A later call may succeed.
    pub(crate) fn verdict(
        &self,
        task: &Task,
        expected: Option<&String>,
        response: &str,
    ) -> Result<Verdict, SandboxError> {
        let answer = task.extract(response);
        let (Scorer::Python, Some(tests)) = (task.scorer, expected) else {
            let correct = expected.map(|expected| answer.as_ref() == Some(expected));
            return Ok(Verdict { answer, correct, failure: None });
        };
        let Some(code) = &answer else {
            let failure = Some("the response contains no code".to_owned());
            return Ok(Verdict { answer, correct: Some(false), failure });
        };
        let key = test_program(tests, code, "");
        if let Some(known) = self.cache.borrow().get(&key) {
            return Ok(known.clone());
        }
        let verdict = Verdict { answer: answer.clone(), ..self.run(tests, code)? };
        self.cache.borrow_mut().insert(key, verdict.clone());
        Ok(verdict)
    }

    /// A program that passes prints a random word at its end, so that exiting early does not pass. A program
    /// that searches its own source can still find the word.
    fn run(&self, tests: &str, code: &str) -> Result<Verdict, SandboxError> {
        let sandbox = self.sandbox.as_ref().expect("the sandbox is opened for tasks that run programs");
        let passed = format!("passed-{:016x}", RandomState::new().hash_one(code));
        let judged = |right, failure| Verdict { answer: None, correct: Some(right), failure };
        Ok(match sandbox.run(&test_program(tests, code, &passed))? {
            ProgramEnd::Success { output } if output.lines().any(|line| line == passed) => judged(true, None),
            ProgramEnd::Success { .. } => {
                judged(false, Some("it ended before its tests were complete".to_owned()))
            }
            ProgramEnd::Failure { why } => judged(false, Some(why)),
        })
    }
}

/// The result of checking a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskCheck {
    /// Questions whose reference response was judged.
    pub judged: usize,
    /// Those that are right.
    pub right: usize,
    /// The wrong ones, by id, with the reason.
    pub wrong: Vec<(String, String)>,
    /// Malformed rows, which are left out.
    pub bad_rows: Vec<BadRow>,
    /// How programs were isolated, if the task has any.
    pub isolation: Option<Isolation>,
}

/// Judges the reference responses of a task as if a model had given them: all should be right. `progress` gets
/// the number of questions done, and of all.
///
/// # Errors
/// A task, questions or sandbox that cannot be used; [`EvalError::NoReference`].
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
            check.judged += 1;
            let why = match judge.verdict(&task, expected.as_ref(), &response.text()) {
                Ok(Verdict { correct: Some(true), .. }) => None,
                Ok(Verdict { failure: Some(why), .. }) => Some(why),
                Ok(Verdict { answer, .. }) => Some(format!("{answer:?} is not {expected:?}")),
                Err(error) => Some(error.to_string()),
            };
            match why {
                None => check.right += 1,
                Some(why) => check.wrong.push((prompt.id.clone(), why)),
            }
        }
        progress(done + 1, questions.len());
    }
    if check.judged == 0 { Err(EvalError::NoReference { task: task.name }) } else { Ok(check) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::process::Command;

    use super::*;
    use crate::tasks::find;

    #[test]
    fn a_failed_sandbox_gives_no_verdict_and_is_tried_again() {
        let asked =
            Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output().unwrap();
        let real = String::from_utf8(asked.stdout).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let python = dir.path().join("python3");
        symlink(real.trim(), &python).unwrap();
        let config = SandboxConfig {
            python: python.clone(),
            allow_unsafe_execution: true,
            ..SandboxConfig::default()
        };
        let task = find("mbpp").unwrap();
        let judge = Judge::open([&task].into_iter(), &config).unwrap();
        let judged =
            || judge.verdict(&task, Some(&"@answer@\nassert f() == 1".to_owned()), "def f(): return 1");
        fs_err::remove_file(&python).unwrap();
        let message = judged().unwrap_err().to_string();
        assert!(message.contains("the sandbox failed"), "{message}");
        symlink(real.trim(), &python).unwrap();
        assert_eq!(judged().unwrap().correct, Some(true));
    }
}
