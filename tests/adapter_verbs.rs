//! `--adapter` in `jacobi decode`, `eval` and `tune`, and `jacobi inspect` of an adapter.

use std::path::Path;
use std::process::Command;

use jacobi_model::{Adapter, AdapterBase, AdapterConfig, Device, Dtype, Target, load};
use serde_json::{Value, json};

use super::{BINARY, jacobi, root};

/// A directory with the small model as `model`, a random adapter for it, and a task.
fn fixture() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path();
    std::os::unix::fs::symlink(root().join("datasets/default/model"), dir.join("model")).unwrap();
    let base = load(&dir.join("model"), Dtype::Float32).unwrap();
    let config = AdapterConfig { rank: 2, alpha: 4.0, targets: vec![Target::QProj, Target::DownProj] };
    let adapter = Adapter::new(base.transformer.architecture(), config, 1, Device::Cpu);
    for (_, parameter) in adapter.parameters().iter().filter(|(name, _)| name.contains("lora_B")) {
        let _ = parameter.shallow_clone().normal_(0.0, 0.1);
    }
    let named = AdapterBase { name: "model".into(), weight_hash: base.weight_hash().unwrap() };
    adapter.save(&dir.join("adapter"), &named).unwrap();
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
    fs_err::remove_file(dir.join("model")).unwrap();
    let gone = message(&["--adapter", "adapter"], 1);
    assert!(gone.contains("base model model") && gone.contains("--model DIR"), "{gone}");
}
