//! Rows of files of comma- or tab-separated values. Every value is text, as it is in the file.

use std::collections::HashSet;
use std::io::{BufRead, Cursor, Read};
use std::path::Path;

use csv::{ByteRecord, ReaderBuilder};
use serde_json::{Map, Value};

use super::row::{Names, Row, RowResult, Rows};
use super::{BadRow, Place};
use crate::error::DatasetError;

/// A last line of our own. A quote that is never closed takes it into its field.
const END: &[u8] = b"\n\x04\n";

/// Reads values with a header, row by row.
pub(super) fn open(
    path: &Path,
    text: Box<dyn BufRead>,
    delimiter: u8,
    names: Names,
) -> Result<Rows, DatasetError> {
    let reader =
        ReaderBuilder::new().delimiter(delimiter).flexible(true).from_reader(text.chain(Cursor::new(END)));
    let mut rows = CsvRows { reader, path: path.to_path_buf(), header: Vec::new(), count: 0, names };
    let header = rows.reader.byte_headers().map_err(|error| unreadable(path, error))?;
    if is_end(header) {
        return Ok(Box::new(std::iter::empty()));
    }
    rows.header = header.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
    rows.check_header()?;
    Ok(Box::new(rows))
}

struct CsvRows<R> {
    reader: csv::Reader<R>,
    path: std::path::PathBuf,
    header: Vec<String>,
    /// Rows so far.
    count: usize,
    names: Names,
}

impl<R: Read> Iterator for CsvRows<R> {
    type Item = RowResult;

    fn next(&mut self) -> Option<Self::Item> {
        let mut record = ByteRecord::new();
        match self.reader.read_byte_record(&mut record) {
            Ok(_) if is_end(&record) => None,
            Ok(true) => {
                self.count += 1;
                let at = Place::Row(self.count);
                if record.iter().any(|value| value.ends_with(END)) {
                    return Some(Err(DatasetError::BadRow {
                        path: self.path.clone(),
                        place: at.to_string(),
                        reason: "a quoted value never ends: close its quote, and double each quote within it"
                            .to_owned(),
                    }));
                }
                Some(Ok(self.row(at, &record)))
            }
            Ok(false) => None,
            Err(error) => Some(Err(unreadable(&self.path, error))),
        }
    }
}

impl<R> CsvRows<R> {
    /// Refuses a name that several of the columns to read have. Columns without a name are not read.
    fn check_header(&self) -> Result<(), DatasetError> {
        let mut seen = HashSet::new();
        let is_read = |name: &&String| !name.is_empty() && self.names.contain(name);
        match self.header.iter().filter(is_read).find(|name| !seen.insert(*name)) {
            Some(name) => Err(DatasetError::several_columns(&self.path, name)),
            None => Ok(()),
        }
    }

    /// A short row lacks its last columns; a long one is bad.
    fn row(&self, at: Place, record: &ByteRecord) -> Result<Row, BadRow> {
        let (values, columns) = (record.len(), self.header.len());
        if values > columns {
            return Err(BadRow::new(at, format!("{values} values, but the header has {columns}")));
        }
        let value = |(index, name): (usize, &String)| match record.get(index) {
            Some(value) if self.names.contain(name) => match std::str::from_utf8(value) {
                Ok(text) => Ok((name.clone(), text.into())),
                Err(error) => Err(BadRow::new(at, format!("`{name}` is not UTF-8: {error}"))),
            },
            _ => Ok((name.clone(), Value::Null)),
        };
        let columns = self.header.iter().enumerate().map(value).collect::<Result<Map<_, _>, _>>()?;
        Ok(Row { file: None, at, columns })
    }
}

fn is_end(record: &ByteRecord) -> bool {
    record.len() == 1 && record.get(0) == Some(END.trim_ascii())
}

fn unreadable(path: &Path, error: csv::Error) -> DatasetError {
    DatasetError::io("read", path)(error.into())
}

#[cfg(test)]
mod tests;
