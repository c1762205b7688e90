//! `--adapter` in `jacobi decode`, `eval`, `tune` and `generate`, and `jacobi inspect` of an adapter.

use std::path::Path;
use std::process::Command;

use jacobi_datasets::{Trajectory, read_all};
use serde_json::{Value, json};

use super::hub_server::HubServer;
use super::{BINARY, jacobi, random_adapter, root};

/// A directory with the small model as `model`, a random adapter for it, and a task.
fn fixture() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path();
    std::os::unix::fs::symlink(root().join("datasets/default/model"), dir.join("model")).unwrap();
    random_adapter::save(&dir.join("model"), "model", &dir.join("adapter"));
    let task = "name = \"sums\"\nversion = 1\nfollows = \"mine\"\nextractor = \"number\"\nscorer = \"number\"\n\
                max_new_tokens = 12\n[prompts]\npath = \"sums.jsonl\"\ntemplate = \"What is {{ a }} + 2?\"\n\
                answer_template = \"{{ a + 2 }}\"\n";
    fs_err::write(dir.join("sums.toml"), task).unwrap();
    fs_err::write(
        dir.join("sums.jsonl"),
        "{\"a\": 1, \"prompt\": \"One?\"}\n{\"a\": 3, \"prompt\": \"Two?\"}\n",
    )
    .unwrap();
    directory
}

