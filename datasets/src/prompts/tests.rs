//! Prompt files of every format, good and bad.

use std::path::Path;
use std::sync::Arc;

use arrow_array::builder::{ListBuilder, StringBuilder, StructBuilder};
use arrow_array::{ArrayRef, Int64Array, LargeStringArray, RecordBatch, StringArray};
use arrow_schema::{DataType, Field};
use parquet::arrow::ArrowWriter;
use tempfile::TempDir;

use super::*;

/// A file `name` with these bytes, and the default configuration that reads it.
fn file(name: &str, bytes: &[u8]) -> (TempDir, PromptsConfig) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    fs_err::write(&path, bytes).unwrap();
    (dir, PromptsConfig { path, ..Default::default() })
}

fn read(name: &str, bytes: &[u8], change: impl FnOnce(&mut PromptsConfig)) -> Vec<Result<Prompt, BadRow>> {
    let (_dir, mut config) = file(name, bytes);
    change(&mut config);
    read_prompts(&config).unwrap()
}

fn error(name: &str, bytes: &[u8], change: impl FnOnce(&mut PromptsConfig)) -> String {
    let (_dir, mut config) = file(name, bytes);
    change(&mut config);
    read_prompts(&config).unwrap_err().to_string()
}

/// What the user says last in each row, or `line: reason`.
fn summary(rows: &[Result<Prompt, BadRow>]) -> Vec<String> {
    let of = |row: &Result<Prompt, BadRow>| match row {
        Ok(prompt) => prompt.messages.last().unwrap().text(),
        Err(bad) => match &bad.file {
            Some(file) => format!("{file} {}: {}", bad.at.number(), bad.reason),
            None => format!("{}: {}", bad.at.number(), bad.reason),
        },
    };
    rows.iter().map(of).collect()
}

#[test]
fn bad_lines_are_reported_by_number_and_skipped() {
    let bytes =
        b"\xef\xbb\xbf{\"prompt\": \"one\"}\r\n\n{\"prompt\": \"t\xffo\"}\n{\"prompt\": \n[1]\n{\"x\": 1}\n\
        {\"prompt\": null}\n{\"prompt\": [\"a\"]}\n{\"prompt\": \" \"}\n{\"prompt\": \"last \xc3\xa9\"}";
    let rows = summary(&read("a.jsonl", bytes, |_| ()));
    let expected = [
        "one",
        "3: invalid UTF-8: ",
        "4: malformed JSON: in `prompt`, EOF",
        "5: not a JSON object",
        "6: no column `prompt`, only x",
        "7: `prompt` is null",
        "8: `prompt` is a list, not text",
        "9: the prompt is empty",
        "last é",
    ];
    assert_eq!(rows.len(), expected.len(), "{rows:?}");
    for (row, expected) in rows.iter().zip(expected) {
        assert!(row.starts_with(expected), "{row:?} is not {expected:?}");
    }
}

#[test]
fn formats_follow_the_extension_and_the_first_character() {
    let (lines, array) = (
        &b"{\"prompt\": \"a\"}\n{\"prompt\": \"b\"}\n"[..],
        &b" [{\"prompt\": \"a\"}, {\"prompt\": \"b\"}]"[..],
    );
    for (name, bytes, format) in [
        ("x.jsonl", lines, PromptFormat::Auto),
        ("x.NDJSON", lines, PromptFormat::Auto),
        ("x.json", lines, PromptFormat::Auto),
        ("x.json", array, PromptFormat::Auto),
        ("x.txt", lines, PromptFormat::Jsonl),
        ("x", array, PromptFormat::Json),
        ("x.json", lines, PromptFormat::Json),
        ("x.jsonl", array, PromptFormat::Auto),
    ] {
        let rows = read(name, bytes, |config| config.format = format);
        assert_eq!(summary(&rows), ["a", "b"], "{name}");
    }
    assert!(error("x.txt", lines, |_| ()).contains("set prompts.format"));
}

