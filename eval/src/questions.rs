//! The questions of a task: prompts with their right answers.

use std::collections::HashMap;

use jacobi_datasets::{BadRow, DatasetError, Prompt, read_prompts};

use crate::EvalError;
use crate::tasks::Task;

/// A prompt and its right answer, normalised; `None` if the task does not score.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Question {
    pub(crate) prompt: Prompt,
    pub(crate) expected: Option<String>,
}

/// Reads the prompt file of a task: its questions, and the malformed rows.
pub(crate) fn read(task: &Task) -> Result<(Vec<Question>, Vec<BadRow>), EvalError> {
    let config = &task.prompts;
    let (mut prompts, mut bad_rows) = (Vec::new(), Vec::new());
    let unreadable = |source| match source {
        DatasetError::MissingColumn { path, column, available, .. } if task.is_built_in() => {
            EvalError::TaskColumn { task: task.name.clone(), path, column, available }
        }
        source => EvalError::Questions { task: task.name.clone(), source },
    };
    for row in read_prompts(config).map_err(unreadable)? {
        match row {
            Ok(prompt) => prompts.push(prompt),
            Err(bad) => bad_rows.push(bad),
        }
    }
    if let (true, Some(first)) = (prompts.is_empty(), bad_rows.first()) {
        return Err(EvalError::NoUsablePrompts {
            path: config.path.clone(),
            failed: bad_rows.len(),
            first: first.clone(),
        });
    }
    make_ids_unique(&mut prompts);
    Ok((with_answers(prompts, task)?, bad_rows))
}

/// Renames the second `a` to `a#2`: a file may contain a question twice, but samples are identified by the
/// question's id.
fn make_ids_unique(prompts: &mut [Prompt]) {
    let mut seen: HashMap<String, usize> = HashMap::new();
    for prompt in prompts {
        let id = prompt.id.clone();
        while let Some(times) = seen.get_mut(&prompt.id) {
            *times += 1;
            prompt.id = format!("{id}#{times}");
        }
        seen.insert(prompt.id.clone(), 1);
    }
}

/// Checks that every prompt has tokens, and leaves room for a response.
pub(crate) fn check_room(
    questions: &[Question],
    prompts: &[Vec<u32>],
    model: &str,
    context: usize,
) -> Result<(), EvalError> {
    for (question, prompt) in questions.iter().zip(prompts) {
        let sample_id = question.prompt.id.clone();
        if prompt.is_empty() {
            return Err(EvalError::EmptyPrompt { sample_id });
        }
        if prompt.len() >= context {
            let (tokens, model) = (prompt.len(), model.to_owned());
            return Err(EvalError::PromptTooLong { sample_id, tokens, model, context });
        }
    }
    Ok(())
}

fn with_answers(prompts: Vec<Prompt>, task: &Task) -> Result<Vec<Question>, EvalError> {
    let without: Vec<&Prompt> = prompts.iter().filter(|prompt| prompt.answer.is_none()).collect();
    if let (true, Some(first)) = (task.scores(), without.first()) {
        return Err(EvalError::MissingAnswer {
            task: task.name.clone(),
            missing: without.len(),
            prompts: prompts.len(),
            sample_id: first.id.clone(),
        });
    }
    prompts
        .into_iter()
        .map(|prompt| {
            let answer = prompt.answer.as_deref().filter(|_| task.scores());
            let expected = answer.map(|answer| {
                task.expected(answer).ok_or_else(|| EvalError::UnreadableAnswer {
                    task: task.name.clone(),
                    sample_id: prompt.id.clone(),
                    answer: answer.to_owned(),
                })
            });
            Ok(Question { expected: expected.transpose()?, prompt })
        })
        .collect()
}

#[cfg(test)]
mod tests;
