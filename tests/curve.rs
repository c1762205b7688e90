//! The losses of the quick start's first steps: any change of the training computation shows here.

use std::sync::atomic::AtomicBool;

use jacobi_datasets::PromptsConfig;
use jacobi_model::Dtype;
use jacobi_trainer::{Init, Ranks, TrainConfig, TrainData, TrainJob, train};
use jacobi_trajectory_gen::{GenerateConfig, GenerateJob, generate};
use serde::de::DeserializeOwned;

use crate::support::{root, scratch};

const STEPS: usize = 20;

/// Total loss after each step, in fp32 on the processor this was recorded on.
const LOSSES: [f64; STEPS] = [
    11.906180, 10.972041, 13.306545, 10.845490, 10.711062, 11.169309, 9.374355, 10.241755, 10.230478,
    9.892072, 10.015670, 9.090193, 10.116596, 8.380857, 7.414441, 10.007777, 9.803926, 9.826776, 8.231281,
    9.885318,
];

/// Processors differ in the order of their sums and in fused additions: about 1e-7 of every value, which AdamW, whose first
/// steps go by signs, passes on to a few weights whole. With libtorch held to one thread, to AVX2, or to no vector
/// extension, the losses were off by at most 4e-5, and by 1.2e-5 on average.
const TOLERANCE: f64 = 1e-3;

/// A slow drift is a difference too.
const MEAN_TOLERANCE: f64 = 1e-4;

fn section<T: DeserializeOwned>(recipe: &toml::Table, name: &str) -> T {
    recipe[name].clone().try_into().unwrap()
}

#[test]
fn the_quick_start_learns_as_recorded() {
    let dir = scratch();
    let text = fs_err::read_to_string(root().join("configs/quickstart.toml")).unwrap();
    let recipe: toml::Table = toml::from_str(&text).unwrap();
    let model = root().join(recipe["model"]["path"].as_str().unwrap());
    let seed = recipe["seed"].as_integer().unwrap() as u64;
    let config = TrainConfig { max_steps: Some(STEPS), ..section(&recipe, "train") };
    let mut prompts: PromptsConfig = section(&recipe, "prompts");
    prompts.path = root().join(&prompts.path);
    prompts.limit = Some(STEPS * config.batch_size);
    let shards = dir.path().join("trajectories");
    let generation = GenerateJob {
        model_dir: &model,
        adapter: None,
        dtype: Dtype::Float32,
        device: jacobi_model::Device::Cpu,
        prompts: &prompts,
        output: &shards,
        config: &section::<GenerateConfig>(&recipe, "generate"),
        seed,
        train: config.pack(),
        rank: None,
        overwrite: false,
    };
    generate(&generation, &AtomicBool::new(false), &mut |_| {}).unwrap();
    let job = TrainJob {
        model_dir: &model,
        adapter: None,
        init: Init::Weights,
        dtype: Dtype::Float32,
        device: jacobi_model::Device::Cpu,
        data: TrainData::Trajectories(shards),
        output: &dir.path().join("run"),
        config: &config,
        seed,
        overwrite: false,
        ranks: Ranks::alone(),
    };
    let mut losses = vec![];
    train(job, &AtomicBool::new(false), &mut |progress| losses.push(progress.loss)).unwrap();
    let off: Vec<f64> = losses.iter().zip(LOSSES).map(|(found, recorded)| (found - recorded).abs()).collect();
    let (most, mean) = (off.iter().copied().fold(0.0, f64::max), off.iter().sum::<f64>() / STEPS as f64);
    assert_eq!(losses.len(), STEPS);
    assert!(
        most <= TOLERANCE && mean <= MEAN_TOLERANCE,
        "off by {most} at most, {mean} on average: {losses:?}"
    );
}
