//! Merges settings: defaults, then the file, then `--set` flags. Errors name the exact place of a bad setting.
//!
//! The file is first parsed as the typed recipe, because only then errors have a position. The flags are then applied to
//! its table one by one, and the recipe is parsed again after each, so that an error names its flag.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use toml::{Table, Value};

/// The sections that a round may override.
const ROUND_SECTIONS: [&str; 3] = ["prompts", "generate", "train"];

/// A configuration that cannot be used. Exit code 2.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the config; check the path given to --config")]
    Read(#[from] std::io::Error),
    /// The file is not TOML, or has an unknown key or a bad value.
    #[error("{}:{line}:{column}: {message}", file.display())]
    File {
        /// The config file.
        file: PathBuf,
        /// 1-based line.
        line: usize,
        /// 1-based column, in characters.
        column: usize,
        /// What is wrong, and the nearest name when a key is unknown.
        message: String,
    },
    /// A `--set` flag that the recipe refuses.
    #[error("--set {assignment}: {message}")]
    Flag {
        /// The flag's argument as typed.
        assignment: String,
        /// What is wrong, and the nearest name when a key is unknown.
        message: String,
    },
}

/// Reads `file`, applies `assignments`, and fills every round from the base sections.
///
/// `T` is the recipe; it must refuse unknown keys. `T` accepts the returned table, which has at least one entry
/// in `rounds`. A flag on a base section also overrides the rounds of the file; `rounds.2.train.*` sets one round only.
///
/// # Errors
/// See [`ConfigError`].
pub fn load<T: DeserializeOwned>(file: &Path, assignments: &[String]) -> Result<Table, ConfigError> {
    let text = fs_err::read_to_string(file)?;
    toml::from_str::<T>(&text).map_err(|error| at_position(file, &text, &error))?;
    let mut table: Table = toml::from_str(&text).map_err(|error| at_position(file, &text, &error))?;
    if !table.contains_key("rounds") {
        table.insert("rounds".into(), Value::Array(vec![Value::Table(Table::new())]));
    }
    for assignment in assignments {
        apply_flag::<T>(&mut table, assignment)?;
    }
    complete_rounds(&mut table);
    Ok(table)
}

fn at_position(file: &Path, text: &str, error: &toml::de::Error) -> ConfigError {
    let offset = error.span().map_or(0, |span| span.start.min(text.len()));
    let before = &text.as_bytes()[..offset];
    let line_start = before.iter().rposition(|&byte| byte == b'\n').map_or(0, |newline| newline + 1);
    ConfigError::File {
        file: file.into(),
        line: 1 + before.iter().filter(|&&byte| byte == b'\n').count(),
        column: 1 + String::from_utf8_lossy(&before[line_start..]).chars().count(),
        message: explain(error.message()),
    }
}

fn apply_flag<T: DeserializeOwned>(table: &mut Table, assignment: &str) -> Result<(), ConfigError> {
    let refuse = |message: String| ConfigError::Flag { assignment: assignment.into(), message };
    let Some((path, text)) = assignment.split_once('=') else {
        return Err(refuse("expected section.key=value".into()));
    };
    let path: Vec<&str> = path.trim().split('.').collect();
    let mut error = None;
    for value in readings(text.trim()) {
        let mut candidate = table.clone();
        if ROUND_SECTIONS.contains(&path[0]) {
            remove_from_rounds(&mut candidate, &path);
        }
        assign(&mut candidate, &path, value).map_err(&refuse)?;
        match T::deserialize(candidate.clone()) {
            Ok(_) => {
                *table = candidate;
                return Ok(());
            }
            Err(failure) => error = error.or(Some(explain(failure.message()))),
        }
    }
    Err(refuse(error.unwrap_or_else(|| "no value".into())))
}

/// The readings of a flag's value: TOML, else a bare word. An empty value restores the default.
fn readings(text: &str) -> Vec<Option<Value>> {
    if text.is_empty() {
        return vec![None];
    }
    let as_text = Some(Value::String(text.into()));
    match toml::from_str::<Table>(&format!("value = {text}")) {
        Ok(mut table) if table.len() == 1 => vec![table.remove("value"), as_text],
        _ => vec![as_text],
    }
}

