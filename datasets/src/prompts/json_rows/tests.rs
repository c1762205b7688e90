//! Rows of JSON files of every shape, and of damaged ones.

use super::*;
use crate::prompts::row::Wanted;

/// The column `p` of each row, or `number: reason`; the error of the file last.
fn rows(text: &str) -> Vec<String> {
    let wanted = [("p", Some("setting")), ("q", None)];
    let wanted = wanted.map(|(column, setting)| Wanted { column: column.to_owned(), setting });
    let text = Box::new(Cursor::new(text.as_bytes().to_vec()));
    let row = |row: RowResult| match row {
        Ok(Ok(row)) => row.columns.get("p").map_or_else(|| "none".to_owned(), |value| value.to_string()),
        Ok(Err(bad)) => format!("{}: {}", bad.at.number(), bad.reason.split(" at ").next().unwrap()),
        Err(error) => error.to_string(),
    };
    open(Path::new("x.json"), text, Names::of(Some(&wanted))).map(row).collect()
}

#[test]
fn rows_are_the_same_in_every_shape() {
    let shapes = [
        "{\"p\": 1}\n{\"p\": 2}",
        "\r\n{\"p\": 1}\r\n \r\n{\"p\": 2}\r\n",
        "{\"p\": 1}{\"p\": 2}",
        "{\"p\": 1},\n{\"p\": 2},\n",
        "{\n  \"p\":\n 1\n}\n{\n  \"p\": 2\n}\n",
        "[{\"p\": 1}, {\"p\": 2}]",
        "[\n  {\n  \"p\": 1\n},\n{\"p\": 2},\n]\n",
        "[{\"p\": 1}]\n[{\"p\": 2}]\n",
        "{\"version\": \"1\", \"data\": [{\"p\": 1}, {\"p\": 2}]}",
        "{\"q\": 0, \"data\": [{\"p\": 1}, {\"p\": 2}]}",
        "{\n \"meta\": [{\"x\": 1}],\n \"rows\": [\n{\"p\": 1, \"s\": NaN},\n{\"p\": 2}]}",
    ];
    for shape in shapes {
        assert_eq!(rows(shape), ["1", "2"], "{shape}");
    }
    assert_eq!(rows("{\"p\": [{\"p\": 1}], \"x\": [{\"y\": 1}]}"), ["[{\"p\":1}]"]);
    assert_eq!(rows("{\"x\": [{\"y\": 1}, {\"y\": 2}]}"), ["none", "none"]);
    assert_eq!(rows("{\"x\": [{\"role\": \"user\"}, {\"role\": \"user\"}]}"), ["none"]);
    let reason = rows("{\"version\": 1, \"data\": []}").pop().unwrap();
    assert!(reason.ends_with("its list `data` is empty"), "{reason}");
    assert_eq!(rows("{\"p\": \"a } \\\" [ {\"}\n"), ["\"a } \\\" [ {\""]);
}

#[test]
fn an_odd_value_costs_its_own_row_alone() {
    let cases: [(&str, &[&str]); 9] = [
        (
            "{\"p\": 1}\n{\"p\": \n{\"p\": 3}\n",
            &["1", "2: malformed JSON: in `p`, EOF while parsing a value", "3"],
        ),
        (
            "{\"p\": \"a\n{\"p\": 2}\n{\"p\": 3}\n",
            &["1: malformed JSON: in `p`, EOF while parsing a string", "2", "3"],
        ),
        (
            "{\"p\": 1}\n{\"p\": {\"a\": \n{\"p\": 3}",
            &["1", "2: malformed JSON: in `p`, EOF while parsing a value", "3"],
        ),
        (
            "{\"p\": 1}\n{\"p\": [\n{\"p\": 3}\n{\"p\": 4}\n",
            &["1", "2: malformed JSON: in `p`, EOF while parsing a list", "3", "4"],
        ),
        (
            "{\"p\": 1} x\n]\n{\"p\": 2}",
            &["1", "1: malformed JSON: expected value", "2: malformed JSON: expected value", "2"],
        ),
        (
            "[INFO] started\n{\"p\": 2}",
            &["1: malformed JSON: expected value", "2: malformed JSON: expected value", "2"],
        ),
        (
            "[{\"p\": 1}, \"a, ]\", 7, {\"p\": }, [{\"p\": 5}], {\"p\": 6}]",
            &[
                "1",
                "2: not a JSON object",
                "3: not a JSON object",
                "4: malformed JSON: in `p`, expected value",
                "5: not a JSON object",
                "6",
            ],
        ),
        ("{\"p\": 1}\n{\"p\": 2", &["1", "2: malformed JSON: EOF while parsing an object"]),
        (
            "[{\"p\": \"a\nb\"}, {\"p\": 2}]",
            &[
                "1: malformed JSON: in `p`, control character (\\u0000-\\u001F) found while parsing a string",
                "2",
            ],
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(rows(text), expected, "{text}");
    }
}

#[test]
fn an_array_that_ends_early_and_several_lists_are_errors_of_the_file() {
    for text in ["[{\"p\": 1},", "[{\"p\": 1}\n", "["] {
        let last = rows(text).pop().unwrap();
        assert!(last.starts_with("x.json ends within its array, after"), "{text}: {last}");
    }
    let last = rows("[{\"p\": 1}, {\"p\": 2").pop().unwrap();
    assert!(last.contains("after 2 rows: it is cut short"), "{last}");
    let last = rows("{\"train\": [{\"p\": 1}], \"test\": [{\"p\": 2}]}").pop().unwrap();
    assert!(last.contains("several lists of rows, test, train") && last.contains("jq .test"), "{last}");
}
