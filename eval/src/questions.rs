//! Prompts with what the task expects of them.

use std::collections::HashMap;

use jacobi_datasets::{BadRow, Prompt, read_prompts};

use crate::EvalError;
use crate::tasks::Task;

/// A prompt and its right answer, normalised; `None` if the task does not score.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Question {
    pub(crate) prompt: Prompt,
    pub(crate) expected: Option<String>,
}

/// Reads the prompt file of a task. Malformed rows come back apart.
pub(crate) fn read(task: &Task) -> Result<(Vec<Question>, Vec<BadRow>), EvalError> {
    let config = &task.prompts;
    let (mut prompts, mut bad_rows) = (Vec::new(), Vec::new());
    let unread = |source| EvalError::Questions { task: task.name.clone(), source };
    for row in read_prompts(config).map_err(unread)? {
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
    distinguish(&mut prompts);
    Ok((with_answers(prompts, task)?, bad_rows))
}

/// Makes the second `a` an `a#2`: a question may stand in a file twice, and samples are known by its id, where an evaluation
/// is resumed and where answers are held against each other.
fn distinguish(prompts: &mut [Prompt]) {
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

/// Every prompt has tokens, and room for a response.
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
mod tests {
    use super::*;
    use crate::tasks::find;
    use jacobi_datasets::PromptsConfig;

    fn prompt(id: &str, answer: Option<&str>) -> Prompt {
        Prompt { id: id.to_owned(), messages: Vec::new(), answer: answer.map(str::to_owned), response: None }
    }

    #[test]
    fn answers_are_normalised_or_named() {
        let gsm8k = &find("gsm8k").unwrap();
        let questions = with_answers(vec![prompt("a", Some("#### 1,000"))], gsm8k).unwrap();
        assert_eq!(questions[0].expected.as_deref(), Some("1000"));

        let prompts = vec![prompt("a", Some("1")), prompt("b", None), prompt("c", None)];
        let message = with_answers(prompts, gsm8k).unwrap_err().to_string();
        assert!(message.contains("2 of 3 prompts have none, the first is b"), "{message}");

        let message = with_answers(vec![prompt("a", Some("many"))], gsm8k).unwrap_err().to_string();
        assert!(message.contains("prompt a: \"many\""), "{message}");
    }

    #[test]
    fn questions_of_one_id_are_told_apart() {
        let distinct = |ids: &[&str]| {
            let mut prompts: Vec<Prompt> = ids.iter().map(|id| prompt(id, None)).collect();
            distinguish(&mut prompts);
            prompts.into_iter().map(|prompt| prompt.id).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(distinct(&["a", "b", "a", "a", "b"]), "a b a#2 a#3 b#2");
        assert_eq!(distinct(&["a#2", "a", "a", "a#2"]), "a#2 a a#3 a#2#4");
    }

    #[test]
    fn a_task_that_does_not_score_needs_no_answer() {
        let prompts = vec![prompt("a", None), prompt("b", Some("many"))];
        let questions = with_answers(prompts, &find("none").unwrap()).unwrap();
        assert!(questions.iter().all(|question| question.expected.is_none()));
    }

    #[test]
    fn malformed_rows_are_apart_and_a_file_of_nothing_else_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.jsonl");
        let mut task = find("none").unwrap();
        task.prompts = PromptsConfig { path: path.clone(), ..PromptsConfig::default() };
        fs_err::write(&path, "{\"prompt\": \"hi\"}\n{oops\n{\"prompt\": \"hi\"}\n").unwrap();
        let (questions, bad) = read(&task).unwrap();
        assert_eq!((questions.len(), bad.len(), bad[0].line), (2, 1, 2));
        assert_ne!(questions[0].prompt.id, questions[1].prompt.id);

        (task.prompts.offset, task.prompts.limit) = (1, Some(1));
        let message = read(&task).unwrap_err().to_string();
        assert!(message.contains("no usable prompt") && message.contains("line 2"), "{message}");
    }
}
