//! The task registry. A task says how an answer is read from a response and when it is right; it never sees
//! tokens or models. To add one: a file here, a line in [`TASKS`], and hand-scored cases in its tests.

pub mod gsm8k;
mod latex;
pub mod math500;
mod number;

use crate::error::EvalError;

/// A way to score a response.
pub trait Task: Sync {
    /// The name in `[eval] task` and in every row.
    fn name(&self) -> &'static str;
    /// Whether prompts must carry an answer. A task that needs none never scores.
    fn scores(&self) -> bool;
    /// The right answer, normalised, from the answer column. `None` if it cannot be read.
    fn expected(&self, answer: &str) -> Option<String>;
    /// The answer that a response gives, normalised so that equal answers are equal strings. `None` if it gives none.
    fn extract(&self, response: &str) -> Option<String>;
}

/// Every task.
pub const TASKS: [&dyn Task; 3] = [&SpeedOnly, &gsm8k::Gsm8k, &math500::Math500];

/// The task of this name.
///
/// # Errors
/// [`EvalError::UnknownTask`], which lists the names.
pub fn find(name: &str) -> Result<&'static dyn Task, EvalError> {
    TASKS.into_iter().find(|task| task.name() == name).ok_or_else(|| EvalError::UnknownTask {
        name: name.to_owned(),
        known: TASKS.map(|task| task.name()).join(", "),
    })
}

/// Speed and agreement with the autoregressive decoder, no accuracy.
struct SpeedOnly;

impl Task for SpeedOnly {
    fn name(&self) -> &'static str {
        "none"
    }

    fn scores(&self) -> bool {
        false
    }

    fn expected(&self, _answer: &str) -> Option<String> {
        None
    }

    fn extract(&self, _response: &str) -> Option<String> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_and_an_unknown_one_lists_them() {
        for task in TASKS {
            assert_eq!(find(task.name()).unwrap().name(), task.name());
        }
        let message = find("gsm9k").map(|task| task.name()).unwrap_err().to_string();
        assert!(message.contains("gsm9k") && message.contains("none, gsm8k"), "{message}");
    }
}
