//! The files that the binary carries: `jacobi quickstart`, and every recipe planned on the config of its model.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{BINARY, fail, root, succeed};

#[test]
fn quickstart_writes_its_files_runs_and_resumes_and_replaces_no_file() {
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path();
    let mut arguments = vec!["quickstart"];
    for setting in [
        "prompts.limit=4",
        "generate.max_new_tokens=8",
        "train.max_steps=1",
        "eval.max_new_tokens=8",
        "eval.prompts.limit=1",
        "eval.decoders=[{name = \"ar\"}]",
    ] {
        arguments.extend(["--set", setting]);
    }
    let messages = succeed(dir, &arguments);
    assert!(messages.contains("wrote 14 files"), "{messages}");
    for file in ["runs/quickstart/export/model.safetensors", "runs/quickstart/report/report.html"] {
        assert!(dir.join(file).is_file(), "{file}");
    }
    let messages = succeed(dir, &arguments);
    assert!(!messages.contains("wrote"), "{messages}");
    assert_eq!(messages.matches("finished before, skipped").count(), 5, "{messages}");
    // The plain verb continues the same run, on the written recipe.
    let same = [&["run", "--config", "configs/quickstart.toml"], &arguments[1..]].concat();
    assert_eq!(succeed(dir, &same).matches("finished before, skipped").count(), 5);
    let messages = fail(dir, &["quickstart"], 2);
    assert!(messages.contains("prompts.limit") && messages.contains("--overwrite"), "{messages}");
    fs_err::write(dir.join("configs/quickstart.toml"), "seed = 1\n").unwrap();
    let messages = fail(dir, &arguments, 2);
    assert!(messages.contains("configs/quickstart.toml differs from"), "{messages}");
    assert_eq!(fs_err::read_to_string(dir.join("configs/quickstart.toml")).unwrap(), "seed = 1\n");
}

/// Recipes and the config.json that each is for; those without one bring their model.
const RECIPES: [(&str, Option<&str>); 8] = [
    ("default-model", None),
    ("quickstart", None),
    ("quickstart-adapter", None),
    ("smollm2-adapter", Some("smollm2-135m-instruct")),
    ("smollm2-gsm8k", Some("smollm2-135m-instruct")),
    ("qwen2.5-coder-7b", Some("qwen2.5-coder-7b-instruct")),
    ("qwen2.5-coder-7b-adapter", Some("qwen2.5-coder-7b-instruct")),
    ("qwen2.5-math-7b", Some("qwen2.5-math-7b-instruct")),
];

#[test]
fn every_recipe_plans_its_run_on_the_config_of_its_model() {
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path();
    let row = r#"{"id": "a", "source": "a", "task_id": "a", "prompt": "Hi", "response": "Hi", "input": "Hi", "question": "1 + 1?",
        "average_test_score": "1", "answer": "2 #### 2", "conversations": [{"from": "user", "value": "Hi"}, {"from": "assistant", "value": "Hi"}]}"#;
    fs_err::write(dir.join("rows.jsonl"), row.replace('\n', " ") + "\n").unwrap();
    for entry in fs_err::read_dir(root().join("configs")).unwrap() {
        let name = entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned();
        assert!(RECIPES.iter().any(|(recipe, _)| *recipe == name), "{name} is planned by no test");
    }
    for (name, config) in RECIPES {
        let model =
            config.map_or_else(|| root().join("datasets/default/model"), |config| model_of(dir, config));
        let recipe = root().join(format!("configs/{name}.toml"));
        let set = |key: &str, value: &str| ["--set".to_owned(), format!("{key}={value}")];
        let mut arguments =
            vec!["--config".to_owned(), recipe.to_str().unwrap().to_owned(), "--dry-run".to_owned()];
        arguments.extend(set("model.path", model.to_str().unwrap()));
        arguments.extend(set("prompts.path", "rows.jsonl"));
        // A later round of its own prompts would look for them behind the one row.
        arguments.extend(set("prompts.offset", "0"));
        // Their questions are on the hub.
        arguments.extend(set("eval.tasks", "[]"));
        arguments.extend(set("eval.prompts.path", "rows.jsonl"));
        arguments.extend(set("output_dir", "run"));
        let verb = if name == "default-model" { "train" } else { "run" };
        let output = Command::new(BINARY).current_dir(dir).arg(verb).args(&arguments).output().unwrap();
        let (text, messages) =
            (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        assert!(output.status.success(), "{name}: {messages}");
        assert!(text.contains("learning rate"), "{name}: {text}");
        let parts: &[&str] = match name {
            "qwen2.5-coder-7b-adapter" => &["round-1/generate", "block_size 8", "2e-4", "rank = 64"],
            _ if config.is_some_and(|config| config.starts_with("qwen")) => {
                &["round-1/generate", "block_size 16", "round-2/generate", "block_size 32", "1e-5", "1e-6"]
            }
            _ => &[],
        };
        for part in parts {
            assert!(text.contains(part), "{name}: {part:?} is missing: {text}");
        }
    }
    assert!(!dir.join("run").exists());
}

/// A model directory without weights: a config.json of tests/model-configs beside a tokenizer.
fn model_of(dir: &Path, config: &str) -> PathBuf {
    let model = dir.join(config);
    fs_err::create_dir_all(&model).unwrap();
    fs_err::copy(root().join(format!("tests/model-configs/{config}.json")), model.join("config.json"))
        .unwrap();
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        fs_err::copy(root().join("datasets/default/model").join(file), model.join(file)).unwrap();
    }
    model
}
