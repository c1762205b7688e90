//! Rows of JSON files of any shape: an object per line, objects over several lines, an array of objects, or an object
//! with one such array.
//!
//! The file is split into values by brackets and quotes, and each value is parsed by itself. So one odd value costs
//! one row, and only this value is in memory (and its line).

use std::collections::BTreeMap;
use std::io::{self, BufRead, Cursor};
use std::path::{Path, PathBuf};

use serde_json::value::RawValue;

use super::json;
use super::message::ROLE_KEYS;
use super::row::{Names, Row, RowResult, Rows};
use super::{BadRow, Place};
use crate::error::DatasetError;

/// Reads the values of `text` one by one.
pub(super) fn open(path: &Path, text: Box<dyn BufRead>, names: Names) -> Rows {
    Box::new(JsonRows::new(path, text, names))
}

struct JsonRows {
    path: PathBuf,
    names: Names,
    text: Text,
    /// Whether the next value is in an array of rows.
    in_array: bool,
    /// Whether the file starts with an array: then rows are counted, not lines.
    is_array: bool,
    /// Rows so far.
    count: usize,
    /// The rows within the only object of the file.
    within: Option<Box<JsonRows>>,
    ended: bool,
}

/// The part of the file that is in memory.
struct Text {
    reader: Box<dyn BufRead>,
    bytes: Vec<u8>,
    /// The next byte to read.
    at: usize,
    /// Its line, from 1.
    line: usize,
}

/// How far a value reaches.
enum Extent {
    /// To this position.
    To(usize),
    /// Not to a bracket of its own: the next line starts another value, or the file ends.
    Unclosed,
}

impl JsonRows {
    fn new(path: &Path, reader: Box<dyn BufRead>, names: Names) -> Self {
        let text = Text { reader, bytes: Vec::new(), at: 0, line: 1 };
        let path = path.to_path_buf();
        Self { path, names, text, in_array: false, is_array: false, count: 0, within: None, ended: false }
    }

    /// The next row; `None` at the end of the file.
    fn read(&mut self) -> Result<Option<Result<Row, BadRow>>, DatasetError> {
        while let Some(byte) = self.text.next().map_err(DatasetError::io("read", &self.path))? {
            match byte {
                b'[' if !self.in_array => {
                    self.is_array |= self.count == 0;
                    self.in_array = true;
                    self.text.at += 1;
                }
                b']' if self.in_array => {
                    self.in_array = false;
                    self.text.at += 1;
                }
                _ => return self.row().map(Some),
            }
        }
        if self.in_array {
            return Err(DatasetError::Prompts(format!(
                "{} ends within its array, after {} rows: it is cut short, write or fetch it again",
                self.path.display(),
                self.count
            )));
        }
        Ok(None)
    }

    /// The row that starts here.
    fn row(&mut self) -> Result<Result<Row, BadRow>, DatasetError> {
        let failed = DatasetError::io("read", &self.path);
        self.count += 1;
        let at = if self.is_array { Place::Row(self.count) } else { Place::Line(self.text.line) };
        let (start, extent) = (self.text.at, self.text.extent(self.in_array).map_err(failed)?);
        let end = match extent {
            Extent::To(end) => end,
            // The brackets of the array are unbalanced.
            Extent::Unclosed if self.in_array => self.text.bytes.len(),
            Extent::Unclosed => self.text.end_of_line(),
        };
        let bytes = self.text.bytes[start..end].trim_ascii();
        let columns = json::object(bytes, &self.names);
        let object = (self.count == 1 && !self.in_array && columns.is_ok()).then(|| bytes.to_vec());
        self.text.advance_to(end);
        if let (Some(object), Ok(columns)) = (object, &columns)
            && self.text.next().map_err(DatasetError::io("read", &self.path))?.is_none()
            && let Some(mut rows) = self.rows_within(&object, self.names.count_in(columns))?
            && let Some(first) = rows.read()?
        {
            self.within = Some(Box::new(rows));
            return Ok(first);
        }
        Ok(columns.map(|columns| Row { file: None, at, columns }).map_err(|reason| BadRow::new(at, reason)))
    }

