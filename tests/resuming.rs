//! A changed setting and existing results: a neutral one resumes, a deciding one is refused by name.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use jacobi_cli::plan::{eval_settings, plan};
use jacobi_cli::recipe::Recipe;
use jacobi_datasets::schema::eval_row::ModelRole;
use jacobi_datasets::{Differences, RecordedSettings};
use jacobi_eval::EvalModel;
use jacobi_model::Device;
use jacobi_trainer::{Ranks, TrainData, TrainError, TrainJob, train};
use jacobi_trajectory_gen::{GenerateError, GenerateJob, generate};
use serde_json::{Value, json};

use crate::recipe_keys::{keys, neutral};
use crate::root;

/// Settings under which each key can be changed alone.
const BASE: [&str; 18] = [
    "name=r",
    "output_dir=DIR/run",
    "model.path=DIR/model",
    "model.dtype=float32",
    "prompts.path=DIR/prompts.jsonl",
    "prompts.id_column=id",
    "prompts.filter_column=kind",
    "prompts.filter_drop=[\"bad\"]",
    "generate.max_new_tokens=8",
    "generate.temperature=0.5",
    "train.batch_size=2",
    "train.eval_steps=2",
    "train.eval_samples=1",
    "train.eval_max_new_tokens=4",
    "eval.max_new_tokens=8",
    "eval.prompts.path=DIR/prompts.jsonl",
    "eval.prompts.id_column=id",
    "eval.prompts.answer_column=answer",
];

/// Other values where [`other`] has none that can be used.
const VALUES: [(&str, &str); 27] = [
    ("model.dtype", "bfloat16"),
    ("model.path", "DIR/same-model"),
    ("prompts.path", "DIR/same-prompts.jsonl"),
    ("prompts.messages_column", "turns"),
    ("prompts.role_map", "{ bing = \"user\" }"),
    ("prompts.chat_template", "{{ messages }}"),
    ("prompts.chat_template_kwargs", "{ a = 1 }"),
    ("prompts.tools_column", "\"\""),
    ("prompts.filter_keep", "[\"good\"]"),
    ("prompts.template", "{{ prompt }}"),
    ("prompts.response_template", "{{ prompt }}"),
    ("prompts.answer_template", "{{ prompt }}"),
    ("eval.prompts.template", "{{ prompt }}"),
    ("eval.prompts.response_template", "{{ prompt }}"),
    ("eval.prompts.answer_template", "{{ prompt }}"),
    ("generate.memory_budget_gb", "1.5"),
    ("generate.responses", "DIR/responses.jsonl"),
    ("train.adapter", "{ rows = \"all\", rank = 2 }"),
    ("eval.prompts.path", "DIR/same-prompts.jsonl"),
    ("eval.prompts.messages_column", "turns"),
    ("eval.prompts.role_map", "{ bing = \"user\" }"),
    ("eval.prompts.chat_template", "{{ messages }}"),
    ("eval.prompts.chat_template_kwargs", "{ a = 1 }"),
    ("eval.prompts.tools_column", "\"\""),
    ("eval.prompts.filter_keep", "[\"good\"]"),
    ("eval.task", "gsm8k"),
    ("eval.tasks", "[{name = \"gsm8k\", path = \"DIR/prompts.jsonl\"}]"),
];

/// Whether `run` goes on under another value of keys that are outside of sections, and of those whose file decides.
const OTHER_KEYS: [(&str, bool); 4] =
    [("name", true), ("output_dir", true), ("seed", false), ("generate.responses", false)];

/// A directory with the files that the settings above name: `DIR` in them.
struct Fixture {
    dir: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        // Every column has a twin that other settings name.
        let line = |id: usize| {
            let (id, prompt, answer) =
                (format!("p{id}"), format!("Anna has {id} apples."), format!("#### {id}"));
            let turns = json!([{"role": "user", "content": prompt}]);
            let row = json!({
                "id": id, "kind": "good", "prompt": prompt, "question": prompt, "answer": answer, "turns": turns,
                "idx": id, "kindx": "good", "promptx": prompt, "answerx": answer, "x": prompt,
            });
            format!("{row}\n")
        };
        let prompts: String = (1..=4).map(line).collect();
        fs_err::write(path("prompts.jsonl"), &prompts).unwrap();
        fs_err::write(path("same-prompts.jsonl"), &prompts).unwrap();
        let answers: String =
            (1..=4).map(|id| format!("{{\"id\": \"p{id}\", \"response\": \"yes\"}}\n")).collect();
        fs_err::write(path("responses.jsonl"), &answers).unwrap();
        fs_err::write(path("same-responses.jsonl"), &answers).unwrap();
        for name in ["model", "same-model"] {
            std::os::unix::fs::symlink(root().join("datasets/default/model"), path(name)).unwrap();
        }
        fs_err::write(path("r.toml"), "").unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    /// The recipe of [`BASE`] with one more assignment.
    fn recipe(&self, key: &str, value: &str) -> Recipe {
        let dir = self.dir.path().display().to_string();
        let assignments: Vec<String> = BASE
            .map(str::to_owned)
            .into_iter()
            .chain([format!("{key}={value}")])
            .map(|assignment| assignment.replace("DIR", &dir))
            .collect();
        Recipe::load(&self.path("r.toml"), &assignments)
            .unwrap_or_else(|error| panic!("{key} = {value}: {error:#}"))
    }

