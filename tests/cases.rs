//! tests/cases: files as other tools write them, each with its right value.
//!
//! `JACOBI_KEEP_CASES=DIR cargo test --test cli every_case` leaves the models of all cases in DIR, which has to be empty,
//! for scripts/golden/cases.py.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use jacobi_datasets::{PromptsConfig, Tokenizer, Trajectory, read_all};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::case_model::{ModelSpec, merge, write_model};
use super::{BINARY, root};

/// Cases that are not right yet. One that has become right has to leave this list.
const NOT_YET: &[&str] = &[];

/// A folder of tests/cases. README.md there explains the fields.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Folder {
    kind: String,
    source: String,
    #[serde(default)]
    input: Map<String, Value>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    kind: Option<String>,
    source: Option<String>,
    #[serde(default)]
    input: Map<String, Value>,
    /// A [`Right`].
    right: Map<String, Value>,
    /// The folder, and its input with that of the case.
    #[serde(skip)]
    folder: PathBuf,
    #[serde(skip)]
    merged: Input,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Input {
    verb: Option<String>,
    prompts: Map<String, Value>,
    responses: Option<String>,
    prompt: String,
    raw: bool,
    new_tokens: Option<usize>,
    model: ModelSpec,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Right {
    prompts: Option<BTreeMap<String, String>>,
    texts: Option<Vec<String>>,
    tokens: Option<BTreeMap<String, Vec<u32>>>,
    responses: Option<BTreeMap<String, String>>,
    failed: Option<BTreeMap<String, Words>>,
    prompt_tokens: Option<Vec<u32>>,
    response_tokens: Option<Vec<u32>>,
    refused: Option<Words>,
    #[serde(default)]
    way_out: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Words {
    One(String),
    All(Vec<String>),
}

impl Words {
    /// Those that `text` lacks.
    fn missing_in<'a>(&'a self, text: &str) -> Vec<&'a str> {
        let words = match self {
            Self::One(word) => std::slice::from_ref(word),
            Self::All(words) => words,
        };
        words.iter().map(String::as_str).filter(|word| !text.contains(word)).collect()
    }
}

impl Case {
    /// `FOLDER/NAME`.
    fn path(&self) -> String {
        format!("{}/{}", self.folder.file_name().unwrap().to_string_lossy(), self.name)
    }
}

/// All cases, in order.
fn cases() -> Vec<Case> {
    let parent = root().join("tests/cases");
    let entries = fs_err::read_dir(parent).unwrap().map(|entry| entry.unwrap().path());
    let mut folders: Vec<PathBuf> = entries.filter(|path| path.is_dir()).collect();
    folders.sort();
    folders.into_iter().flat_map(|folder| read_folder(&folder)).collect()
}

fn read_folder(path: &Path) -> Vec<Case> {
    let text = fs_err::read_to_string(path.join("case.json")).unwrap();
    let folder: Folder =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert!(!folder.kind.is_empty() && !folder.source.is_empty(), "{}", path.display());
    let merged = |mut case: Case| {
        assert!(
            [&case.kind, &case.source].into_iter().flatten().all(|text| !text.is_empty()),
            "{}",
            case.name
        );
        let mut input = folder.input.clone();
        merge(&mut input, &case.input);
        assert!(!case.right.is_empty(), "{} has no right value", case.name);
        case.folder = path.to_path_buf();
        let input = serde_json::from_value(input.into());
        case.merged = input.unwrap_or_else(|error| panic!("{}: {error}", case.path()));
        case
    };
    folder.cases.into_iter().map(merged).collect()
}

/// What jacobi made of a case.
#[derive(Default)]
struct Outcome {
    code: Option<i32>,
    messages: String,
    rows: Vec<Trajectory>,
    /// Reasons of failed rows, by id.
    failed: BTreeMap<String, String>,
    /// What `decode --json` printed.
    printed: Value,
}

