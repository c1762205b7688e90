//! The memory of loading a model, and of reading the rows of training, each measured in a process of its own.

#![cfg(target_os = "linux")]

use std::io::Write;
use std::path::Path;
use std::process::Command;

use jacobi_datasets::{
    FinishReason, Manifest, RecordedSettings, ShardWriter, State, Tally, Trajectory, TrajectoryMetadata,
};
use jacobi_model::{Architecture, Dtype, MAX_SHARD_BYTES, Transformer, load, outline, save_model};
use jacobi_trainer::{Dataset, TrainConfig, TrainData};
use serde_json::{Map, Value};

/// Names the directory for the child process.
const DIRECTORY: &str = "JACOBI_TEST_LOADS";

/// The config.json of the small model.
const CONFIG: &str = "../datasets/default/model/config.json";

/// A model of 103 million parameters, stored in fp32 and loaded in bf16.
fn write(dir: &Path) {
    let mut config: Map<String, Value> = serde_json::from_slice(&fs_err::read(CONFIG).unwrap()).unwrap();
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

/// Runs the test `name` of this file in a process of its own, for `dir`; what it prints.
fn child(name: &str, dir: &Path) -> String {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("loading::{name}"), "--nocapture"])
        .env(DIRECTORY, dir)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&child.stdout).into_owned();
    assert!(child.status.success(), "{text}{}", String::from_utf8_lossy(&child.stderr));
    assert!(text.contains("1 passed"), "{text}");
    text
}

#[test]
fn loading_needs_the_model_and_little_more_and_headers_need_nothing() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path());
    child("child_of_the_test_of_loading", dir.path());
}

/// Does nothing unless the test above starts it.
#[test]
fn child_of_the_test_of_loading() {
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

const BLOCK_SIZE: usize = 64;
const BLOCKS: usize = 32;

/// A finished directory of `count` rows, each of 16 KiB in memory: a response, and a state with as many tokens.
fn write_rows(dir: &Path, count: usize) {
    let metadata = TrajectoryMetadata {
        base_model: "m".to_owned(),
        base_revision: String::new(),
        weight_hash: "w".to_owned(),
        tokenizer_hash: "t".to_owned(),
        block_size: BLOCK_SIZE,
        decoding: Default::default(),
        seed: 0,
        tool_version: "0".to_owned(),
    };
    let row = |number: usize| {
        let tokens: Vec<u32> =
            (0..BLOCKS * BLOCK_SIZE).map(|at| ((number * 31 + at * at) % 800) as u32).collect();
        let states = tokens.chunks(BLOCK_SIZE).zip(0..).flat_map(|(clean, block)| {
            let state = |converged: usize| State {
                block,
                iteration: u32::from(converged > 0),
                converged: converged as u32,
                tail: clean[converged..].to_vec(),
            };
            [state(0), state(BLOCK_SIZE)]
        });
        Trajectory {
            sample_id: format!("sample-{number}"),
            prompt_tokens: vec![1],
            states: states.collect(),
            response_tokens: tokens.clone(),
            finish_reason: FinishReason::Eos,
        }
    };
    let manifest = Manifest::new(RecordedSettings::default(), count);
    let mut writer = ShardWriter::open(dir, metadata, manifest, 1 << 20).unwrap();
    let numbers: Vec<usize> = (0..count).collect();
    for group in numbers.chunks(16) {
        let rows: Vec<Trajectory> = group.iter().map(|&number| row(number)).collect();
        writer.append(&rows, &Tally::default()).unwrap();
    }
    writer.finish(&Tally::default()).unwrap();
}

#[test]
fn the_memory_of_training_rows_does_not_grow_with_their_number() {
    let [few, many] = [200, 2000].map(|count| {
        let dir = tempfile::tempdir().unwrap();
        write_rows(dir.path(), count);
        let text = child("child_of_the_test_of_rows", dir.path());
        let bytes = text.lines().find_map(|line| line.strip_prefix("bytes ")).unwrap();
        bytes.parse::<f64>().unwrap()
    });
    // The rows that are more have 29 MB.
    assert!(many - few < 10e6, "{few} bytes for 200 rows, {many} for 2000");
}

/// Does nothing unless the test above starts it.
#[test]
fn child_of_the_test_of_rows() {
    let Some(dir) = std::env::var_os(DIRECTORY) else { return };
    let (model, config) =
        (tempfile::tempdir().unwrap(), TrainConfig { max_length: 1 << 20, ..Default::default() });
    let text = fs_err::read_to_string(CONFIG).unwrap();
    let text = text.replace("\"max_position_embeddings\": 512", "\"max_position_embeddings\": 4096");
    fs_err::write(model.path().join("config.json"), text).unwrap();
    let shape = Architecture::from_dir(model.path()).unwrap();
    let before = peak();
    let mut dataset = Dataset::open(TrainData::Trajectories(dir.into()), &config, 1, &shape).unwrap();
    for step in 0..20 {
        dataset.step(step, 8, &config).unwrap();
    }
    writeln!(std::io::stdout(), "\nbytes {}", peak() - before).unwrap();
}
