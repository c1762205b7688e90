//! Rows of JSONL and JSON files.

use std::path::Path;

use serde_json::Value;

use super::BadRow;
use super::row::Row;
use crate::error::DatasetError;

type Rows = Vec<Result<Row, BadRow>>;

/// One object per line. A line that is not UTF-8, not JSON or not an object is a bad row with its number.
pub(super) fn read_jsonl(path: &Path) -> Result<Rows, DatasetError> {
    Ok(lines(&read(path)?))
}

/// One array of objects.
pub(super) fn read_json(path: &Path) -> Result<Rows, DatasetError> {
    array(path, &read(path)?)
}

/// Many a `.json` holds lines: an array starts with a bracket, a line with a brace.
pub(super) fn read_json_or_jsonl(path: &Path) -> Result<Rows, DatasetError> {
    let bytes = read(path)?;
    if bytes.trim_ascii_start().starts_with(b"[") { array(path, &bytes) } else { Ok(lines(&bytes)) }
}

fn read(path: &Path) -> Result<Vec<u8>, DatasetError> {
    let bytes = fs_err::read(path).map_err(DatasetError::io("read", path))?;
    let byte_order_mark = b"\xef\xbb\xbf";
    Ok(bytes.strip_prefix(byte_order_mark).map(<[u8]>::to_vec).unwrap_or(bytes))
}

fn lines(bytes: &[u8]) -> Rows {
    let numbered = (1..).zip(bytes.split(|&byte| byte == b'\n'));
    numbered
        .filter(|(_, line)| !line.trim_ascii().is_empty())
        .map(|(number, line)| {
            let bad = |reason: String| BadRow { line: number, reason };
            let text = std::str::from_utf8(line).map_err(|err| bad(format!("invalid UTF-8: {err}")))?;
            let value = serde_json::from_str(text).map_err(|err| bad(format!("malformed JSON: {err}")))?;
            object(number, value)
        })
        .collect()
}

fn array(path: &Path, bytes: &[u8]) -> Result<Rows, DatasetError> {
    if bytes.trim_ascii().is_empty() {
        return Ok(Vec::new());
    }
    let expected = "an array of objects";
    let values: Vec<Value> = serde_json::from_slice(bytes).map_err(|source| DatasetError::Json {
        path: path.to_path_buf(),
        expected,
        source,
    })?;
    Ok((1..).zip(values).map(|(number, value)| object(number, value)).collect())
}

fn object(line: usize, value: Value) -> Result<Row, BadRow> {
    match value {
        Value::Object(columns) => Ok(Row { line, columns }),
        _ => Err(BadRow { line, reason: "not a JSON object".to_owned() }),
    }
}
