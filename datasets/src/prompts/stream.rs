//! Prompt files as a stream: only the rows at hand are in memory, however long the file is (a JSON array excepted).

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use super::files::Source;
use super::row::{self, Row, Rows};
use super::wording::Wording;
use super::{BadRow, Prompt, PromptFormat, PromptsConfig, files, parquet_rows, text_rows};
use crate::error::DatasetError;
use crate::hub::Hub;

/// Rows read before the first one is given: a column that none of them has is noticed before any work is done.
const LOOK_AHEAD: usize = 1000;

/// The rows `offset .. offset + limit` of the configured file, good and bad, in order. An error ends it.
pub struct PromptStream {
    config: PromptsConfig,
    wording: Wording,
    /// The columns to read, each with the setting that names it.
    wanted: Vec<(&'static str, String)>,
    files: VecDeque<Source>,
    hub: Hub,
    /// Of the file being read.
    rows: Option<Rows>,
    /// The name of that file, when there are several.
    reading: Option<Arc<str>>,
    several: bool,
    ahead: VecDeque<Result<Row, BadRow>>,
    columns: Columns,
    /// Rows that take part, read so far.
    read: usize,
    given: usize,
    ended: bool,
}

/// Opens the configured file and reads a little ahead.
///
/// # Errors
/// `Missing`, `PromptPathIsDirectory`, `PromptFormatUnknown`, `NoPrompts`, `MissingColumn`, `Json` (a JSON
/// file that is no array), `Parquet`, `Io`, `HubPath`, `Hub`, `HubOffline`, `Template`. The stream's own items can further be `NoPromptsSelected`.
pub fn stream_prompts(config: &PromptsConfig) -> Result<PromptStream, DatasetError> {
    stream_prompts_from(config, &Hub::from_environment())
}

/// The same, with files of the hub from `hub`. Each is fetched when it is reached.
///
/// # Errors
/// As [`stream_prompts`].
pub fn stream_prompts_from(config: &PromptsConfig, hub: &Hub) -> Result<PromptStream, DatasetError> {
    let wording = Wording::of(config)?;
    let files: VecDeque<Source> = files::find(config, hub)?.into();
    let mut stream = PromptStream {
        config: config.clone(),
        wanted: row::wanted(config, &wording),
        wording,
        several: files.len() > 1,
        files,
        hub: hub.clone(),
        rows: None,
        reading: None,
        ahead: VecDeque::new(),
        columns: Columns::default(),
        read: 0,
        given: 0,
        ended: false,
    };
    while stream.ahead.len() < LOOK_AHEAD {
        match stream.next_of_files() {
            Some(row) => stream.ahead.push_back(row?),
            None => {
                if stream.ahead.is_empty() {
                    return Err(DatasetError::NoPrompts { path: config.path.clone() });
                }
                stream.columns.check(config, &stream.wanted)?;
                break;
            }
        }
    }
    Ok(stream)
}

impl PromptStream {
    fn next_of_files(&mut self) -> Option<Result<Result<Row, BadRow>, DatasetError>> {
        loop {
            if let Some(mut row) = self.rows.as_mut().and_then(Iterator::next) {
                match &mut row {
                    Ok(Ok(row)) => {
                        self.columns.see(row);
                        row.file = self.reading.clone();
                    }
                    Ok(Err(bad)) => bad.file = self.reading.as_deref().map(str::to_owned),
                    Err(_) => {}
                }
                return Some(row);
            }
            let source = self.files.pop_front()?;
            self.reading = self.several.then(|| source.name().into());
            match source.locate(&self.hub).and_then(|path| self.open(&path)) {
                Ok(rows) => self.rows = Some(rows),
                Err(error) => return Some(Err(error)),
            }
        }
    }

    fn open(&self, path: &std::path::Path) -> Result<Rows, DatasetError> {
        match files::format(self.config.format, path)? {
            PromptFormat::Parquet => parquet_rows::open(path, Some(&self.wanted)),
            PromptFormat::Json => text_rows::open_json(path),
            PromptFormat::Jsonl => text_rows::open_jsonl(path),
            PromptFormat::Auto => text_rows::open_json_or_jsonl(path),
        }
    }

    /// The next row that takes part.
    fn next_row(&mut self) -> Option<Result<Result<Row, BadRow>, DatasetError>> {
        loop {
            let row = match self.ahead.pop_front() {
                Some(row) => Ok(row),
                None => self.next_of_files()?,
            };
            match &row {
                Ok(Ok(good)) if !row::takes_part(&self.config, good) => {}
                _ => {
                    self.read += 1;
                    return Some(row);
                }
            }
        }
    }

    fn next_selected(&mut self) -> Option<Result<Result<Row, BadRow>, DatasetError>> {
        if self.config.limit.is_some_and(|limit| self.given >= limit && self.given > 0) {
            return None;
        }
        loop {
            match self.next_row() {
                Some(Ok(row)) => {
                    if self.read > self.config.offset && self.config.limit != Some(0) {
                        self.given += 1;
                        return Some(Ok(row));
                    }
                }
                Some(Err(error)) => return Some(Err(error)),
                None => return self.check_end().err().map(Err),
            }
        }
    }

    /// What can only be said once all rows have been read.
    fn check_end(&self) -> Result<(), DatasetError> {
        self.columns.check(&self.config, &self.wanted)?;
        let PromptsConfig { path, offset, limit, filter_column, .. } = &self.config;
        if self.given == 0 {
            let (path, offset, limit) = (path.clone(), *offset, *limit);
            let let_through = |column| format!(" that prompts.filter_column = {column} lets through");
            let filter = filter_column.as_ref().map_or_else(String::new, let_through);
            return Err(DatasetError::NoPromptsSelected { path, rows: self.read, filter, offset, limit });
        }
        Ok(())
    }
}

impl Iterator for PromptStream {
    type Item = Result<Result<Prompt, BadRow>, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let row = self.next_selected();
        self.ended = !matches!(row, Some(Ok(_)));
        let prompt =
            |row: Result<Row, BadRow>| row.and_then(|row| row::to_prompt(&self.config, &self.wording, &row));
        Some(row?.map(prompt))
    }
}

/// The columns that readable rows had.
#[derive(Default)]
struct Columns {
    seen: BTreeSet<String>,
    /// Those of the first row, in its order.
    first: Vec<String>,
}

impl Columns {
    fn see(&mut self, row: &Row) {
        if self.first.is_empty() {
            self.first = row.columns.keys().cloned().collect();
        }
        for name in row.columns.keys() {
            if !self.seen.contains(name) {
                self.seen.insert(name.clone());
            }
        }
    }

    /// A column that no readable row has is a mistake in the configuration, not in the rows.
    fn check(&self, config: &PromptsConfig, wanted: &[(&'static str, String)]) -> Result<(), DatasetError> {
        if self.first.is_empty() {
            return Ok(());
        }
        let missing = wanted.iter().find(|(_, column)| !self.seen.contains(column));
        match missing {
            None => Ok(()),
            Some((setting, column)) => Err(DatasetError::MissingColumn {
                path: config.path.clone(),
                column: column.clone(),
                setting,
                available: self.first.clone(),
            }),
        }
    }
}
