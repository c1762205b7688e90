//! Lays settings over each other: defaults, then the file, then `--set` flags, and says exactly where a bad one is.
//!
//! The file is first read as the typed recipe, because only then do errors carry a position. The flags are then
//! applied one by one to its table, and the recipe is read again after each, so that a failure belongs to its flag.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use toml::{Table, Value};

/// The sections that a round may override.
const ROUND_SECTIONS: [&str; 3] = ["prompts", "generate", "train"];

/// A configuration that cannot be used: always the user's to mend, so exit code 2.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the config; check the path given to --config")]
    Read(#[from] std::io::Error),
    /// The file is not TOML, or has a key or a value that the recipe does not know.
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

/// Reads `file`, lays `assignments` over it and completes every round from the base sections.
///
/// `T` is the recipe; it must refuse unknown keys. The table returned is one that `T` accepts, with at least one entry
/// in `rounds`. A flag on one of their sections wins over the rounds of the file; `rounds.2.train.*` names one round.
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
            forget_in_rounds(&mut candidate, &path);
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

/// How a flag's value can be meant: as TOML, else as a bare word. An empty one takes the key back to its default.
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

/// Puts `value` at `path`, making sections on the way; numbers index lists from 1.
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

fn forget_in_rounds(table: &mut Table, path: &[&str]) {
    for round in rounds_of(table) {
        if let (Some(Value::Table(section)), Some(&key)) = (round.get_mut(path[0]), path.get(1)) {
            section.remove(key);
        }
    }
}

/// Fills every round with what it does not override.
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

/// Serde's wording turned into ours: an unknown name comes with the nearest known one, or with all of them.
fn explain(message: &str) -> String {
    let kind =
        ["field", "variant"].into_iter().find(|kind| message.starts_with(&format!("unknown {kind} `")));
    let Some(kind) = kind else {
        return message.trim_end().replace('\n', ", ");
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

fn nearest<'a>(unknown: &str, known: &[&'a str]) -> Option<&'a str> {
    let limit = (unknown.chars().count() / 3).max(2);
    let scored = known.iter().map(|name| (strsim::damerau_levenshtein(unknown, name), *name));
    scored.filter(|(distance, _)| *distance <= limit).min().map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Deserialize, Debug, Default, PartialEq)]
    #[serde(default, deny_unknown_fields)]
    struct Plan {
        seed: u64,
        name: String,
        train: Train,
        rounds: Vec<Round>,
    }

    #[derive(Deserialize, Debug, Default, PartialEq)]
    #[serde(default, deny_unknown_fields)]
    struct Round {
        train: Train,
        generate: Table,
        prompts: Table,
    }

    #[derive(Deserialize, Debug, Default, PartialEq)]
    #[serde(default, deny_unknown_fields)]
    struct Train {
        learning_rate: f64,
        batch_size: usize,
        schedule: Schedule,
    }

    #[derive(Deserialize, Debug, Default, PartialEq)]
    #[serde(rename_all = "lowercase")]
    enum Schedule {
        #[default]
        Linear,
        Cosine,
    }

    fn read(text: &str, flags: &[&str]) -> Result<Plan, String> {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a.toml");
        fs_err::write(&file, text).unwrap();
        let flags: Vec<String> = flags.iter().map(ToString::to_string).collect();
        load::<Plan>(&file, &flags)
            .map(|table| table.try_into().unwrap())
            .map_err(|error| error.to_string().replace(&file.display().to_string(), "a.toml"))
    }

    #[test]
    fn bad_input_is_named_with_its_place() {
        let rows: [(&str, &[&str], &str); 13] = [
            (
                "seed = 1\n[train]\nlerning_rate = 1.0\n",
                &[],
                "a.toml:3:1: unknown key `lerning_rate`; did you mean `learning_rate`?",
            ),
            (
                "[train]\nzzzzzzzz = 1.0\n",
                &[],
                "a.toml:2:1: unknown key `zzzzzzzz`; known here: learning_rate, batch_size, schedule",
            ),
            ("[tarin]\n", &[], "a.toml:1:2: unknown key `tarin`; did you mean `train`?"),
            ("[train]\nbatch_size = \"4\"\n", &[], "a.toml:2:14: invalid type: string \"4\", expected usize"),
            ("[train]\nbatch_size = -4\n", &[], "a.toml:2:14: invalid value: integer `-4`, expected usize"),
            (
                "[train]\nschedule = \"cosin\"\n",
                &[],
                "a.toml:2:12: unknown value `cosin`; did you mean `cosine`?",
            ),
            (
                "[[rounds]]\n[rounds.train]\nbatchsize = 1\n",
                &[],
                "a.toml:3:1: unknown key `batchsize`; did you mean `batch_size`?",
            ),
            (
                "",
                &["train.bach_size=1"],
                "--set train.bach_size=1: unknown key `bach_size`; did you mean `batch_size`?",
            ),
            ("", &["seed"], "--set seed: expected section.key=value"),
            ("", &["seed.a=1"], "--set seed.a=1: unknown"),
            (
                "",
                &["train.batch_size=many"],
                "--set train.batch_size=many: invalid type: string \"many\", expected usize",
            ),
            (
                "",
                &["rounds.3.train.batch_size=1"],
                "--set rounds.3.train.batch_size=1: `rounds` has 1 entries, counted from 1; there is no 3",
            ),
            (
                "",
                &["tran.batch_size=1"],
                "--set tran.batch_size=1: unknown key `tran`; did you mean `train`?",
            ),
        ];
        for (text, flags, expected) in rows {
            let message = read(text, flags).unwrap_err();
            if expected.ends_with("unknown") {
                assert!(message.starts_with("--set seed.a=1: "), "{message}");
            } else {
                assert_eq!(message, expected, "{text:?} {flags:?}");
            }
        }
    }

    #[test]
    fn malformed_toml_is_placed() {
        let message = read("seed = 1\n[train\n", &[]).unwrap_err();
        assert!(message.starts_with("a.toml:2:"), "{message}");
        let message = read("name = \"abc\nseed = 2\n", &[]).unwrap_err();
        assert!(message.starts_with("a.toml:1:"), "{message}");
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let plan = read(
            "seed = 1\n[train]\nbatch_size = 4\n",
            &["seed=7", "name=two words", "train.schedule=cosine"],
        );
        let plan = plan.unwrap();
        assert_eq!((plan.seed, plan.name.as_str(), plan.train.batch_size), (7, "two words", 4));
        assert_eq!(plan.train.schedule, Schedule::Cosine);
        assert_eq!(read("", &["name=123"]).unwrap().name, "123");
        assert_eq!(read("seed = 3", &["seed="]).unwrap().seed, 0);
    }

    #[test]
    fn rounds_take_what_they_do_not_override() {
        let text = "[train]\nbatch_size = 4\nlearning_rate = 0.1\n[[rounds]]\n[[rounds]]\n[rounds.train]\nlearning_rate = 0.5\n";
        let rates = |flags: &[&str]| -> Vec<(usize, f64)> {
            let plan = read(text, flags).unwrap();
            plan.rounds.iter().map(|round| (round.train.batch_size, round.train.learning_rate)).collect()
        };
        assert_eq!(rates(&[]), [(4, 0.1), (4, 0.5)]);
        assert_eq!(rates(&["train.learning_rate=2.0"]), [(4, 2.0), (4, 2.0)]);
        assert_eq!(rates(&["rounds.1.train.batch_size=8"]), [(8, 0.1), (4, 0.5)]);
        assert_eq!(read("", &[]).unwrap().rounds.len(), 1);
    }
}
