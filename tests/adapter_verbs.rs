//! `--adapter` in `jacobi decode`, `eval` and `tune`, and `jacobi inspect` of an adapter.

use std::path::Path;

use jacobi_model::{Adapter, AdapterBase, AdapterConfig, Device, Dtype, Target, load};
use serde_json::Value;

use super::{jacobi, root};

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
    let named = AdapterBase { name: "model".into(), weight_hash: base.weight_hash };
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
    let sliding =
        ["--adapter", "adapter", "--decoder", "multi-block", "--window", "sliding", "--pool-size", "0"];
    let one = decode(&[&sliding[..], &["--block-size", "4"]].concat());
    let two =
        decode(&[&sliding[..], &["--block-size", "4", "--passes", "two", "--filler", "vocabulary"]].concat());
    assert_eq!((&one["text"], &two["text"]), (expected, expected));
    assert!(widths(&one).contains(&"7".to_owned()), "four rows and three of the adapter: {one}");
    let counts = |found: &Value| ["forwards", "cycles"].map(|key| found["stats"][key].as_u64().unwrap());
    let ([passes, cycles], [both, half]) = (counts(&one), counts(&two));
    assert!(passes == cycles && (both / 2..=both.div_ceil(2)).contains(&half), "{two}");
    assert!(!widths(&two).contains(&"7".to_owned()), "{two}");
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
    assert_eq!(parallel.map(|row| row["exact_match_ar"].as_f64()).collect::<Vec<_>>(), [Some(1.0); 2]);
    let plan = output_of(dir, &["tune", "--adapter", "adapter", "--prompts", "sums.jsonl", "--dry-run"]);
    assert!(plan.contains("tune adapter") && plan.contains("into adapter"), "{plan}");
    let text = output_of(dir, &["inspect", "adapter"]);
    for part in ["adapter adapter", "base         model", "rank         2, alpha 4", "q_proj, down_proj"] {
        assert!(text.contains(part), "{text} lacks {part}");
    }
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