fn run(case: &Case, dir: &Path) -> Outcome {
    let (input, model) = (&case.merged, dir.join("model"));
    write_model(&model, &input.model, &case.folder);
    let new_tokens = input.new_tokens.unwrap_or(2).to_string();
    let decode = ["decode", "-m", "model", "--decoder", "ar", "--dtype", "float32", "--json", "--prompt"];
    let command =
        |arguments: &[&str]| Command::new(BINARY).current_dir(dir).args(arguments).output().unwrap();
    match input.verb.as_deref() {
        Some("decode") => {
            let raw: &[&str] = if input.raw { &["--raw"] } else { &[] };
            let length: &[&str] = &[&input.prompt, "--max-new-tokens", &new_tokens];
            let output = command(&[&decode, length, raw].concat());
            let printed = serde_json::from_slice(&output.stdout).unwrap_or_default();
            Outcome { printed, ..ended(&output) }
        }
        Some("inspect") => {
            ended(&command(&["inspect", "model", "--logits", &input.prompt, "-o", "logits.safetensors"]))
        }
        Some(verb) => panic!("{}: unknown verb {verb}", case.path()),
        None => {
            fs_err::write(dir.join("recipe.toml"), recipe(case)).unwrap();
            let output = command(&["generate", "-c", "recipe.toml", "-o", "rows"]);
            let rows = read_all(&dir.join("rows")).map(|(_, rows)| rows).unwrap_or_default();
            Outcome { rows, failed: failed_rows(case, &dir.join("rows")), ..ended(&output) }
        }
    }
}

fn ended(output: &Output) -> Outcome {
    let messages = String::from_utf8_lossy(&output.stderr).into_owned();
    Outcome { code: output.status.code(), messages, ..Outcome::default() }
}

fn recipe(case: &Case) -> String {
    let input = &case.merged;
    let mut prompts = input.prompts.clone();
    prompts["path"] = json!(case.folder.join(prompts["path"].as_str().unwrap()));
    let mut generate = json!({
        "max_new_tokens": input.new_tokens.unwrap_or(2),
        "block_size": 2,
        "duplicate_prompts": "keep",
        "max_token_repeats": 0,
        "max_line_repeats": 0,
    });
    if let Some(file) = &input.responses {
        generate["responses"] = json!(case.folder.join(file));
        generate["on_disagreement"] = json!("drop");
    }
    let model = json!({"path": "model", "dtype": "float32", "device": "cpu"});
    toml::to_string(&json!({"model": model, "prompts": prompts, "generate": generate})).unwrap()
}

/// The reasons in errors.jsonl by id. A row that could not be read is named there by its line.
fn failed_rows(case: &Case, rows: &Path) -> BTreeMap<String, String> {
    let prompts = &case.merged.prompts;
    let lines =
        fs_err::read_to_string(case.folder.join(prompts["path"].as_str().unwrap())).unwrap_or_default();
    let id_of = |line: &str| -> Option<String> {
        let row: Value = serde_json::from_str(line).ok()?;
        row[prompts.get("id_column")?.as_str()?].as_str().map(str::to_owned)
    };
    let by_line: BTreeMap<String, Option<String>> =
        (1..).zip(lines.lines()).map(|(number, line)| (format!("line {number}"), id_of(line))).collect();
    let errors = fs_err::read_to_string(rows.join("errors.jsonl")).unwrap_or_default();
    let reason = |line: &str| {
        let error: Value = serde_json::from_str(line).unwrap();
        let prompt = error["prompt"].as_str().unwrap();
        let id = by_line.get(prompt).cloned().flatten().unwrap_or_else(|| prompt.to_owned());
        (id, error["reason"].as_str().unwrap().to_owned())
    };
    errors.lines().map(reason).collect()
}