/// Sets `value` at `path` and creates missing sections; numbers index lists from 1.
fn assign(table: &mut Table, path: &[&str], value: Option<Value>) -> Result<(), String> {
    let (&key, rest) = path.split_first().expect("str::split yields at least one part");
    if rest.is_empty() {
        match value {
            Some(value) => table.insert(key.into(), value),
            None => table.remove(key),
        };
        return Ok(());
    }
    match table.entry(key).or_insert_with(|| Value::Table(Table::new())) {
        Value::Table(inner) => assign(inner, rest, value),
        Value::Array(items) => {
            let count = items.len();
            let index: usize =
                rest[0].parse().map_err(|_| format!("`{key}` is a list; write {key}.1.NAME"))?;
            match index.checked_sub(1).and_then(|index| items.get_mut(index)) {
                Some(Value::Table(inner)) if rest.len() > 1 => assign(inner, &rest[1..], value),
                Some(_) => Err(format!("write the whole list: {key}=[..]")),
                None => Err(format!("`{key}` has {count} entries, counted from 1; there is no {index}")),
            }
        }
        _ => Err(format!("`{key}` is a value, not a section")),
    }
}

fn rounds_of(table: &mut Table) -> impl Iterator<Item = &mut Table> {
    table
        .get_mut("rounds")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
        .filter_map(Value::as_table_mut)
}

fn remove_from_rounds(table: &mut Table, path: &[&str]) {
    for round in rounds_of(table) {
        if let (Some(Value::Table(section)), Some(&key)) = (round.get_mut(path[0]), path.get(1)) {
            section.remove(key);
        }
    }
}

/// Fills every round with the base sections' values that it does not override.
fn complete_rounds(table: &mut Table) {
    for section in ROUND_SECTIONS {
        let base = table.get(section).and_then(Value::as_table).cloned().unwrap_or_default();
        for round in rounds_of(table) {
            let mut merged = base.clone();
            if let Some(Value::Table(own)) = round.remove(section) {
                merged.extend(own);
            }
            round.insert(section.into(), Value::Table(merged));
        }
    }
}

/// Rewrites serde's message: an unknown name comes with the nearest known name, or with all of them.
fn explain(message: &str) -> String {
    let kind =
        ["field", "variant"].into_iter().find(|kind| message.starts_with(&format!("unknown {kind} `")));
    let Some(kind) = kind else {
        return without_rust_types(message.trim_end()).replace('\n', ", ");
    };
    let mut names = message.split('`').skip(1).step_by(2);
    let unknown = names.next().unwrap_or_default();
    let known: Vec<&str> = names.collect();
    let what = if kind == "field" { "key" } else { "value" };
    match nearest(unknown, &known) {
        Some(name) => format!("unknown {what} `{unknown}`; did you mean `{name}`?"),
        None => format!("unknown {what} `{unknown}`; known here: {}", known.join(", ")),
    }
}

/// Replaces the names that serde has for numbers.
pub fn without_rust_types(message: &str) -> String {
    const WHOLE: [&str; 10] = ["usize", "u8", "u16", "u32", "u64", "isize", "i8", "i16", "i32", "i64"];
    let Some((before, expected)) = message.rsplit_once("expected ") else { return message.to_owned() };
    let end = expected.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(expected.len());
    let name = match &expected[..end] {
        "f32" | "f64" => "a number",
        name if WHOLE.contains(&name) => "a whole number",
        name => name,
    };
    format!("{before}expected {name}{}", &expected[end..])
}

fn nearest<'a>(unknown: &str, known: &[&'a str]) -> Option<&'a str> {
    let limit = (unknown.chars().count() / 3).max(2);
    let scored = known.iter().map(|name| (strsim::damerau_levenshtein(unknown, name), *name));
    scored.filter(|(distance, _)| *distance <= limit).min().map(|(_, name)| name)
}

#[cfg(test)]
mod tests;
