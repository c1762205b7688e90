//! Tasks: the questions, how an answer is extracted from a response, and when it is right. A task is data, a
//! TOML file with a version; the built-in ones are in `built_in/`. No tokens or models here.
//!
//! To add a task: a file in `built_in/`, a line in `BUILT_IN`, and hand-scored cases in the tests of its extractor.

use std::path::Path;

use jacobi_datasets::PromptsConfig;
use regex::Regex;
use serde::{Deserialize, Serialize};

use crate::error::EvalError;

mod code;
mod gsm8k;
mod latex;
mod math500;
mod number;

/// The task that scores nothing.
pub const SPEED_ONLY: &str = "none";

const BUILT_IN: [(&str, &str); 7] = [
    (SPEED_ONLY, include_str!("built_in/none.toml")),
    ("gsm8k", include_str!("built_in/gsm8k.toml")),
    ("math500", include_str!("built_in/math500.toml")),
    ("humaneval", include_str!("built_in/humaneval.toml")),
    ("mbpp", include_str!("built_in/mbpp.toml")),
    ("mt_bench", include_str!("built_in/mt_bench.toml")),
    ("spec_bench", include_str!("built_in/spec_bench.toml")),
];

/// Questions, and how answers to them are scored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// Its name in results.
    pub name: String,
    /// Raised whenever data, wording, extraction or scoring change a figure. `None` for a recipe's own prompts.
    pub version: Option<u32>,
    /// The publication or harness whose settings these are.
    pub follows: String,
    /// Longest response, including EOS.
    pub max_new_tokens: Option<usize>,
    /// The file of questions, their wording, and the right answers.
    #[serde(default)]
    pub prompts: PromptsConfig,
    /// How an answer is extracted from a response.
    pub extractor: Extractor,
    /// When the answer is right.
    pub scorer: Scorer,
}

/// How an answer is extracted from a response.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Extractor {
    /// No answer is extracted.
    None,
    /// The number that the response most clearly gives as its answer.
    Number,
    /// The last `\boxed{..}`, else the text after the last "answer is".
    Boxed,
    /// The Python code in it.
    Code,
    /// The last match of a regular expression: its first group, or all of it.
    Pattern(String),
    /// The whole response.
    Whole,
}

/// When an answer is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scorer {
    /// Answers are not scored: only speed is measured.
    None,
    /// The same exact number.
    Number,
    /// The same expression in the normal form for competition mathematics.
    Math,
    /// The same text, ignoring case and spaces.
    Text,
    /// The test program with the answer in place of `@answer@` runs to its end.
    Python,
}

impl Task {
    /// Whether answers are scored, so that every prompt needs a right answer.
    pub fn scores(&self) -> bool {
        self.scorer != Scorer::None
    }

    /// Whether it is a built-in task, with the wording of that.
    pub(crate) fn is_built_in(&self) -> bool {
        let known =
            BUILT_IN.iter().find(|(name, _)| *name == self.name).and_then(|(name, _)| find(name).ok());
        known.is_some_and(|known| known.version == self.version && known.follows == self.follows)
    }

    /// The right answer, normalised, from the text of the answer column. `None` if it cannot be read.
    pub fn expected(&self, answer: &str) -> Option<String> {
        match self.scorer {
            Scorer::None => None,
            Scorer::Number => gsm8k::gold(answer),
            Scorer::Math => math500::gold(answer),
            Scorer::Text => Some(normal_text(answer)),
            Scorer::Python => answer.contains(code::PLACEHOLDER).then(|| answer.to_owned()),
        }
    }

    /// The answer in a response, normalised so that equal answers are equal strings. `None` if there is none.
    pub fn extract(&self, response: &str) -> Option<String> {
        let answer = match &self.extractor {
            Extractor::None => None,
            Extractor::Number => gsm8k::extract(response),
            Extractor::Boxed => math500::extract(response),
            Extractor::Code => code::extract(response),
            Extractor::Pattern(pattern) => last_match(pattern, response),
            Extractor::Whole => Some(response.to_owned()),
        }?;
        match self.scorer {
            Scorer::None | Scorer::Python => Some(answer),
            Scorer::Text => Some(normal_text(&answer)),
            Scorer::Number => gsm8k::gold(&answer),
            Scorer::Math => math500::normal(&answer),
        }
    }
}

/// The program that runs `tests` on `code`, and prints `passed` at its end.
pub(crate) fn test_program(tests: &str, code: &str, passed: &str) -> String {
    code::program(tests, code, passed)
}

fn normal_text(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase()
}

fn last_match(pattern: &str, response: &str) -> Option<String> {
    let regex = Regex::new(pattern).expect("a task's pattern is checked when it is read");
    let captures = regex.captures_iter(response).last()?;
    let found = captures.get(1).or_else(|| captures.get(0))?;
    Some(found.as_str().to_owned())
}

/// The task of this name, or in this TOML file.
///
/// # Errors
/// [`EvalError::UnknownTask`], which lists the names; [`EvalError::TaskFile`], [`EvalError::TaskUnread`].
pub fn find(name: &str) -> Result<Task, EvalError> {
    if is_file(name) {
        let path = Path::new(name);
        let text = fs_err::read_to_string(path).map_err(EvalError::TaskUnread)?;
        return parse(path, &text);
    }
    match BUILT_IN.iter().find(|(known, _)| *known == name) {
        Some((_, text)) => parse(Path::new(name), text),
        None => Err(EvalError::UnknownTask { name: name.to_owned(), known: names().join(", ") }),
    }
}

/// The names of the built-in tasks.
pub fn names() -> Vec<&'static str> {
    BUILT_IN.iter().map(|(name, _)| *name).collect()
}

/// Whether `name` is the path of a task's file.
pub fn is_file(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|extension| extension == "toml")
}

fn parse(path: &Path, text: &str) -> Result<Task, EvalError> {
    let bad = |reason: String| EvalError::TaskFile { path: path.to_owned(), reason };
    let task: Task = toml::from_str(text).map_err(|error| bad(error.to_string()))?;
    if task.version.is_none() {
        return Err(
            bad("it has no version: add version = 1, and raise it whenever you change it".to_owned()),
        );
    }
    if let Extractor::Pattern(pattern) = &task.extractor {
        Regex::new(pattern).map_err(|error| bad(error.to_string()))?;
    }
    Ok(task)
}

#[cfg(test)]
mod tests;
