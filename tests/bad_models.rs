//! Every defect of a model directory ends in one message that names the file and the defect.

use std::path::Path;

use jacobi_model::{Dtype, load};
use serde_json::{Map, Value};

use crate::support::{golden, scratch, tensors};

fn copy_model(to: &Path) {
    for file in ["config.json", "model.safetensors"] {
        fs_err::copy(golden("models/tiny_llama").join(file), to.join(file)).unwrap();
    }
}

fn edit_config(dir: &Path, field: &str, value: Value) {
    let path = dir.join("config.json");
    let mut json: Map<String, Value> = serde_json::from_str(&fs_err::read_to_string(&path).unwrap()).unwrap();
    json.insert(field.into(), value);
    fs_err::write(path, serde_json::to_string(&json).unwrap()).unwrap();
}

/// Rewrites the weights after `edit`.
fn edit_weights(dir: &Path, edit: impl FnOnce(&mut Vec<(String, tch::Tensor)>)) {
    let path = dir.join("model.safetensors");
    let mut list: Vec<_> = tensors(&path).into_iter().collect();
    edit(&mut list);
    jacobi_model::save_tensors(&path, &list, None).unwrap();
}

/// Adds the same weights in several files with an index.
fn shard(dir: &Path) {
    let model = load(dir, Dtype::Float32).unwrap().transformer;
    let config = &model.architecture().config_json;
    jacobi_model::save_model(dir, config, model.parameters(), model.kind(), 100_000).unwrap();
}

#[test]
fn equal_weights_beside_an_index_load() {
    let dir = scratch();
    copy_model(dir.path());
    shard(dir.path());
    assert!(dir.path().join("model-00001-of-00002.safetensors").is_file());
    load(dir.path(), Dtype::Float32).unwrap();
}

type Damage = fn(&Path);

/// A change to a good model, and the parts that the message must have.
const ROWS: &[(&str, Damage, &[&str])] = &[
    (
        "truncated weights",
        |d| {
            let path = d.join("model.safetensors");
            let bytes = fs_err::read(&path).unwrap();
            fs_err::write(path, &bytes[..bytes.len() / 2]).unwrap();
        },
        &["model.safetensors", "copy or download"],
    ),
    ("no weights", |d| fs_err::remove_file(d.join("model.safetensors")).unwrap(), &["model.safetensors"]),
    (
        "weights of PyTorch only",
        |d| fs_err::rename(d.join("model.safetensors"), d.join("pytorch_model.bin")).unwrap(),
        &["no model.safetensors", "pytorch_model.bin", "save_pretrained"],
    ),
    (
        "an adapter only",
        |d| fs_err::rename(d.join("model.safetensors"), d.join("adapter_model.safetensors")).unwrap(),
        &["adapter_model.safetensors", "merge_and_unload"],
    ),
    (
        "other weights beside an index",
        |d| {
            shard(d);
            edit_weights(d, |w| w[5].1 = &w[5].1 * 2.0);
        },
        &["differs", "model-00001-of-", "model.safetensors", "model.safetensors.index.json", "delete"],
    ),
    ("no config", |d| fs_err::remove_file(d.join("config.json")).unwrap(), &["config.json"]),
    (
        "malformed config",
        |d| fs_err::write(d.join("config.json"), "{\"a\":").unwrap(),
        &["config.json", "JSON"],
    ),
    ("wrong shape", |d| edit_config(d, "intermediate_size", 999.into()), &["mlp.gate_proj.weight", "999"]),
    ("missing tensor", |d| edit_config(d, "num_hidden_layers", 9.into()), &["model.layers.3.", "missing"]),
    ("extra tensor", |d| edit_config(d, "num_hidden_layers", 1.into()), &["model.layers.1.", "no part"]),
    (
        "architecture",
        |d| edit_config(d, "architectures", serde_json::json!(["GPT2LMHeadModel"])),
        &["config.json", "GPT2LMHeadModel", "LlamaForCausalLM"],
    ),
    ("unknown field", |d| edit_config(d, "num_local_experts", 8.into()), &["num_local_experts"]),
    ("untied head", |d| edit_config(d, "tie_word_embeddings", true.into()), &["lm_head.weight"]),
    (
        "NaN",
        |d| {
            edit_weights(d, |w| {
                let norm = w.iter_mut().find(|(name, _)| name == "model.norm.weight").unwrap();
                norm.1 = norm.1.fill(f64::NAN);
            })
        },
        &["model.norm.weight", "NaN"],
    ),
    ("integer weights", |d| edit_weights(d, |w| w[0].1 = w[0].1.to_kind(tch::Kind::Int64)), &["I64", "BF16"]),
    (
        "index without its shard",
        |d| {
            let index = r#"{"weight_map": {"a": "model-00001-of-00002.safetensors"}}"#;
            fs_err::write(d.join("model.safetensors.index.json"), index).unwrap();
        },
        &["model-00001-of-00002.safetensors"],
    ),
    (
        "index that leaves its directory",
        |d| {
            let index = r#"{"weight_map": {"a": "../model-00001-of-00002.safetensors"}}"#;
            fs_err::write(d.join("model.safetensors.index.json"), index).unwrap();
        },
        &["index.json", "weight_map", "../model-00001-of-00002.safetensors", "no file name"],
    ),
    (
        "index of absolute paths",
        |d| {
            let index = r#"{"weight_map": {"a": "/etc/passwd"}}"#;
            fs_err::write(d.join("model.safetensors.index.json"), index).unwrap();
        },
        &["weight_map", "/etc/passwd", "no file name"],
    ),
];

#[test]
fn each_damage_is_named() {
    for (name, damage, named) in ROWS {
        let dir = scratch();
        copy_model(dir.path());
        damage(dir.path());
        let error = anyhow::Error::from(load(dir.path(), Dtype::Float32).err().expect(name));
        let message = format!("{error:#}");
        for part in *named {
            assert!(message.contains(part), "{name}: {message:?} does not name {part:?}");
        }
        assert!(message.contains(dir.path().to_str().unwrap()), "{name}: {message:?} names no path");
    }
    let missing = load(Path::new("/nonexistent/model"), Dtype::Auto).err().unwrap().to_string();
    assert!(missing.contains("/nonexistent/model") && missing.contains("ORG/NAME of the hub"), "{missing}");
}
