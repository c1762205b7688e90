//! What `jacobi train` trains on, and a run that trains a drafter.

use jacobi_datasets::read_all;
use jacobi_trainer::latest_checkpoint;
use serde_json::Value;

use super::{fail, fixture, succeed, weights};

#[test]
fn a_run_of_a_drafter_exports_the_adapter_and_measures_it_over_its_base() {
    let directory = fixture();
    let dir = directory.path();
    let text = fs_err::read_to_string(dir.join("small.toml")).unwrap();
    let (before, rest) = text.split_once("[[rounds]]").unwrap();
    let drafter = "ar_weight = 0\nwindow_size = 1\nadapter = { states = \"on_policy\", block_size = 8 }\n";
    let (generate, train) = before.split_once("[train]").unwrap();
    let before = format!("{generate}states = \"none\"\n[train]{train}{drafter}");
    let after = rest.split_once("[tune]").unwrap().1;
    fs_err::write(dir.join("drafter.toml"), before + "[tune]" + after).unwrap();
    let said = succeed(dir, &["run", "-c", "drafter.toml"]);
    for part in ["the report: run/report/report.html", "try it: jacobi decode --adapter run/export"] {
        assert!(said.contains(part), "{part:?} is missing: {said}");
    }
    let has = |file: &str| dir.join("run/export").join(file).exists();
    assert!(has("adapter_config.json") && has("jacobi.json") && !has("model.safetensors"));
    let card = fs_err::read_to_string(dir.join("run/export/README.md")).unwrap();
    for part in ["| adapter |", "--max-lora-rank 64 ", "\"num_speculative_tokens\": 7}"] {
        assert!(card.contains(part), "{part:?} is missing: {card}");
    }
    let results = fs_err::read(dir.join("run/report/results.json")).unwrap();
    let results: Value = serde_json::from_slice(&results).unwrap();
    let rows = results["rows"].as_array().unwrap().iter().filter(|row| row["model_role"] == "adapter");
    let exact: Vec<&Value> = rows.map(|row| &row["exact_match_ar"]).filter(|rate| !rate.is_null()).collect();
    assert!(!exact.is_empty() && exact.iter().all(|rate| **rate == 1.0), "{results}");
    let (_, rows) = read_all(&dir.join("run/round-1/trajectories")).unwrap();
    assert!(!rows.is_empty() && rows.iter().all(|row| row.states.is_empty()));
    // The card is not part of what was measured.
    let again = succeed(dir, &["run", "-c", "drafter.toml"]);
    assert_eq!(again.matches("finished before, skipped").count(), 5, "{again}");
    let prompt = ["decode", "--adapter", "run/export", "--max-new-tokens", "4", "--prompt", "2 + 2 ="];
    succeed(dir, &prompt);
}

#[test]
fn a_changed_setting_is_refused_by_its_key() {
    let directory = fixture();
    let dir = directory.path();
    succeed(dir, &["generate", "-c", "small.toml"]);
    let train = ["train", "-c", "small.toml"];
    succeed(dir, &train);
    let changed = [&train[..], &["--set", "train.learning_rate=5e-3"]].concat();
    let messages = fail(dir, &changed, 2);
    for part in ["train.learning_rate: was 0.001, is 0.005", "round-1/checkpoints/step-000004", "--overwrite"]
    {
        assert!(messages.contains(part), "{part:?} is missing: {messages}");
    }
    assert_eq!(messages.matches(": was ").count(), 1, "{messages}");
    let before = weights(&latest_checkpoint(&dir.join("run/round-1")).unwrap());
    succeed(dir, &[&changed[..], &["--overwrite"]].concat());
    assert_ne!(weights(&latest_checkpoint(&dir.join("run/round-1")).unwrap()), before);
    // Other rows also make another run.
    succeed(dir, &["generate", "-c", "small.toml", "--set", "prompts.limit=6", "-o", "fewer"]);
    let messages = fail(dir, &[&changed[..], &["--trajectories", "fewer"]].concat(), 2);
    assert!(messages.contains("data: was ") && messages.matches(": was ").count() == 1, "{messages}");
}

#[test]
fn trajectories_of_other_settings_are_refused_unless_they_are_named() {
    let directory = fixture();
    let dir = directory.path();
    succeed(dir, &["generate", "-c", "small.toml"]);
    for setting in ["generate.block_size=4", "seed=7", "prompts.raw=true"] {
        let train = ["train", "-c", "small.toml", "--set", setting];
        let messages = fail(dir, &train, 2);
        let key = setting.split('=').next().unwrap();
        assert!(
            messages.contains(&format!("{key}: was")) && messages.contains("--trajectories"),
            "{messages}"
        );
        assert_eq!(messages.matches(": was ").count(), 1, "{messages}");
    }
    // Settings that decide no row may differ.
    succeed(dir, &["train", "-c", "small.toml", "--set", "generate.pass_tokens=64"]);
    let named =
        ["--trajectories", "run/round-1/trajectories", "-o", "other", "--set", "generate.block_size=4"];
    succeed(dir, &[&["train", "-c", "small.toml"], &named[..]].concat());
}

#[test]
fn conversations_are_trained_on_without_trajectories() {
    let directory = fixture();
    let dir = directory.path();
    let turn = |role: &str, text: String| serde_json::json!({"role": role, "content": text});
    let row = |at: usize| {
        let turns = [turn("user", format!("{at} + 1 ?")), turn("assistant", format!("{}", at + 1))];
        serde_json::json!({"messages": turns}).to_string() + "\n"
    };
    fs_err::write(dir.join("talks.jsonl"), (0..8).map(row).collect::<String>()).unwrap();
    let prompts = ["prompts.path=talks.jsonl", "prompts.messages_column=messages", "prompts.id_column="];
    let set = prompts.into_iter().flat_map(|setting| ["--set", setting]);
    let train: Vec<&str> = ["train", "-c", "small.toml"].into_iter().chain(set).collect();
    let messages = succeed(dir, &train);
    assert!(
        messages.contains("training on the responses of talks.jsonl: the autoregressive loss alone"),
        "{messages}"
    );
}