/// What differs from the right value.
fn differences(case: &Case, outcome: &Outcome, model: &Path) -> Vec<String> {
    let right: Right = serde_json::from_value(case.right.clone().into()).unwrap();
    let mut found = Vec::new();
    let mut must = |holds: bool, what: String| {
        if !holds {
            found.push(what);
        }
    };
    let (code, rows) = (outcome.code, &outcome.rows);
    must(matches!(code, Some(0..=2)) && (rows.is_empty() || code == Some(0)), format!("exit code {code:?}"));
    if let Some(tokens) = &right.tokens {
        let made: BTreeMap<_, _> =
            rows.iter().map(|row| (row.sample_id.clone(), row.prompt_tokens.clone())).collect();
        must(made == *tokens, format!("tokens {made:?}, not {tokens:?}"));
    }
    if right.prompts.is_some() || right.texts.is_some() || right.responses.is_some() {
        let tokenizer = Tokenizer::load(model).unwrap();
        let text = |ids: &[u32]| tokenizer.decode_with_special(ids);
        let prompts: BTreeMap<_, _> =
            rows.iter().map(|row| (row.sample_id.clone(), text(&row.prompt_tokens))).collect();
        let responses: BTreeMap<_, _> =
            rows.iter().map(|row| (row.sample_id.clone(), text(&row.response_tokens))).collect();
        let mut sorted: Vec<String> = rows.iter().map(|row| text(&row.prompt_tokens)).collect();
        sorted.sort();
        must(right.prompts.as_ref().is_none_or(|right| *right == prompts), format!("prompts {prompts:?}"));
        must(right.texts.as_ref().is_none_or(|right| *right == sorted), format!("texts {sorted:?}"));
        must(
            right.responses.as_ref().is_none_or(|right| *right == responses),
            format!("responses {responses:?}"),
        );
    }
    if let Some(failed) = &right.failed {
        let is_right = |(id, words): (&String, &Words)| {
            outcome.failed.get(id).is_some_and(|reason| words.missing_in(reason).is_empty())
        };
        let same = failed.len() == outcome.failed.len() && failed.iter().all(is_right);
        must(same, format!("failed rows {:?}", outcome.failed));
    }
    for (name, tokens) in
        [("prompt_tokens", &right.prompt_tokens), ("response_tokens", &right.response_tokens)]
    {
        let made = &outcome.printed[name];
        must(tokens.as_ref().is_none_or(|tokens| *made == json!(tokens)), format!("{name} {made}"));
    }
    if let Some(words) = &right.refused {
        let reasons = outcome.failed.values().map(String::as_str);
        let all = [&*outcome.messages].into_iter().chain(reasons).collect::<Vec<_>>().join("\n");
        must(matches!(code, Some(1 | 2)) && rows.is_empty(), format!("not refused: exit code {code:?}"));
        must(words.missing_in(&all).is_empty(), format!("{all:?} lacks {:?}", words.missing_in(&all)));
        must(!right.way_out || names_a_way_out(&all), format!("{all:?} names no way out"));
    }
    if !found.is_empty() {
        found.push(format!("jacobi said {:?} and failed {:?}", outcome.messages, outcome.failed));
    }
    found
}

/// Whether a message names a key of `[prompts]`, or the file that a model lacks.
fn names_a_way_out(message: &str) -> bool {
    let keys = serde_json::to_value(PromptsConfig::default()).unwrap();
    let is_named = |key: &String| message.contains(&format!("prompts.{key}"));
    message.contains("chat_template.jinja") || keys.as_object().unwrap().keys().any(is_named)
}

/// The differences of every case that has any, by its path.
fn run_all(cases: &[Case]) -> BTreeMap<String, Vec<String>> {
    let kept = std::env::var_os("JACOBI_KEEP_CASES").map(PathBuf::from);
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    let work = || {
        while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            let scratch = tempfile::tempdir().unwrap();
            let dir = kept.as_ref().map_or(scratch.path().to_path_buf(), |kept| kept.join(case.path()));
            fs_err::create_dir_all(&dir).unwrap();
            let found = differences(case, &run(case, &dir), &dir.join("model"));
            if !found.is_empty() {
                wrong.lock().unwrap().insert(case.path(), found);
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    wrong.into_inner().unwrap()
}

#[test]
fn every_case_has_its_right_value() {
    let cases = cases();
    let wrong = run_all(&cases);
    let paths: BTreeSet<String> = cases.iter().map(Case::path).collect();
    assert!(
        paths.len() == cases.len() && paths.len() > 100,
        "{} names of {} cases",
        paths.len(),
        cases.len()
    );
    let is_listed = |path: &str| NOT_YET.contains(&path);
    let mut messages: Vec<String> = wrong
        .iter()
        .filter(|(path, _)| !is_listed(path))
        .map(|(path, found)| format!("{path}:\n    {}", found.join("\n    ")))
        .collect();
    let is_right = |path: &&&str| !wrong.contains_key(**path);
    messages
        .extend(NOT_YET.iter().filter(is_right).map(|path| format!("{path} is right: take it off NOT_YET")));
    assert!(messages.is_empty(), "{} of {} cases:\n{}", messages.len(), cases.len(), messages.join("\n"));
}
