//! Prompt files and their answers.

use super::*;
use crate::tasks::find;
use jacobi_datasets::PromptsConfig;

fn prompt(id: &str, answer: Option<&str>) -> Prompt {
    Prompt {
        id: id.to_owned(),
        messages: Vec::new(),
        tools: None,
        answer: answer.map(str::to_owned),
        response: None,
    }
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
fn a_file_without_a_column_of_a_built_in_task_is_refused_with_both_names() {
    let dir = tempfile::tempdir().unwrap();
    let mut task = find("gsm8k").unwrap();
    task.prompts.path = dir.path().join("p.jsonl");
    fs_err::write(&task.prompts.path, "{\"q\": \"hi\", \"answer\": 1}\n").unwrap();
    let message = read(&task).unwrap_err().to_string();
    let expected = "p.jsonl has no column `question`, which the task reads, but q, answer;";
    assert!(message.contains(expected), "{message}");
    task.follows = "a file".to_owned();
    assert!(matches!(read(&task).unwrap_err(), EvalError::Questions { .. }));
}

#[test]
fn questions_with_the_same_id_get_unique_ids() {
    let distinct = |ids: &[&str]| {
        let mut prompts: Vec<Prompt> = ids.iter().map(|id| prompt(id, None)).collect();
        make_ids_unique(&mut prompts);
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
fn malformed_rows_are_reported_and_a_file_without_valid_rows_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("p.jsonl");
    let mut task = find("none").unwrap();
    task.prompts = PromptsConfig { path: path.clone(), ..PromptsConfig::default() };
    fs_err::write(&path, "{\"prompt\": \"hi\"}\n{oops\n{\"prompt\": \"hi\"}\n").unwrap();
    let (questions, bad) = read(&task).unwrap();
    assert_eq!((questions.len(), bad.len(), bad[0].at.number()), (2, 1, 2));
    assert_ne!(questions[0].prompt.id, questions[1].prompt.id);

    (task.prompts.offset, task.prompts.limit) = (1, Some(1));
    let message = read(&task).unwrap_err().to_string();
    assert!(message.contains("no usable prompt") && message.contains("line 2"), "{message}");
}
