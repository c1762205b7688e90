//! Prompt files as a stream: only a few rows are in memory, however long the file is.

use std::collections::{BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use super::files::Source;
use super::row::{self, Row, RowResult, Rows, Wanted};
use super::templates::Templates;
use super::{BadRow, Prompt, PromptsConfig, files};
use crate::error::DatasetError;
use crate::hub::Hub;

/// Rows read in advance, so that a column that no row has is an error before any work is done.
const LOOK_AHEAD: usize = 1000;

/// The rows `offset .. offset + limit` of the configured files, good and bad, in order. An error ends the stream.
pub struct PromptStream {
    config: PromptsConfig,
    templates: Templates,
    /// The columns to read.
    wanted: Vec<Wanted>,
    files: VecDeque<Source>,
    hub: Hub,
    /// Rows of the current file.
    rows: Option<Rows>,
    /// Name of the current file, if there are several.
    current_file: Option<Arc<str>>,
    several: bool,
    ahead: VecDeque<Result<Row, BadRow>>,
    columns: Columns,
    /// Rows read so far that the filter keeps.
    kept: usize,
    returned: usize,
    ended: bool,
}

/// Opens the configured files and reads a few rows in advance.
///
/// # Errors
/// `Missing`, `Prompts`, `MissingColumn`, `BadRow` (a file of values whose quote never ends), `Parquet`, `Io`, `HubPath`, `Hub`, `HubOffline`, `Template`. The items of the stream can also be `Prompts`, if no row is selected.
pub fn stream_prompts(config: &PromptsConfig) -> Result<PromptStream, DatasetError> {
    stream_prompts_from(config, &Hub::from_environment())
}

/// As [`stream_prompts`], with files of the hub from `hub`. Each is downloaded when the stream reaches it.
///
/// # Errors
/// As [`stream_prompts`].
pub fn stream_prompts_from(config: &PromptsConfig, hub: &Hub) -> Result<PromptStream, DatasetError> {
    let templates = Templates::of(config)?;
    let files: VecDeque<Source> = files::find(config, hub)?.into();
    let mut stream = PromptStream {
        config: config.clone(),
        wanted: row::wanted(config, &templates),
        templates,
        several: files.len() > 1,
        files,
        hub: hub.clone(),
        rows: None,
        current_file: None,
        ahead: VecDeque::new(),
        columns: Columns::default(),
        kept: 0,
        returned: 0,
        ended: false,
    };
    while stream.ahead.len() < LOOK_AHEAD {
        match stream.next_in_files() {
            Some(row) => stream.ahead.push_back(row?),
            None => {
                if stream.ahead.is_empty() {
                    let path = config.path.display();
                    return Err(DatasetError::Prompts(format!("{path} holds no prompts: it is empty")));
                }
                stream.columns.check(config, &stream.wanted)?;
                break;
            }
        }
    }
    Ok(stream)
}

impl PromptStream {
    /// The next row of the files.
    fn next_in_files(&mut self) -> Option<RowResult> {
        loop {
            if let Some(mut row) = self.rows.as_mut().and_then(Iterator::next) {
                match &mut row {
                    Ok(Ok(row)) => {
                        self.columns.add(row);
                        row.file = self.current_file.clone();
                    }
                    Ok(Err(bad)) => bad.file = self.current_file.as_deref().map(str::to_owned),
                    Err(_) => {}
                }
                return Some(row);
            }
            let source = self.files.pop_front()?;
            self.current_file = self.several.then(|| source.name().into());
            let open = |path: PathBuf| files::open(&path, self.config.format, Some(&self.wanted));
            match source.locate(&self.hub).and_then(open) {
                Ok(rows) => self.rows = Some(rows),
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// The next row that the filter keeps.
    fn next_kept(&mut self) -> Option<RowResult> {
        loop {
            let row = match self.ahead.pop_front() {
                Some(row) => Ok(row),
                None => self.next_in_files()?,
            };
            match &row {
                Ok(Ok(good)) if !row::is_kept(&self.config, good) => {}
                _ => {
                    self.kept += 1;
                    return Some(row);
                }
            }
        }
    }

    /// The next row between `offset` and `offset + limit`.
    fn next_selected(&mut self) -> Option<RowResult> {
        if self.config.limit.is_some_and(|limit| self.returned >= limit && self.returned > 0) {
            return None;
        }
        loop {
            match self.next_kept() {
                Some(Ok(row)) => {
                    if self.kept > self.config.offset && self.config.limit != Some(0) {
                        self.returned += 1;
                        return Some(Ok(row));
                    }
                }
                Some(Err(error)) => return Some(Err(error)),
                None => return self.check_end().err().map(Err),
            }
        }
    }

    /// Checks that are possible only after the last row.
    fn check_end(&self) -> Result<(), DatasetError> {
        self.columns.check(&self.config, &self.wanted)?;
        let PromptsConfig { path, offset, limit, filter_column, .. } = &self.config;
        if self.returned == 0 {
            let keeps = |column| format!(" that prompts.filter_column = {column} keeps");
            let filter = filter_column.as_ref().map_or_else(String::new, keeps);
            let limit = limit.map_or_else(|| "none".to_owned(), |limit| limit.to_string());
            return Err(DatasetError::Prompts(format!(
                "prompts.offset = {offset} and prompts.limit = {limit} select none of the {} rows of {}{filter}",
                self.kept,
                path.display()
            )));
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
        let prompt = |row: Result<Row, BadRow>| {
            row.and_then(|row| row::to_prompt(&self.config, &self.templates, &row))
        };
        Some(row?.map(prompt))
    }
}

/// The columns of the readable rows.
#[derive(Default)]
struct Columns {
    seen: BTreeSet<String>,
    /// Columns of the first row, in file order.
    first: Vec<String>,
}

impl Columns {
    fn add(&mut self, row: &Row) {
        if self.first.is_empty() {
            self.first = row.columns.keys().cloned().collect();
        }
        for name in row.columns.keys() {
            if !self.seen.contains(name) {
                self.seen.insert(name.clone());
            }
        }
    }

    /// A wanted column that is in no readable row is an error of the configuration, not of the rows.
    fn check(&self, config: &PromptsConfig, wanted: &[Wanted]) -> Result<(), DatasetError> {
        if self.first.is_empty() {
            return Ok(());
        }
        let missing = wanted.iter().filter(|wanted| !self.seen.contains(&wanted.column));
        let mut missing = missing.filter_map(|wanted| Some((wanted.setting?, wanted.column.clone())));
        match missing.next() {
            None => Ok(()),
            Some((setting, column)) => Err(DatasetError::MissingColumn {
                path: config.path.clone(),
                column,
                setting,
                available: self.first.clone(),
            }),
        }
    }
}
