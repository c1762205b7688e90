//! Parquet files of usual writers against what pyarrow reads in them, and columns that are not asked for.

use arrow_array::{Array, Int64Array, StringArray};
use parquet::arrow::ArrowWriter;
use serde_json::Value;

use super::*;
use crate::prompts::{PromptFormat, files, python_text};

/// Simple values as text, as expected.json has them.
fn as_text(value: &Value) -> Value {
    match value {
        Value::Bool(value) => python_text::boolean(*value).into(),
        Value::Number(number) => python_text::number(number).into(),
        Value::Array(items) => items.iter().map(as_text).collect(),
        Value::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), as_text(value))).collect(),
        other => other.clone(),
    }
}

#[test]
fn columns_of_usual_writers_have_the_values_that_pyarrow_reads() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/prompt_files");
    let expected: Value = serde_json::from_slice(&fs_err::read(dir.join("expected.json")).unwrap()).unwrap();
    let mut wrong = Vec::new();
    for (file, columns) in expected.as_object().unwrap() {
        for (column, values) in columns.as_object().unwrap() {
            let wanted = [Wanted { column: column.clone(), setting: Some("setting") }];
            let rows = files::open(&dir.join(file), PromptFormat::Auto, Some(&wanted)).unwrap();
            let found: Vec<Value> = rows.map(|row| as_text(&row.unwrap().unwrap().columns[column])).collect();
            if Value::from(found.clone()) != *values {
                wrong.push(format!("{file}, {column}: {found:?} is not {values}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn write(path: &Path, columns: Vec<(&str, arrow_array::ArrayRef)>) {
    let fields =
        columns.iter().map(|(name, array)| arrow_schema::Field::new(*name, array.data_type().clone(), true));
    let schema = std::sync::Arc::new(arrow_schema::Schema::new(fields.collect::<Vec<_>>()));
    let arrays = columns.into_iter().map(|(_, array)| array).collect();
    let batch = RecordBatch::try_new(schema.clone(), arrays).unwrap();
    let mut writer = ArrowWriter::try_new(fs_err::File::create(path).unwrap(), schema, None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

#[test]
fn a_field_of_a_type_that_is_not_read_fails_a_conversation_by_name_and_is_marked_for_templates() {
    use arrow_array::{IntervalDayTimeArray, ListArray, StructArray};
    use arrow_schema::{DataType, Field, Fields, IntervalUnit};
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.parquet");
    let fields = Fields::from(vec![
        Field::new("role", DataType::Utf8, true),
        Field::new("content", DataType::Utf8, true),
        Field::new("span", DataType::Interval(IntervalUnit::DayTime), true),
    ]);
    let text = |text| std::sync::Arc::new(StringArray::from(vec![text, text])) as arrow_array::ArrayRef;
    let span = IntervalDayTimeArray::from(vec![None, Some(arrow_buffer::IntervalDayTime::new(1, 2))]);
    let turns =
        StructArray::new(fields.clone(), vec![text("user"), text("hi"), std::sync::Arc::new(span)], None);
    let item = std::sync::Arc::new(Field::new_list_field(DataType::Struct(fields), true));
    let lengths = arrow_buffer::OffsetBuffer::from_lengths([1, 1]);
    let lists = ListArray::new(item, lengths, std::sync::Arc::new(turns), None);
    write(&path, vec![("m", std::sync::Arc::new(lists))]);
    let read = |setting| -> Vec<String> {
        let wanted = [Wanted { column: "m".to_owned(), setting: Some(setting) }];
        let rows = files::open(&path, PromptFormat::Auto, Some(&wanted)).unwrap().map(Result::unwrap);
        rows.map(|row| row.map_or_else(|bad| bad.to_string(), |row| row.columns["m"].to_string())).collect()
    };
    let marked = &read("prompts.template")[1];
    assert!(
        marked.contains(r#""span":{"$jacobi::unread":"`span` is a value of the type Interval"#),
        "{marked}"
    );
    let rows = read("prompts.messages_column");
    assert_eq!(rows[0], r#"[{"role":"user","content":"hi","span":null}]"#);
    let expected =
        "row 2: `m` is a list with an object whose field `span` is a value of the type Interval(DayTime)";
    assert!(rows[1].starts_with(expected), "{}", rows[1]);
}

#[test]
fn binary_that_is_no_text_and_a_column_that_is_there_twice_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.jsonl");
    let text: arrow_array::ArrayRef = std::sync::Arc::new(StringArray::from(vec!["a", "b"]));
    let binary = arrow_array::BinaryArray::from(vec![&b"\xff"[..], b"ok"]);
    let number = std::sync::Arc::new(Int64Array::from(vec![1, 2]));
    write(&path, vec![("a", text.clone()), ("b", std::sync::Arc::new(binary)), ("c", text), ("c", number)]);
    let read = |column: &str| {
        let wanted = [Wanted { column: column.to_owned(), setting: Some("setting") }];
        let rows = files::open(&path, PromptFormat::Auto, Some(&wanted))?;
        Ok::<Vec<_>, DatasetError>(rows.map(Result::unwrap).collect())
    };
    // The name says JSON; the first bytes decide.
    assert_eq!(read("a").unwrap().len(), 2);
    let rows = read("b").unwrap();
    let bad = rows[0].as_ref().err().unwrap();
    assert!(bad.reason.starts_with("`b` is binary, and not UTF-8"), "{bad}");
    assert_eq!(rows[1].as_ref().ok().unwrap().columns["b"], "ok");
    let message = read("c").err().unwrap().to_string();
    assert!(message.contains("several columns `c`"), "{message}");
}

#[test]
fn bytes_within_a_struct_fail_the_rows_whose_template_writes_them() {
    use arrow_array::{BinaryArray, StructArray};
    use arrow_schema::{DataType, Field, Fields};
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.parquet");
    let fields = Fields::from(vec![
        Field::new("path", DataType::Utf8, true),
        Field::new("bytes", DataType::Binary, true),
    ]);
    let text: arrow_array::ArrayRef = std::sync::Arc::new(StringArray::from(vec!["a", "b"]));
    let binary = std::sync::Arc::new(BinaryArray::from(vec![&b"\xff\xd8"[..], b"ok"]));
    write(&path, vec![("image", std::sync::Arc::new(StructArray::new(fields, vec![text, binary], None)))]);
    let read = |template: &str| -> Vec<String> {
        let (path, template) = (path.clone(), Some(template.to_owned()));
        let config = crate::PromptsConfig { path, template, ..Default::default() };
        let rows = crate::read_prompts(&config).unwrap().into_iter();
        rows.map(|row| row.map_or_else(|bad| bad.to_string(), |row| row.messages[0].text())).collect()
    };
    assert_eq!(read("{{ image.path }}"), ["a", "b"]);
    for (template, written) in [
        ("{{ image.bytes }}", "ok"),
        ("{{ image }}", "{'path': 'b', 'bytes': 'ok'}"),
        ("{{ image | tojson }}", r#"{"path": "b", "bytes": "ok"}"#),
    ] {
        let rows = read(template);
        assert_eq!(rows[1], written);
        let reason = rows[0].strip_prefix("row 1: prompts.template: ").unwrap();
        assert!(reason.contains("`bytes` is binary, and not UTF-8 text"), "{reason}");
    }
}