    fn base(&self) -> Recipe {
        self.recipe("seed", "0")
    }
}

/// Another value for a key that is `value` now, as `--set` takes it.
fn other(key: &str, schema: &Value, value: &Value) -> String {
    if let Some((_, other)) = VALUES.iter().find(|(name, _)| *name == key) {
        return (*other).to_owned();
    }
    let choices = schema["oneOf"].as_array().or(schema["anyOf"].as_array());
    let names = choices.into_iter().flatten().filter_map(|choice| choice["const"].as_str());
    let other_name = names.into_iter().find(|name| *name != value);
    match value {
        Value::Bool(is) => (!is).to_string(),
        Value::Number(number) => match number.as_u64() {
            Some(count) => (count + 1).to_string(),
            None => (0.5 * number.as_f64().unwrap() + 0.125).to_string(),
        },
        Value::String(text) => match (other_name, schema["anyOf"].as_array()) {
            (Some(name), _) => name.to_owned(),
            (None, Some(_)) => "2".to_owned(),
            (None, None) if schema.get("pattern").is_some() => "cpu".to_owned(),
            (None, None) => format!("{text}x"),
        },
        Value::Null if schema["type"] == "integer" => "1".to_owned(),
        Value::Null => "x".to_owned(),
        Value::Array(_) if schema["items"]["type"] == "string" => "[\"y\"]".to_owned(),
        Value::Array(_) => "[]".to_owned(),
        Value::Object(_) => panic!("{key} is a section"),
    }
}

/// Every key of a recipe but those of `rounds`, and a recipe with another value for it.
fn changes(fixture: &Fixture) -> Vec<(String, Recipe)> {
    let now = serde_json::to_value(fixture.base()).unwrap();
    let mut changed = Vec::new();
    let value_of = |key: &str| now.pointer(&format!("/{}", key.replace('.', "/")));
    for (mut key, schema) in keys(&Recipe::schema()).into_iter().filter(|(key, _)| key != "rounds") {
        // A table that the base leaves out is one key.
        while value_of(&key).is_none() {
            key.truncate(key.rfind('.').unwrap());
        }
        if changed.last().is_some_and(|(last, _)| *last == key) {
            continue;
        }
        let value = value_of(&key).unwrap();
        let recipe = fixture.recipe(&key, &other(&key, &schema, value));
        changed.push((key, recipe));
    }
    assert!(changed.len() > 100, "{} keys", changed.len());
    changed
}

fn names(differences: &Differences) -> Vec<&str> {
    differences.0.iter().map(|difference| difference.key.as_str()).collect()
}

