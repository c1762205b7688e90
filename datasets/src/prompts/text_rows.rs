//! Rows of JSONL and JSON files.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::BadRow;
use super::row::{Row, RowResult, Rows};
use crate::error::DatasetError;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// One object per line, read line by line. A line that is not UTF-8, not JSON or not an object is a bad row.
pub(super) fn open_jsonl(path: &Path) -> Result<Rows, DatasetError> {
    Ok(Box::new(Lines { reader: open(path)?, path: path.to_path_buf(), number: 0 }))
}

/// One array of objects, read into memory.
pub(super) fn open_json(path: &Path) -> Result<Rows, DatasetError> {
    let bytes = fs_err::read(path).map_err(DatasetError::io("read", path))?;
    let bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&bytes);
    if bytes.trim_ascii().is_empty() {
        return Ok(Box::new(std::iter::empty()));
    }
    let values: Vec<Value> = serde_json::from_slice(bytes).map_err(|source| DatasetError::Json {
        path: path.to_path_buf(),
        expected: "an array of objects",
        source,
    })?;
    Ok(Box::new((1..).zip(values).map(|(number, value)| Ok(object(number, value)))))
}

/// `.json` files hold an array or lines of objects: an array starts with a bracket, a line with a brace.
pub(super) fn open_json_or_jsonl(path: &Path) -> Result<Rows, DatasetError> {
    let mut reader = open(path)?;
    loop {
        let bytes = reader.fill_buf().map_err(DatasetError::io("read", path))?;
        let Some(&first) = bytes.first() else { return open_jsonl(path) };
        let skipped = BYTE_ORDER_MARK.contains(&first) || first.is_ascii_whitespace();
        match first {
            _ if skipped => reader.consume(1),
            b'[' => return open_json(path),
            _ => return open_jsonl(path),
        }
    }
}

fn open(path: &Path) -> Result<BufReader<std::fs::File>, DatasetError> {
    let file = fs_err::File::open(path).map_err(DatasetError::io("read", path))?;
    Ok(BufReader::new(file.into_parts().0))
}

struct Lines {
    reader: BufReader<std::fs::File>,
    path: PathBuf,
    number: usize,
}

impl Iterator for Lines {
    type Item = RowResult;

    fn next(&mut self) -> Option<Self::Item> {
        let mut bytes = Vec::new();
        loop {
            bytes.clear();
            match self.reader.read_until(b'\n', &mut bytes) {
                Ok(0) => return None,
                Ok(_) => self.number += 1,
                Err(error) => return Some(Err(DatasetError::io("read", &self.path)(error))),
            }
            let line = if self.number == 1 { bytes.strip_prefix(BYTE_ORDER_MARK) } else { None };
            let line = line.unwrap_or(&bytes).trim_ascii();
            if !line.is_empty() {
                return Some(Ok(parse(self.number, line)));
            }
        }
    }
}

fn parse(number: usize, line: &[u8]) -> Result<Row, BadRow> {
    let bad = |reason: String| BadRow::new(number, reason);
    let text = std::str::from_utf8(line).map_err(|err| bad(format!("invalid UTF-8: {err}")))?;
    let value = serde_json::from_str(text).map_err(|err| bad(format!("malformed JSON: {err}")))?;
    object(number, value)
}

fn object(line: usize, value: Value) -> Result<Row, BadRow> {
    match value {
        Value::Object(columns) => Ok(Row { file: None, line, columns }),
        _ => Err(BadRow::new(line, "not a JSON object")),
    }
}