fn output_of(dir: &Path, arguments: &[&str]) -> String {
    let output = jacobi(dir, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn an_adapter_drafts_and_its_base_decides() {
    let directory = fixture();
    let prompt = ["--prompt", "Anna has 3 apples.", "--max-new-tokens", "40", "--json"];
    let decode = |arguments: &[&str]| -> Value {
        let text = output_of(directory.path(), &[&["decode"], arguments, &prompt].concat());
        serde_json::from_str(&text).unwrap()
    };
    let expected = &decode(&["--model", "model", "--decoder", "ar"])["text"];
    let widths =
        |found: &Value| found["stats"]["widths"].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let multi_block = ["--adapter", "adapter", "--decoder", "multi-block", "--block-size", "4"];
    let one = decode(&[&multi_block[..], &["--window", "sliding", "--pool-size", "0"]].concat());
    let two = decode(&[&multi_block[..], &["--passes", "two", "--filler", "vocabulary"]].concat());
    assert_eq!((&one["text"], &two["text"]), (expected, expected));
    assert!(widths(&one).contains(&"7".to_owned()), "four rows and three of the adapter: {one}");
    let counts = |found: &Value| ["forwards", "cycles"].map(|key| found["stats"][key].as_u64().unwrap());
    let ([passes, cycles], [both, half]) = (counts(&one), counts(&two));
    assert_eq!((cycles, half), (passes, both.div_ceil(2)), "{two}");
    assert!(widths(&two).iter().all(|width| width.parse::<usize>().unwrap() <= 4), "{two}");
    assert_eq!(&decode(&["--model", "model", "--adapter", "adapter"])["text"], expected);
}

#[test]
fn an_adapter_is_measured_beside_its_base_and_inspected() {
    let directory = fixture();
    let dir = directory.path();
    let arguments =
        ["eval", "--base", "model", "--adapter", "adapter", "--tasks", "sums.toml", "-o", "report"];
    output_of(dir, &[&arguments[..], &["--decoders", "jacobi"]].concat());
    let results: Value =
        serde_json::from_str(&fs_err::read_to_string(dir.join("report/results.json")).unwrap()).unwrap();
    let rows = results["rows"].as_array().unwrap();
    let shown: Vec<String> =
        rows.iter().map(|row| format!("{} {}", row["model_role"], row["decoder"])).collect();
    let expected = ["\"base\" \"ar\"", "\"base\" \"jacobi\"", "\"adapter\" \"ar\"", "\"adapter\" \"jacobi\""];
    assert_eq!(shown, expected);
    let parallel = rows.iter().filter(|row| row["decoder"] == "jacobi");
    let widest = |row: &Value| row["widths"].as_array().unwrap().last().unwrap()["rows"].as_u64().unwrap();
    // A draft reaches the 12th token: 12 rows, and with the adapter 11 more.
    let found: Vec<_> = parallel.map(|row| (row["exact_match_ar"].as_f64(), widest(row))).collect();
    assert_eq!(found, [(Some(1.0), 12), (Some(1.0), 23)]);
    let text = output_of(dir, &["inspect", "adapter"]);
    for part in ["adapter adapter", "base         model", "rank         2, alpha 4", "q_proj, down_proj"] {
        assert!(text.contains(part), "{text} lacks {part}");
    }
}

#[test]
fn a_tuned_adapter_decodes_as_its_own_jacobi_json_says() {
    let directory = fixture();
    let dir = directory.path();
    let tune =
        ["tune", "--adapter", "adapter", "--prompts", "sums.jsonl", "--candidates", "0", "--limit", "1"];
    let plan = output_of(dir, &[&tune[..], &["--dry-run"]].concat());
    assert!(plan.contains("tune adapter") && plan.contains("into adapter"), "{plan}");
    output_of(dir, &[&tune[..], &["--max-new-tokens", "8"]].concat());
    let path = dir.join("adapter/jacobi.json");
    let mut tuned: Value = serde_json::from_slice(&fs_err::read(&path).unwrap()).unwrap();
    let tried = fs_err::read_to_string(dir.join("adapter/tune/tune.json")).unwrap();
    assert!(tried.contains("multi_block"), "{tried}");
    // Settings that no default has.
    tuned["decoder"] = json!({"name": "multi_block", "block_size": 5, "passes": "two"});
    fs_err::write(&path, tuned.to_string()).unwrap();
    let decode = ["decode", "--adapter", "adapter", "--prompt", "One?", "--max-new-tokens", "4"];
    let messages = String::from_utf8(jacobi(dir, &decode).stderr).unwrap();
    assert!(messages.contains("multi_block of adapter/jacobi.json"), "{messages}");
    output_of(
        dir,
        &["eval", "--base", "model", "--adapter", "adapter", "--tasks", "sums.toml", "-o", "report"],
    );
    let results: Value =
        serde_json::from_slice(&fs_err::read(dir.join("report/results.json")).unwrap()).unwrap();
    let is_tuned = |row: &&Value| row["model_role"] == "adapter" && row["tuned"] == true;
    let row = results["rows"].as_array().unwrap().iter().find(is_tuned).unwrap();
    assert_eq!((&row["decoder"], &row["decoder_settings"]["block_size"]), (&"multi_block".into(), &5.into()));
}

/// Rows that two generations made, by sample.
fn rows_of(dir: &Path, names: [&str; 2]) -> [Vec<Trajectory>; 2] {
    names.map(|name| {
        let mut rows = read_all(&dir.join(name)).unwrap().1;
        rows.sort_by(|a, b| a.sample_id.cmp(&b.sample_id));
        rows
    })
}

#[test]
fn an_adapter_makes_its_own_states_of_the_responses_of_its_base() {
    let directory = fixture();
    let dir = directory.path();
    let recipe = "[model]\npath = \"model\"\ndtype = \"float32\"\n[prompts]\npath = \"sums.jsonl\"\n\
                  [generate]\nblock_size = 8\nmax_new_tokens = 40\n";
    fs_err::write(dir.join("r.toml"), recipe).unwrap();
    let generate = |arguments: &[&str]| {
        let output = jacobi(dir, &[&["generate", "-c", "r.toml"], arguments].concat());
        (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(generate(&["-o", "base"]).0, 0);
    // Drafts for one sample at a time fit into a pass, those for all of them do not.
    for (name, batch) in [("wide", "generate.batch_size=64"), ("narrow", "generate.batch_size=1")] {
        let (code, message) = generate(&["-o", name, "--adapter", "adapter", "--set", batch]);
        assert_eq!(code, 0, "{message}");
        let [drafted, base] = rows_of(dir, [name, "base"]);
        let responses = |rows: &[Trajectory]| -> Vec<Vec<u32>> {
            rows.iter().map(|row| row.response_tokens.clone()).collect()
        };
        assert_eq!(responses(&drafted), responses(&base));
        assert!(drafted.iter().zip(&base).any(|(drafted, base)| drafted.states != base.states));
    }
    let [narrow, wide] = rows_of(dir, ["narrow", "wide"]);
    assert_eq!(narrow, wide);
    // Rows of an adapter are not taken for those of its base.
    let (code, message) = generate(&["-o", "wide"]);
    assert!(code == 2 && message.contains("model.adapter"), "{message}");
    let idle = ["generate.states=\"none\"", "train.pc_weight=0", "generate.batch_size=64"];
    let idle: Vec<&str> = idle.iter().flat_map(|setting| ["--set", setting]).collect();
    let (code, message) = generate(&[&["-o", "idle", "--adapter", "adapter"][..], &idle].concat());
    assert!(code == 2 && message.contains("--adapter has no use here"), "{message}");
}

#[test]
fn an_adapter_comes_from_the_hub_with_the_base_that_it_names() {
    let directory = fixture();
    let dir = directory.path();
    let config = dir.join("adapter/adapter_config.json");
    let text = fs_err::read_to_string(&config).unwrap().replace("\"model\"", "\"org/base\"");
    fs_err::write(&config, text).unwrap();
    let mut files = Vec::new();
    for (folder, repo) in [("adapter", "models/org/adapter"), ("model", "models/org/base")] {
        for entry in fs_err::read_dir(dir.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            files.push((format!("{repo}/{name}"), fs_err::read(&path).unwrap()));
        }
    }
    let hub = HubServer::start(files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())));
    let decode = |arguments: &[&str]| -> Value {
        let output = Command::new(BINARY)
            .current_dir(dir)
            .args(["decode", "--prompt", "One?", "--max-new-tokens", "12", "--json"])
            .args(arguments)
            .env("HF_ENDPOINT", &hub.endpoint)
            .env("HF_HOME", dir.join("home"))
            .env_remove("HF_HUB_OFFLINE")
            .env_remove("HF_HUB_CACHE")
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let block = ["--decoder", "jacobi", "--block-size", "4"];
    let found = decode(&[&["--adapter", "org/adapter"], &block[..]].concat());
    assert_eq!(found["text"], decode(&["--model", "model", "--decoder", "ar"])["text"]);
    // Four rows and three of the adapter.
    assert!(found["stats"]["widths"].as_object().unwrap().contains_key("7"), "{found}");
    let tune = ["tune", "--adapter", "org/adapter", "--prompts", "sums.jsonl"];
    let message = String::from_utf8(jacobi(dir, &tune).stderr).unwrap();
    assert!(message.contains("org/adapter") && message.contains("download"), "{message}");
}

#[test]
fn the_base_is_the_revision_that_the_adapter_names() {
    let directory = fixture();
    let dir = directory.path();
    let snapshots = dir.join("hub/models--org--base/snapshots");
    fs_err::create_dir_all(&snapshots).unwrap();
    std::os::unix::fs::symlink(dir.join("model"), snapshots.join("abc")).unwrap();
    let path = dir.join("adapter/adapter_config.json");
    let mut config: Value = serde_json::from_slice(&fs_err::read(&path).unwrap()).unwrap();
    config["base_model_name_or_path"] = "org/base".into();
    let mut run = |revision: Value| {
        config["revision"] = revision;
        fs_err::write(&path, config.to_string()).unwrap();
        let output = Command::new(BINARY)
            .current_dir(dir)
            .args(["tune", "--adapter", "adapter", "--prompts", "sums.jsonl", "--dry-run"])
            .envs([("HF_HUB_CACHE", dir.join("hub")), ("HF_HUB_OFFLINE", "1".into())])
            .output()
            .unwrap();
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(run("abc".into()), (true, String::new()));
    for (revision, wanted) in [(json!("v2"), "org/base@v2"), (json!(null), "org/base")] {
        let (success, message) = run(revision);
        assert!(!success && message.contains(wanted) && message.contains("--model DIR"), "{message}");
    }
    let text = output_of(dir, &["inspect", "adapter"]);
    assert!(text.contains("base         org/base\n"), "{text}");
}

#[test]
fn an_adapter_that_does_not_fit_is_refused() {
    let directory = fixture();
    let dir = directory.path();
    let message = |arguments: &[&str], code| {
        let output = jacobi(dir, &[&["decode", "--prompt", "x"], arguments].concat());
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {message}");
        message
    };
    let lone = message(&["--model", "model", "--decoder", "multi-block", "--passes", "two"], 2);
    assert!(lone.contains("--adapter"), "{lone}");
    let other = root().join("tests/golden/adapters/tiny_llama");
    let other = message(&["--model", "model", "--adapter", other.to_str().unwrap()], 1);
    assert!(other.contains("adapter_model.safetensors") && other.contains("tiny_llama"), "{other}");
    for (arguments, part) in [
        (&["--adapter", "model"][..], "it is a model, not an adapter"),
        (
            &["--model", "model", "--adapter", "nowhere"],
            "nowhere holds no adapter_config.json: there is no such directory",
        ),
        (&["--model", "adapter"], "an adapter, not a model: give it as --adapter"),
    ] {
        let said = message(arguments, 1);
        assert!(said.starts_with("error: ") && said.contains(part), "{arguments:?}: {said}");
    }
    let tasks = ["--tasks", "gsm8k", "--base", "model", "--adapter", "nowhere"];
    let said = String::from_utf8(jacobi(dir, &[&["eval"], &tasks[..]].concat()).stderr).unwrap();
    assert!(said.contains("there is no such directory"), "before questions are downloaded: {said}");
    fs_err::remove_file(dir.join("model")).unwrap();
    let gone = message(&["--adapter", "adapter"], 1);
    assert!(gone.contains("base model model") && gone.contains("--model DIR"), "{gone}");
}