#[test]
fn an_array_keeps_its_bad_rows() {
    let rows = read("x.json", br#"[{"prompt": "a"}, 3, {"prompt": "b"}]"#, |_| ());
    assert_eq!(summary(&rows), ["a", "2: not a JSON object", "b"]);
    assert_eq!(rows[1].as_ref().unwrap_err().place(), "row 2");
}

#[test]
fn columns_are_mapped() {
    let line = br#"{"question": "2+2?", "answer": 4, "uid": "q-1", "solution": "four"}"#;
    let rows = read("x.jsonl", line, |config| {
        config.prompt_column = "question".to_owned();
        config.answer_column = Some("answer".to_owned());
        config.id_column = Some("uid".to_owned());
        config.response_column = Some("solution".to_owned());
        config.system = Some("Be brief.".to_owned());
    });
    let expected = Prompt {
        id: "q-1".to_owned(),
        messages: vec![Message::new("system", "Be brief."), Message::new("user", "2+2?")],
        tools: None,
        answer: Some("4".to_owned()),
        response: Some(Message::new("assistant", "four")),
    };
    assert_eq!(rows, [Ok(expected)]);
}

#[test]
fn both_forms_of_conversation_are_read() {
    let lines = br#"{"m": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]}
{"m": [{"from": "human", "value": "u"}, {"from": "gpt", "value": "a"}]}
{"m": [{"from": "system", "value": "s"}, {"from": "human", "value": "u"}, {"from": "gpt", "value": "a"}, {"from": "human", "value": "v"}]}
{"m": "text"}
{"m": [{"role": "user", "content": "u"}, {"role": "user"}]}
{"m": [{"from": "gpt", "value": "alone"}]}
{"m": []}
"#;
    let rows = read("x.jsonl", lines, |config| {
        config.messages_column = Some("m".to_owned());
        config.system = Some("default".to_owned());
    });
    let roles = |row: &Result<Prompt, BadRow>| match row {
        Ok(prompt) => {
            let turns: Vec<String> =
                prompt.messages.iter().map(|m| format!("{}={}", m.role(), m.text())).collect();
            format!("{} -> {:?}", turns.join(" "), prompt.response.as_ref().map(Message::text))
        }
        Err(bad) => format!("{}: {}", bad.at.number(), bad.reason),
    };
    let expected = [
        "system=s user=u -> None",
        "system=default user=u -> Some(\"a\")",
        "system=s user=u assistant=a user=v -> None",
        "4: `m` is text, but not JSON: expected ident at line 1 column 2",
        "5: `m`, message 2: it has no content: only role",
        "6: the prompt is empty",
        "7: the prompt is empty",
    ];
    assert_eq!(rows.iter().map(roles).collect::<Vec<_>>(), expected);
}

#[test]
fn without_an_id_column_the_id_is_a_digest_of_the_messages() {
    let ids = |system: Option<&str>| -> Vec<String> {
        let lines = b"{\"prompt\": \"a\"}\n{\"prompt\": \"b\"}\n{\"prompt\": \"a\", \"x\": 1}";
        let rows = read("x.jsonl", lines, |config| config.system = system.map(str::to_owned));
        rows.into_iter().map(|row| row.unwrap().id).collect()
    };
    let plain = ids(None);
    assert!(plain.iter().all(|id| id.len() == 16 && id.bytes().all(|b| b.is_ascii_hexdigit())), "{plain:?}");
    assert_eq!(plain[0], plain[2]);
    assert_ne!(plain[0], plain[1]);
    assert_ne!(plain[0], ids(Some("s"))[0]);
}

#[test]
fn offset_and_limit_count_bad_rows_too() {
    let lines = b"{\"prompt\": \"a\"}\nbad\n{\"prompt\": \"c\"}\n{\"prompt\": \"d\"}\n";
    for (offset, limit, expected) in [(0, None, 4), (1, Some(2), 2), (3, Some(9), 1), (0, Some(1), 1)] {
        let rows = read("x.jsonl", lines, |config| (config.offset, config.limit) = (offset, limit));
        assert_eq!(rows.len(), expected, "{offset} {limit:?}");
    }
    for (offset, limit) in [(4, None), (0, Some(0))] {
        let message = error("x.jsonl", lines, |config| (config.offset, config.limit) = (offset, limit));
        assert!(message.contains("none of the 4 rows"), "{message}");
    }
}

#[test]
fn a_filter_column_keeps_and_drops_rows() {
    let lines = b"{\"prompt\": \"a\", \"source\": \"math\"}\n{\"prompt\": \"b\", \"source\": \"code\"}\nbad\n\
        {\"prompt\": \"c\"}\n{\"prompt\": \"d\", \"source\": \"math\"}\n{\"prompt\": \"e\", \"source\": \"chat\"}\n";
    type Change = fn(&mut PromptsConfig);
    let rows: [(Change, &[&str]); 5] = [
        (|_| (), &["a", "b", "3: malformed JSON", "c", "d", "e"]),
        (|c| c.filter_column = Some("source".into()), &["a", "b", "3: malformed JSON", "d", "e"]),
        (
            |c| (c.filter_column, c.filter_keep) = (Some("source".into()), vec!["math".into()]),
            &["a", "3: malformed JSON", "d"],
        ),
        (
            |c| {
                (c.filter_column, c.filter_drop) = (Some("source".into()), vec!["code".into(), "chat".into()])
            },
            &["a", "3: malformed JSON", "d"],
        ),
        // Rows are counted after the choice.
        (
            |c| {
                (c.filter_column, c.filter_keep) = (Some("source".into()), vec!["math".into()]);
                (c.offset, c.limit) = (2, Some(1));
            },
            &["d"],
        ),
    ];
    for (change, expected) in rows {
        let found = summary(&read("x.jsonl", lines, change));
        assert_eq!(found.len(), expected.len(), "{found:?}");
        assert!(found.iter().zip(expected).all(|(a, b)| a.starts_with(b)), "{found:?} is not {expected:?}");
    }
}

#[test]
fn booleans_filter_and_a_filter_that_keeps_nothing_is_named() {
    let lines = b"{\"prompt\": \"a\", \"good\": true}\n{\"prompt\": \"b\", \"good\": false}\n{\"prompt\": \"c\", \"good\": null}\n";
    let keep = |value: &str| {
        let value = value.to_owned();
        move |c: &mut PromptsConfig| (c.filter_column, c.filter_keep) = (Some("good".into()), vec![value])
    };
    assert_eq!(summary(&read("x.jsonl", lines, keep("true"))), ["a"]);
    let message = error("x.jsonl", lines, keep("yes"));
    assert!(message.contains("x.jsonl that prompts.filter_column = good keeps"), "{message}");
}

#[test]
fn a_star_matches_files_and_a_directory_is_refused() {
    let (dir, mut config) = file("train-1.jsonl", b"{\"prompt\": \"second\"}");
    fs_err::write(dir.path().join("train-0.jsonl"), "{\"prompt\": \"first\"}\n{\"prompt\": \"too\"}")
        .unwrap();
    fs_err::write(dir.path().join("test-0.jsonl"), "{\"prompt\": \"no\"}").unwrap();
    config.path = dir.path().join("train-*.jsonl");
    assert_eq!(summary(&read_prompts(&config).unwrap()), ["first", "too", "second"]);
    // Lines are counted file by file, so a bad one needs its file; a row without its column is noticed later than one
    // that is no JSON.
    fs_err::write(dir.path().join("train-2.jsonl"), "{\"prompt\": \"third\"}\n7\n{\"x\": 1}").unwrap();
    let rows = read_prompts(&config).unwrap();
    let expected =
        ["third", "train-2.jsonl 2: not a JSON object", "train-2.jsonl 3: no column `prompt`, only x"];
    assert_eq!(summary(&rows)[3..], expected);
    let (bad, alone) = (rows[4].clone().unwrap_err(), BadRow::new(Place::Line(2), "not a JSON object"));
    assert_eq!(bad.to_string(), "train-2.jsonl, line 2: not a JSON object");
    assert_eq!(alone.to_string(), "line 2: not a JSON object");
    config.path = dir.path().join("dev-*.jsonl");
    assert!(read_prompts(&config).unwrap_err().to_string().contains("does not exist"));
    config.path = dir.path().to_path_buf();
    let message = read_prompts(&config).unwrap_err().to_string();
    assert!(
        message.contains("is a directory") && message.contains("test-0.jsonl or train-0.jsonl"),
        "{message}"
    );
}

#[test]
fn missing_and_empty_files_have_different_errors() {
    let (dir, config) = file("x.jsonl", b"");
    let missing = PromptsConfig { path: dir.path().join("no.jsonl"), ..config.clone() };
    let message = read_prompts(&missing).unwrap_err().to_string();
    assert!(message.contains("no.jsonl does not exist: set prompts.path"), "{message}");
    for (name, bytes) in
        [("x.jsonl", &b""[..]), ("x.jsonl", b"\n \n"), ("x.json", b""), ("x.json", b"[]"), ("x.parquet", b"")]
    {
        let message = error(name, bytes, |_| ());
        assert!(message.contains(name) && message.contains("holds no prompts"), "{message}");
    }
}

#[test]
fn ids_and_answers_of_any_simple_type_are_text() {
    let lines = b"{\"prompt\": \"a\", \"id\": 184467440737095516150, \"answer\": true}\n\
        {\"prompt\": \"b\", \"id\": 1e16, \"answer\": 0.30000000000000004}\n\
        {\"prompt\": \"c\", \"id\": NaN, \"answer\": 1}\n";
    let rows = read("x.jsonl", lines, |config| {
        (config.id_column, config.answer_column) = (Some("id".to_owned()), Some("answer".to_owned()));
    });
    let simple = |row: &Result<Prompt, BadRow>| match row {
        Ok(prompt) => format!("{} {}", prompt.id, prompt.answer.as_deref().unwrap_or_default()),
        Err(bad) => bad.to_string(),
    };
    let expected = ["184467440737095516150 True", "1e+16 0.30000000000000004", "line 3: `id` is null"];
    assert_eq!(rows.iter().map(simple).collect::<Vec<_>>(), expected);
}

#[test]
fn messages_as_json_text_are_the_messages() {
    let lines = br#"{"m": "[{\"role\": \"user\", \"content\": \"u\", \"score\": NaN}]"}
{"m": "[{'role': 'user', 'content': 'u'}]"}
"#;
    let rows = summary(&read("x.jsonl", lines, |config| config.messages_column = Some("m".to_owned())));
    assert_eq!(rows[0], "u");
    assert!(rows[1].starts_with("2: `m` is text, but not JSON: "), "{}", rows[1]);
}

#[test]
fn a_column_that_no_row_has_is_a_configuration_error() {
    let lines = b"{\"question\": \"a\", \"n\": 1}\n{\"question\": \"b\"}\n";
    let message = error("x.jsonl", lines, |_| ());
    assert!(
        message.contains("no column `prompt`: set prompts.prompt_column to one of question, n"),
        "{message}"
    );
    let message = error("x.json", br#"{"version": 1, "data": [{"q": "a"}, {"q": "b"}]}"#, |_| ());
    assert!(message.ends_with("no column `prompt`: set prompts.prompt_column to one of q"), "{message}");
    let message = error("x.jsonl", lines, |config| {
        config.prompt_column = "question".to_owned();
        config.answer_column = Some("answer".to_owned());
    });
    assert!(message.contains("no column `answer`: set prompts.answer_column"), "{message}");
}

fn write_parquet(path: &Path, columns: Vec<(&str, ArrayRef)>) {
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let file = fs_err::File::create(path).unwrap().into_parts().0;
    let mut writer = ArrowWriter::try_new(file, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

/// One conversation per row, as `list<struct{names[0], names[1]}>`.
fn conversations(names: [&str; 2], rows: &[&[(&str, &str)]]) -> ArrayRef {
    let fields = names.map(|name| Field::new(name, DataType::Utf8, true)).to_vec();
    let mut builder = ListBuilder::new(StructBuilder::from_fields(fields, 0));
    for row in rows {
        for (role, content) in *row {
            let turn = builder.values();
            turn.field_builder::<StringBuilder>(0).unwrap().append_value(role);
            turn.field_builder::<StringBuilder>(1).unwrap().append_value(content);
            turn.append(true);
        }
        builder.append(true);
    }
    Arc::new(builder.finish())
}

#[test]
fn parquet_gives_text_numbers_and_conversations() {
    let (_dir, mut config) = file("x.parquet", b"");
    write_parquet(
        &config.path,
        vec![
            ("prompt", Arc::new(StringArray::from(vec![Some("a"), None]))),
            ("answer", Arc::new(LargeStringArray::from(vec!["1", "2"]))),
            ("n", Arc::new(Int64Array::from(vec![10, 20]))),
            (
                "openai",
                conversations(["role", "content"], &[&[("user", "u"), ("assistant", "a")], &[("user", "v")]]),
            ),
            ("sharegpt", conversations(["from", "value"], &[&[("human", "w")], &[]])),
        ],
    );
    config.id_column = Some("n".to_owned());
    config.answer_column = Some("answer".to_owned());
    let rows = read_prompts(&config).unwrap();
    let first = rows[0].as_ref().unwrap();
    assert_eq!((first.id.as_str(), first.answer.as_deref()), ("10", Some("1")));
    assert_eq!(summary(&rows), ["a", "2: `prompt` is null"]);

    config.messages_column = Some("openai".to_owned());
    let rows = read_prompts(&config).unwrap();
    assert_eq!(summary(&rows), ["u", "v"]);
    assert_eq!(rows[0].as_ref().unwrap().response, Some(Message::new("assistant", "a")));

    config.messages_column = Some("sharegpt".to_owned());
    assert_eq!(summary(&read_prompts(&config).unwrap()), ["w", "2: the prompt is empty"]);

    config.messages_column = Some("messages".to_owned());
    let message = read_prompts(&config).unwrap_err().to_string();
    assert!(
        message.contains("set prompts.messages_column to one of prompt, answer, n, openai, sharegpt"),
        "{message}"
    );
}

#[test]
fn a_file_that_is_not_parquet_is_refused_by_name() {
    let message = error("x.parquet", b"{\"prompt\": \"a\"}", |_| ());
    assert!(message.contains("x.parquet is not a readable Parquet file"), "{message}");
}

#[test]
fn unknown_settings_are_errors() {
    assert!(serde_json::from_str::<PromptsConfig>(r#"{"path": "a", "promt_column": "b"}"#).is_err());
    let config: PromptsConfig = serde_json::from_str(r#"{"path": "a", "format": "jsonl"}"#).unwrap();
    assert_eq!((config.format, config.prompt_column.as_str()), (PromptFormat::Jsonl, "prompt"));
}

#[test]
fn templates_render_prompts_answers_and_responses() {
    let lines = b"{\"q\": \"one?\", \"tests\": [\"a\", \"b\"], \"prompt\": \"unread\"}\n{\"tests\": []}";
    let templates = |config: &mut PromptsConfig| {
        config.template = Some("Q: {{ q }}".to_owned());
        config.answer_template = Some("{{ tests | join('\n') }}\n".to_owned());
        config.response_template = Some("{{ q }}{{ q }}".to_owned());
        config.answer_column = Some("unread".to_owned());
        config.response_column = Some("unread".to_owned());
    };
    let rows = read("a.jsonl", lines, templates);
    let first = rows[0].as_ref().unwrap();
    assert_eq!((first.messages[0].text().as_str(), first.answer.as_deref()), ("Q: one?", Some("a\nb\n")));
    assert_eq!(first.response, Some(Message::new("assistant", "one?one?")));
    let reason = &rows[1].as_ref().unwrap_err().reason;
    assert!(reason.contains("prompts.template"), "{reason}");
    let message = error("a.jsonl", b"{\"x\": 1}", templates);
    assert!(message.contains("no column `q`, which prompts.template names: its columns are x"), "{message}");
}
