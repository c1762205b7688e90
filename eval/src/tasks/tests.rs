//! The registry and files of one's own.

use super::*;

#[test]
fn names_are_found_and_an_unknown_one_lists_them() {
    for name in names() {
        let task = find(name).unwrap();
        assert_eq!(
            (task.name.as_str(), task.version.is_some(), task.follows.is_empty()),
            (name, true, false)
        );
        assert_eq!(task.scores(), task.extractor != Extractor::None, "{name}");
        let answers = task.prompts.answer_column.is_some() || task.prompts.answer_template.is_some();
        assert_eq!(task.scores(), answers, "{name}");
    }
    let message = find("gsm9k").unwrap_err().to_string();
    assert!(message.contains("gsm9k") && message.contains("none, gsm8k"), "{message}");
}

#[test]
fn a_file_of_ones_own_is_a_task_and_a_bad_one_says_where() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sums.toml");
    let good = "name = \"sums\"\nversion = 3\nfollows = \"mine\"\nextractor = \"number\"\nscorer = \"number\"\n\
                [prompts]\npath = \"sums.jsonl\"\ntemplate = \"{{ a }} + {{ b }}\"\nanswer_template = \"{{ a + b }}\"\n";
    let find_text = |text: &str| {
        fs_err::write(&path, text).unwrap();
        find(path.to_str().unwrap()).map_err(|error| error.to_string())
    };
    let task = find_text(good).unwrap();
    assert_eq!((task.name.as_str(), task.version, task.max_new_tokens), ("sums", Some(3), None));
    assert_eq!((task.expected("7"), task.extract("so it is 7.0")), (Some("7".into()), Some("7".into())));
    let rows = [
        (good.replace("version = 3\n", ""), "version"),
        (good.replace("\"number\"", "\"nmber\""), "nmber"),
        (good.replace("template", "tmplate"), "tmplate"),
        (good.replace("follows", "follow"), "follow"),
    ];
    for (text, part) in rows {
        let message = find_text(&text).unwrap_err();
        assert!(message.contains("sums.toml") && message.contains(part), "{message}");
    }
    let message = find("nowhere/x.toml").unwrap_err();
    assert!(format!("{:#}", with_causes(&message)).contains("nowhere/x.toml"));
}

/// An error with its causes, as the command line prints it.
fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[test]
fn extractors_and_scorers_of_ones_own_tasks() {
    let task = |extractor, scorer| Task { extractor, scorer, ..find("gsm8k").unwrap() };
    let letter = || Extractor::Pattern(r"(?i)answer is \(?([A-D])\b".to_owned());
    let rows = [
        (letter(), Scorer::Text, "B", "The answer is (B).", true),
        (letter(), Scorer::Text, "b", "The answer is A. No, the answer is B", true),
        (letter(), Scorer::Text, "B", "The answer is Be", false),
        (letter(), Scorer::Text, "B", "B", false),
        (Extractor::Pattern("[0-9]+".to_owned()), Scorer::Number, "12", "7 or 12", true),
        (Extractor::Whole, Scorer::Text, "New  York", " new york\n", true),
        (Extractor::Whole, Scorer::Text, "New York", "New York.", false),
        (Extractor::Whole, Scorer::Math, "\\frac12", "0.5", true),
        (Extractor::Number, Scorer::Number, "1/2", "so it is 0.50", true),
    ];
    for (extractor, scorer, gold, response, right) in rows {
        let task = task(extractor, scorer);
        let found = task.extract(response);
        assert_eq!(task.expected(gold) == found, right, "{gold:?} {response:?}: {found:?}");
    }
    let program = task(Extractor::Code, Scorer::Python);
    assert_eq!(
        program.expected("assert f() == 1"),
        None,
        "without a place for the code nothing can be judged"
    );
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bad.toml");
    let text = "name = \"bad\"\nversion = 1\nfollows = \"mine\"\nextractor = { pattern = \"(\" }\nscorer = \"text\"\n";
    fs_err::write(&path, text).unwrap();
    let message = find(path.to_str().unwrap()).unwrap_err().to_string();
    assert!(message.contains("bad.toml") && message.contains("unclosed group"), "{message}");
}