/// Whether `found` has `key`, or a key of the table `key`.
fn has(found: &[&str], key: &str) -> bool {
    found
        .iter()
        .any(|name| name.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
}

fn neutral_keys() -> BTreeSet<String> {
    neutral().into_iter().map(|(key, _)| key).collect()
}

#[test]
fn neutral_keys_are_keys() {
    let all: BTreeSet<String> = keys(&Recipe::schema()).into_iter().map(|(key, _)| key).collect();
    assert_eq!(neutral_keys().difference(&all).collect::<Vec<_>>(), [""; 0]);
}

#[test]
fn run_goes_on_under_another_neutral_setting_and_refuses_every_other_by_name() {
    let fixture = Fixture::new();
    let base = plan(&fixture.base()).unwrap();
    let neutral = neutral_keys();
    for (key, recipe) in changes(&fixture) {
        if key == "model.init" {
            assert!(plan(&recipe).unwrap_err().to_string().contains("model.init"));
            continue;
        }
        let now = plan(&recipe).unwrap_or_else(|error| panic!("{key}: {error:#}"));
        // `tune.enabled` adds or removes a stage.
        let stages =
            now.iter().filter_map(|now| Some((now, base.iter().find(|base| base.name == now.name)?)));
        let all: Vec<Differences> =
            stages.map(|(now, base)| now.settings.differences(&base.settings)).collect();
        let found: Vec<&str> = all.iter().flat_map(names).collect();
        let other_key = OTHER_KEYS.iter().find(|(name, _)| *name == key);
        let is_neutral = other_key.map_or_else(|| neutral.contains(&key), |(_, goes_on)| *goes_on);
        assert_eq!(has(&found, &key), !is_neutral, "{key}: {found:?}");
        assert!(!is_neutral || found.is_empty(), "{key}: {found:?}");
    }
    // Responses and prompts are identified by the content of their files.
    let responses = ["responses.jsonl", "same-responses.jsonl"].map(|name| {
        let recipe = fixture.recipe("generate.responses", &fixture.path(name).display().to_string());
        plan(&recipe).unwrap()[0].settings.clone()
    });
    assert!(responses[1].differences(&responses[0]).is_empty());
    let rounds = plan(&fixture.recipe("rounds", "[{}, {}]")).unwrap();
    let export = |stages: &[jacobi_cli::plan::Stage]| {
        stages.iter().find(|stage| stage.name == "export").unwrap().settings.clone()
    };
    assert_eq!(names(&export(&rounds).differences(&export(&base))), ["rounds"]);
}

#[test]
fn eval_goes_on_under_another_neutral_setting_and_refuses_every_other_by_name() {
    let fixture = Fixture::new();
    let models = [EvalModel {
        name: "m".to_owned(),
        role: ModelRole::Base,
        dir: fixture.path("model"),
        adapter: None,
    }];
    let settings = |recipe: &Recipe| -> RecordedSettings { eval_settings(recipe, &models).unwrap() };
    let base = settings(&fixture.base());
    let neutral = neutral_keys();
    for (key, recipe) in changes(&fixture) {
        let found = settings(&recipe).differences(&base);
        let of_eval = key.starts_with("eval.") && !neutral.contains(&key);
        let decides = of_eval || ["seed", "model.dtype", "model.device", "model.graphs"].contains(&&*key);
        if key == "generate.block_size" {
            // The decoders of an evaluation follow it where the recipe lists none.
            assert_eq!(names(&found), ["eval.decoders"]);
            continue;
        }
        assert_eq!(has(&names(&found), &key), decides, "{key}:{found}");
        assert!(decides || found.is_empty(), "{key}:{found}");
    }
}

#[test]
fn generate_and_train_go_on_under_another_neutral_setting_and_refuse_every_other_by_name() {
    let fixture = Fixture::new();
    let base = fixture.base();
    let neutral = neutral_keys();
    let (trajectories, output) = (fixture.path("trajectories"), fixture.path("round"));
    assert_eq!(generated(&base, &trajectories), [""; 0]);
    assert_eq!(trained(&base, &trajectories, &output), [""; 0]);
    for (key, recipe) in changes(&fixture) {
        let is_deciding = |section: &str| key.starts_with(section) && !neutral.contains(&key);
        let is_common = ["seed", "model.dtype"].contains(&&*key);
        if key.starts_with("generate.") || key.starts_with("model.") || is_common {
            let decides = is_deciding("generate.") || is_common || key == "generate.responses";
            let found = generated(&recipe, &trajectories);
            assert_eq!(found.contains(&key), decides, "{key}: {found:?}");
            assert!(decides || found.is_empty(), "{key}: {found:?}");
        }
        if key.starts_with("train.") || is_common {
            let decides = is_deciding("train.") || is_common;
            let found = trained(&recipe, &trajectories, &output);
            let found: Vec<&str> = found.iter().map(String::as_str).collect();
            assert_eq!(has(&found, &key), decides, "{key}: {found:?}");
            assert!(decides || found.is_empty(), "{key}: {found:?}");
        }
    }
}

/// The settings for which `jacobi generate` refuses to go on in `output`.
fn generated(recipe: &Recipe, output: &Path) -> Vec<String> {
    let round = &recipe.rounds[0];
    let job = GenerateJob {
        model_dir: &recipe.model.path,
        adapter: None,
        dtype: recipe.model.dtype,
        device: Device::Cpu,
        prompts: &round.prompts,
        output,
        config: &round.generate,
        train: round.train.pack(),
        seed: recipe.seed,
        rank: None,
        overwrite: false,
    };
    match generate(&job, &AtomicBool::new(false), &mut |_| {}) {
        Ok(outcome) => {
            assert!(outcome.manifest.complete && outcome.manifest.written == 4);
            Vec::new()
        }
        Err(GenerateError::Mismatch { changes, .. }) => {
            names(&changes).into_iter().map(str::to_owned).collect()
        }
        Err(error) => panic!("{error}"),
    }
}

/// The settings for which `jacobi train` refuses to go on in `output`.
fn trained(recipe: &Recipe, trajectories: &Path, output: &Path) -> Vec<String> {
    let job = TrainJob {
        model_dir: &recipe.model.path,
        adapter: None,
        init: recipe.model.init,
        dtype: recipe.model.dtype,
        device: Device::Cpu,
        data: TrainData::Trajectories(trajectories.to_path_buf()),
        output,
        config: &recipe.rounds[0].train,
        seed: recipe.seed,
        overwrite: false,
        ranks: Ranks::alone(),
    };
    match train(job, &AtomicBool::new(false), &mut |_| {}) {
        Ok(outcome) => {
            assert!(outcome.finished);
            Vec::new()
        }
        Err(TrainError::Mismatch { differences, .. }) => {
            names(&differences).into_iter().map(str::to_owned).collect()
        }
        Err(error) => panic!("{error}"),
    }
}
