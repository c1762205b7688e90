//! Tasks: what is asked, how an answer is read from a response, and when it is right. A task is data, a TOML file with
//! a version: the built-in ones lie in `built_in/`, one's own anywhere. It never sees tokens or models.
//!
//! To add one: a file there, a line in `BUILT_IN`, and hand-scored cases in the tests of its extractor.

use std::path::Path;

use jacobi_datasets::PromptsConfig;
use serde::Deserialize;

use crate::error::EvalError;

mod gsm8k;
mod latex;
mod math500;
mod number;

/// The task that scores nothing.
pub const SPEED_ONLY: &str = "none";

const BUILT_IN: [(&str, &str); 5] = [
    (SPEED_ONLY, include_str!("built_in/none.toml")),
    ("gsm8k", include_str!("built_in/gsm8k.toml")),
    ("math500", include_str!("built_in/math500.toml")),
    ("mt_bench", include_str!("built_in/mt_bench.toml")),
    ("spec_bench", include_str!("built_in/spec_bench.toml")),
];

/// What is asked and how it is scored.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// What rows call it.
    pub name: String,
    /// Raised whenever data, wording, extraction or scoring change a figure. `None` where the prompts are a recipe's own.
    pub version: Option<u32>,
    /// Whose settings these are.
    pub follows: String,
    /// Longest response, EOS included.
    pub max_new_tokens: Option<usize>,
    /// Where the questions are, how they are worded, and the right answers.
    #[serde(default)]
    pub prompts: PromptsConfig,
    /// How an answer is read from a response.
    pub extractor: Extractor,
    /// When it is right.
    pub scorer: Scorer,
}

/// How an answer is read from a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Extractor {
    /// Not at all.
    None,
    /// The number that it says most plainly is its answer.
    Number,
    /// The last `\boxed{..}`, else what follows the last "answer is".
    Boxed,
}

/// When an answer is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scorer {
    /// Never said: for speed alone.
    None,
    /// The same exact number.
    Number,
    /// The same in the normal form of competition mathematics.
    Math,
}

impl Task {
    /// Whether prompts must carry an answer. A task that needs none never scores.
    pub fn scores(&self) -> bool {
        self.scorer != Scorer::None
    }

    /// The right answer, normalised, from what the prompt file gives. `None` if it cannot be read.
    pub fn expected(&self, answer: &str) -> Option<String> {
        match self.scorer {
            Scorer::None => None,
            Scorer::Number => gsm8k::gold(answer),
            Scorer::Math => math500::gold(answer),
        }
    }

    /// The answer that a response gives, normalised so that equal answers are equal strings. `None` if it gives none.
    pub fn extract(&self, response: &str) -> Option<String> {
        let answer = match self.extractor {
            Extractor::None => None,
            Extractor::Number => gsm8k::extract(response),
            Extractor::Boxed => math500::extract(response),
        }?;
        match self.scorer {
            Scorer::None => Some(answer),
            Scorer::Number => gsm8k::gold(&answer),
            Scorer::Math => math500::normal(&answer),
        }
    }
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
    Ok(task)
}

#[cfg(test)]
mod tests;
