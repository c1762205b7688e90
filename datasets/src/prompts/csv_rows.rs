//! Rows of files of comma- or tab-separated values. Every value is text, as it is in the file.

use std::collections::{HashMap, HashSet};
use std::io::{BufRead, Cursor, Read};
use std::path::Path;

use csv::{ByteRecord, ReaderBuilder};
use serde_json::{Map, Value};

use super::BadRow;
use super::row::{Names, Row, RowResult, Rows};
use crate::error::DatasetError;

/// A last line of our own. A quote that is never closed takes it into its field.
const END: &[u8] = b"\n\x04\n";

/// Reads values with a header, line by line.
pub(super) fn open(
    path: &Path,
    text: Box<dyn BufRead>,
    delimiter: u8,
    names: Names,
) -> Result<Rows, DatasetError> {
    let reader =
        ReaderBuilder::new().delimiter(delimiter).flexible(true).from_reader(text.chain(Cursor::new(END)));
    let mut rows = CsvRows { reader, path: path.to_path_buf(), header: Vec::new(), names };
    let header = rows.reader.byte_headers().map_err(|error| unreadable(path, error))?;
    rows.header = distinct(header.iter().map(|name| String::from_utf8_lossy(name).into_owned()));
    Ok(if is_end(header) { Box::new(std::iter::empty()) } else { Box::new(rows) })
}

struct CsvRows<R> {
    reader: csv::Reader<R>,
    path: std::path::PathBuf,
    header: Vec<String>,
    names: Names,
}

impl<R: Read> Iterator for CsvRows<R> {
    type Item = RowResult;

    fn next(&mut self) -> Option<Self::Item> {
        let mut record = ByteRecord::new();
        match self.reader.read_byte_record(&mut record) {
            Ok(_) if is_end(&record) => None,
            Ok(true) => {
                let line = record.position().map_or(0, |position| position.line() as usize);
                if record.iter().any(|value| value.ends_with(END)) {
                    return Some(Err(DatasetError::BadRow {
                        path: self.path.clone(),
                        place: format!("line {line}"),
                        reason: "a quoted value never ends: close its quote, and double each quote within it"
                            .to_owned(),
                    }));
                }
                Some(Ok(self.row(line, &record)))
            }
            Ok(false) => None,
            Err(error) => Some(Err(unreadable(&self.path, error))),
        }
    }
}

impl<R> CsvRows<R> {
    /// A short row lacks its last columns; a long one is bad.
    fn row(&self, line: usize, record: &ByteRecord) -> Result<Row, BadRow> {
        let (values, columns) = (record.len(), self.header.len());
        if values > columns {
            return Err(BadRow::new(line, format!("{values} values, but the header has {columns}")));
        }
        let value = |(index, name): (usize, &String)| match record.get(index) {
            Some(value) if self.names.contain(name) => match std::str::from_utf8(value) {
                Ok(text) => Ok((name.clone(), text.into())),
                Err(error) => Err(BadRow::new(line, format!("`{name}` is not UTF-8: {error}"))),
            },
            _ => Ok((name.clone(), Value::Null)),
        };
        let columns = self.header.iter().enumerate().map(value).collect::<Result<Map<_, _>, _>>()?;
        Ok(Row { file: None, line, columns })
    }
}

fn is_end(record: &ByteRecord) -> bool {
    record.len() == 1 && record.get(0) == Some(END.trim_ascii())
}

/// The second `a` is `a.1`, as pandas names it.
fn distinct(header: impl Iterator<Item = String>) -> Vec<String> {
    let (mut taken, mut repeats) = (HashSet::new(), HashMap::<String, usize>::new());
    let distinct = |name: String| {
        let mut candidate = name.clone();
        while !taken.insert(candidate.clone()) {
            let count = repeats.entry(name.clone()).or_default();
            *count += 1;
            candidate = format!("{name}.{count}");
        }
        candidate
    };
    header.map(distinct).collect()
}

fn unreadable(path: &Path, error: csv::Error) -> DatasetError {
    DatasetError::io("read", path)(error.into())
}

#[cfg(test)]
mod tests;
