//! The memory of loading a model, measured in a process of its own.

#![cfg(target_os = "linux")]

use std::path::Path;
use std::process::Command;

use jacobi_model::{Dtype, MAX_SHARD_BYTES, Transformer, load, outline, save_model};
use serde_json::{Map, Value};

/// Names the model directory for the child process.
const DIRECTORY: &str = "JACOBI_TEST_LOADS";

/// A model of 103 million parameters, stored in fp32 and loaded in bf16.
fn write(dir: &Path) {
    let source = Path::new("../datasets/default/model/config.json");
    let mut config: Map<String, Value> = serde_json::from_slice(&fs_err::read(source).unwrap()).unwrap();
    for (field, value) in [("hidden_size", 1024), ("intermediate_size", 8192), ("num_hidden_layers", 4)] {
        config.insert(field.to_owned(), value.into());
    }
    fs_err::write(dir.join("config.json"), serde_json::to_vec(&config).unwrap()).unwrap();
    let model = Transformer::random(dir, Dtype::Float32, 1).unwrap();
    save_model(dir, &config, model.parameters(), model.kind(), MAX_SHARD_BYTES).unwrap();
}

/// The most memory that this process has had, in bytes.
fn peak() -> f64 {
    let status = fs_err::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    1024.0 * line.trim().trim_end_matches(" kB").parse::<f64>().unwrap()
}

#[test]
fn loading_needs_the_model_and_little_more_and_headers_need_nothing() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path());
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "loading::child_of_the_test_of_memory", "--nocapture"])
        .env(DIRECTORY, dir.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success(), "{text}{}", String::from_utf8_lossy(&child.stderr));
    assert!(text.contains("1 passed"), "{text}");
}

/// Does nothing unless the test above starts it.
#[test]
fn child_of_the_test_of_memory() {
    let Some(dir) = std::env::var_os(DIRECTORY) else { return };
    let dir = Path::new(&dir);
    let before = peak();
    let count: i64 =
        outline(dir).unwrap().parameters.iter().map(|(_, shape)| shape.iter().product::<i64>()).sum();
    let headers = peak() - before;
    assert!(headers < 16e6, "{headers} bytes for the headers");
    let before = peak();
    let model = load(dir, Dtype::Bfloat16).unwrap().transformer;
    let (grown, size) = (peak() - before, 2.0 * count as f64);
    assert!(grown <= 1.15 * size, "{grown} bytes to load {size}");
    assert_eq!(model.parameter_count() as i64, count);
}
