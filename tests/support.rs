//! Shared helpers: the repository's root, golden tensors, a tiny model with a tokenizer.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use jacobi_datasets::PromptsConfig;
use jacobi_trajectory_gen::{GenerateConfig, GenerateJob};
use safetensors::{Dtype, SafeTensors};
use tch::{Kind, Tensor};

/// The workspace root.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace")
}

/// A file or directory of tests/golden.
pub fn golden(name: &str) -> PathBuf {
    root().join("tests/golden").join(name)
}

/// Every tensor of a golden file.
pub fn tensors(path: &Path) -> BTreeMap<String, Tensor> {
    let bytes = fs_err::read(path).unwrap();
    let parsed = SafeTensors::deserialize(&bytes).unwrap();
    let load = |(name, view): (&str, safetensors::tensor::TensorView)| {
        let kind = match view.dtype() {
            Dtype::F32 => Kind::Float,
            Dtype::F64 => Kind::Double,
            Dtype::I64 => Kind::Int64,
            other => panic!("{}: {name} is {other:?}", path.display()),
        };
        let shape: Vec<i64> = view.shape().iter().map(|&n| n as i64).collect();
        (name.to_owned(), Tensor::from_data_size(view.data(), &shape, kind))
    };
    parsed.iter().map(load).collect()
}

/// The largest absolute difference of two tensors of one shape.
pub fn max_difference(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.size(), b.size());
    (a.to_kind(Kind::Double) - b.to_kind(Kind::Double)).abs().max().double_value(&[])
}

/// A fresh directory that lasts as long as the handle.
pub fn scratch() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// A model directory with random weights of the embedded default's config, cut down, and its tokenizer.
pub fn tiny_model(dir: &Path, seed: u64) {
    let source = root().join("datasets/default/model");
    fs_err::create_dir_all(dir).unwrap();
    for file in ["tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
        fs_err::copy(source.join(file), dir.join(file)).unwrap();
    }
    let text = fs_err::read_to_string(source.join("config.json")).unwrap();
    let mut config: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&text).unwrap();
    for (field, value) in [("hidden_size", 32), ("intermediate_size", 64), ("num_hidden_layers", 2)] {
        config.insert(field.into(), value.into());
    }
    // Larger than a trained model's start: random weights whose greedy tokens vary.
    config.insert("initializer_range".into(), 0.3.into());
    fs_err::write(dir.join("config.json"), serde_json::to_string(&config).unwrap()).unwrap();
    let model = jacobi_model::Transformer::random(dir, jacobi_model::Dtype::Float32, seed).unwrap();
    jacobi_model::save_model(dir, &config, model.parameters(), Kind::Float, usize::MAX).unwrap();
}

/// A prompt file of `count` questions for it.
pub fn prompt_file(dir: &Path, count: usize) -> PromptsConfig {
    let line =
        |i: usize| format!("{{\"id\": \"sample-{i}\", \"prompt\": \"Anna has {i} apples and buys 2.\"}}\n");
    let path = dir.join("prompts.jsonl");
    fs_err::write(&path, (0..count).map(line).collect::<String>()).unwrap();
    PromptsConfig { path, id_column: Some("id".into()), ..PromptsConfig::default() }
}

/// A model with random weights repeats itself, so the filters of such responses are off.
pub fn random_words() -> GenerateConfig {
    GenerateConfig { max_token_repeats: 0, max_line_repeats: 0, ..GenerateConfig::default() }
}

/// Generating in fp32 with seed 5.
pub fn job<'a>(
    model_dir: &'a Path,
    prompts: &'a PromptsConfig,
    output: &'a Path,
    config: &'a GenerateConfig,
) -> GenerateJob<'a> {
    GenerateJob {
        model_dir,
        adapter: None,
        dtype: jacobi_model::Dtype::Float32,
        device: jacobi_model::Device::Cpu,
        prompts,
        output,
        config,
        train: jacobi_datasets::PackConfig::default(),
        seed: 5,
        rank: None,
        overwrite: false,
    }
}