    /// The rows of the one field of an object that is a list of rows: of objects with more of the wanted columns than
    /// the object itself has. Of an object with none of them also a list of other objects, so that an error names the
    /// columns of the rows.
    fn rows_within(&self, object: &[u8], columns: usize) -> Result<Option<Self>, DatasetError> {
        let plain = json::plain(object);
        let Ok(fields) = serde_json::from_slice::<BTreeMap<String, &RawValue>>(&plain) else {
            return Ok(None);
        };
        let rows_of = |list: &RawValue| {
            Self::new(&self.path, Box::new(Cursor::new(list.get().as_bytes().to_vec())), self.names.clone())
        };
        let lists = || fields.iter().filter(|(_, list)| list.get().starts_with('['));
        let has_rows = |list: &RawValue, fits: &dyn Fn(&Row) -> bool| matches!(rows_of(list).read(), Ok(Some(Ok(row))) if fits(&row));
        let with_columns = |row: &Row| self.names.count_in(&row.columns) > columns;
        let found: Vec<_> = lists().filter(|(_, list)| has_rows(list, &with_columns)).collect();
        match found.as_slice() {
            [] if columns > 0 || !self.names.are_set() => Ok(None),
            [] => {
                // The turns of a conversation are no rows.
                let is_row = |row: &Row| ROLE_KEYS.iter().all(|key| !row.columns.contains_key(*key));
                let others: Vec<_> = lists().filter(|(_, list)| has_rows(list, &is_row)).collect();
                let is_empty = |list: &RawValue| matches!(rows_of(list).read(), Ok(None));
                match (others.as_slice(), lists().find(|(_, list)| is_empty(list))) {
                    ([(_, list)], _) => Ok(Some(rows_of(list))),
                    ([], Some((name, _))) => Err(DatasetError::Prompts(format!(
                        "{} is one object without the columns that the settings name, and its list `{name}` is empty",
                        self.path.display()
                    ))),
                    _ => Ok(None),
                }
            }
            [(_, list)] => Ok(Some(rows_of(list))),
            [(first, _), ..] => {
                let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
                Err(DatasetError::Prompts(format!(
                    "{} is an object with several lists of rows, {}: write one of them to a file, for instance \
                     with `jq .{first}`",
                    self.path.display(),
                    names.join(", ")
                )))
            }
        }
    }
}

impl Iterator for JsonRows {
    type Item = RowResult;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(rows) = &mut self.within {
            return rows.next();
        }
        if self.ended {
            return None;
        }
        let row = self.read().transpose();
        self.ended = !matches!(row, Some(Ok(_)));
        row
    }
}

impl Text {
    /// Appends the next line; false at the end of the file.
    fn read_line(&mut self) -> io::Result<bool> {
        Ok(self.reader.read_until(b'\n', &mut self.bytes)? > 0)
    }

    /// The next byte that is neither space nor a comma between values.
    fn next(&mut self) -> io::Result<Option<u8>> {
        loop {
            if self.at == self.bytes.len() {
                self.bytes.clear();
                self.at = 0;
                if !self.read_line()? {
                    return Ok(None);
                }
            }
            match self.bytes[self.at] {
                b',' => self.at += 1,
                byte if byte.is_ascii_whitespace() => self.advance_to(self.at + 1),
                byte => return Ok(Some(byte)),
            }
        }
    }

    fn advance_to(&mut self, end: usize) {
        self.line += self.bytes[self.at..end].iter().filter(|&&byte| byte == b'\n').count();
        self.at = end;
    }

    fn end_of_line(&self) -> usize {
        let rest = &self.bytes[self.at..];
        self.at + rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len())
    }

    /// The extent of the value that starts here. Outside arrays, a value that is not an object ends with its line, and
    /// an object that its line does not close goes on only as long as the following lines fit into it: a line that was
    /// cut short does not take the next ones with it.
    fn extent(&mut self, in_array: bool) -> io::Result<Extent> {
        let (mut at, mut depth, mut before, mut in_string) = (self.at, 0_usize, b'[', false);
        if !in_array && self.bytes[at] != b'{' {
            return Ok(Extent::To(self.end_of_line()));
        }
        loop {
            if at >= self.bytes.len() && !self.read_line()? {
                return Ok(Extent::Unclosed);
            }
            let Some(&byte) = self.bytes.get(at) else { continue };
            at += 1;
            match byte {
                b'\n' if in_string && !in_array => return Ok(Extent::Unclosed),
                b'\\' if in_string && self.bytes.get(at) != Some(&b'\n') => at += 1,
                b'"' => {
                    in_string = !in_string;
                    before = byte;
                }
                _ if in_string => {}
                b'{' | b'[' => {
                    if byte == b'{' && !in_array && !b"[,:".contains(&before) {
                        return Ok(Extent::Unclosed);
                    }
                    depth += 1;
                }
                b',' | b']' | b'\n' if depth == 0 => return Ok(Extent::To((at - 1).max(self.at + 1))),
                b'}' | b']' => {
                    depth = depth.saturating_sub(1);
                    if depth == 0 {
                        return Ok(Extent::To(at));
                    }
                }
                _ => {}
            }
            if !byte.is_ascii_whitespace() {
                before = byte;
            }
        }
    }
}

#[cfg(test)]
mod tests;
