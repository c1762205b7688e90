//! Whether the device computes what the CPU computes in fp32: logits, decoders, loss, gradients and their step. On a CPU the
//! device's passes of fixed shape are compared with passes of any shape.

use std::{path::Path, sync::atomic::AtomicBool};

use anyhow::{anyhow, ensure};
use jacobi_decoder::{JacobiConfig, MultiBlockConfig, Settings, StopRules, Strategy, generate};
use jacobi_model::{
    AttentionMask, Compute, DecodingModel, Dtype, LanguageModel, Transformer, load, save_model, token_tensor,
};
use jacobi_trainer::{StepSettings, Stepper, TrainConfig};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use super::{
    shapes::{self, with},
    sheet::Sheet,
    work,
};

/// Small enough for the CPU, with heads as wide as the shapes that are measured have.
const SIZES: [(&str, i64); 5] = [
    ("hidden_size", 256),
    ("intermediate_size", 512),
    ("num_hidden_layers", 3),
    ("vocab_size", 1000),
    ("max_position_embeddings", 2048),
];

/// # Errors
/// A check that fails.
pub fn run(sheet: &mut Sheet, device: Device) -> anyhow::Result<()> {
    for shape in shapes::all(false) {
        let config = match shape.config.get("head_dim") {
            Some(_) => shape.config.clone(),
            // Heads of 128: together as wide as the hidden state.
            None => with(&shape.config, &[("num_attention_heads", 2), ("num_key_value_heads", 1)]),
        };
        let config = with(&config, &SIZES);
        let here = shapes::directory(&config)?;
        let drawn = Transformer::random(here.path(), Dtype::Float32, 3)?;
        let map = config.as_object().ok_or_else(|| anyhow!("a config.json is an object"))?;
        save_model(here.path(), map, drawn.parameters(), Kind::Float, usize::MAX)?;
        let on =
            |dtype, device| load(here.path(), Compute { dtype, device }).map(|loaded| loaded.transformer);
        let cpu = on(Dtype::Float32, Device::Cpu)?;
        for (dtype, tolerated) in [(Dtype::Float32, 1e-3), (Dtype::Bfloat16, 0.08)] {
            let model = on(dtype, device)?;
            let name = format!("check: {}: {dtype:?}", shape.name);
            let off = logits_apart(&cpu, &model);
            sheet.figure(format!("{name}: logits off, of the largest"), "", off);
            ensure!(off < tolerated, "{name}: logits are off by {off} of the largest, more than {tolerated}");
            let (loss, step) = training_apart(here.path(), dtype, device, &config)?;
            sheet.figure(format!("{name}: loss off"), "", loss);
            sheet.figure(format!("{name}: gradients off, of the largest"), "", step);
            ensure!(loss < tolerated, "{name}: the loss is off by {loss}, more than {tolerated}");
            ensure!(
                step < tolerated,
                "{name}: gradients are off by {step} of the largest, more than {tolerated}"
            );
        }
        decoders_agree(&cpu, &on(Dtype::Float32, device)?, shape.name)?;
    }
    sheet.figure("check: fp32 decoders equal the CPU's autoregressive one", "1 = yes", 1.0);
    Ok(())
}

fn apart(found: &Tensor, expected: &Tensor) -> f64 {
    let [found, expected] = [found, expected].map(|x| x.to_device(Device::Cpu).to_kind(Kind::Float));
    let most = |x: Tensor| x.abs().max().double_value(&[]);
    most(found - &expected) / most(expected).max(1e-30)
}

fn logits_apart(cpu: &Transformer, model: &Transformer) -> f64 {
    let tokens: Vec<u32> = (0..300).map(|at| at * 37 % 1000).collect();
    let logits = |model: &Transformer| {
        let length = tokens.len() as i64;
        let tokens = token_tensor(&tokens).unsqueeze(0).to_device(model.device());
        let rope = model.rope_table(length).range(0, length);
        tch::no_grad(|| model.logits(&model.hidden(&tokens, &rope, &AttentionMask::Causal)))
    };
    apart(&logits(model), &logits(cpu))
}

/// How far the loss of a step is from the CPU's in fp32, and how far its gradients are: with an eps that is much larger than
/// any gradient, AdamW's first step is the gradient times a number.
fn training_apart(dir: &Path, dtype: Dtype, device: Device, config: &Value) -> anyhow::Result<(f64, f64)> {
    let train = TrainConfig {
        tokens_per_row: 2 * work::SAMPLE_TOKENS,
        adam_eps: 1e4,
        weight_decay: 0.0,
        max_grad_norm: 1e9,
        ..TrainConfig::default()
    };
    let vocabulary = config["vocab_size"].as_u64().unwrap_or(1000) as u32;
    let samples = work::samples(3, vocabulary)?;
    let settings = StepSettings { learning_rate: 1e4, loss: train.loss_at(0, 1) };
    let stepped = |compute: Compute| -> anyhow::Result<(f64, Vec<Tensor>)> {
        let model = load(dir, compute)?.transformer;
        let before: Vec<Tensor> = masters(&model);
        let mut stepper = Stepper::new(model, None, &train, 1024);
        let report = stepper
            .step(&samples, &settings, &AtomicBool::new(false))
            .map_err(|error| anyhow!("a step failed: {error:?}"))?;
        let after = stepper.model.parameters().iter().map(|(name, parameter)| {
            stepper.optimizer.state_tensor("master", name).unwrap_or_else(|| parameter.shallow_clone())
        });
        let changes =
            after.zip(before).map(|(after, before)| after.to_device(Device::Cpu).view_as(&before) - before);
        Ok((report.loss, changes.collect()))
    };
    let (expected_loss, expected) = stepped(Compute::from(Dtype::Float32))?;
    let (loss, found) = stepped(Compute { dtype, device })?;
    let off = found.iter().zip(&expected).map(|(found, expected)| apart(found, expected)).fold(0.0, f64::max);
    Ok(((loss - expected_loss).abs() / expected_loss.abs(), off))
}

fn masters(model: &Transformer) -> Vec<Tensor> {
    let here = |parameter: &Tensor| parameter.to_device(Device::Cpu).to_kind(Kind::Float).copy();
    model.parameters().iter().map(|(_, parameter)| here(parameter)).collect()
}

fn decoders_agree(cpu: &Transformer, model: &Transformer, shape: &str) -> anyhow::Result<()> {
    let multi_block = |tree_budget| MultiBlockConfig { tree_budget, ..MultiBlockConfig::default() };
    let strategies = [
        Strategy::Autoregressive,
        Strategy::Jacobi(JacobiConfig { block_size: 16, seed: 0 }),
        Strategy::MultiBlock(multi_block(0)),
        Strategy::MultiBlock(multi_block(32)),
    ];
    let stop = StopRules { max_new_tokens: 80, eos_token_ids: vec![] };
    let fixed = DecodingModel::with_fixed_shapes(model);
    let models: [(&str, &dyn LanguageModel); 2] = [("any", model), ("fixed", &fixed)];
    for prompt in [vec![3], (0..70).map(|at| at * 13 % 1000).collect::<Vec<u32>>()] {
        let decoded = |model: &dyn LanguageModel, strategy: &Strategy| {
            let settings = Settings::greedy(strategy.clone(), stop.clone());
            generate(model, &prompt, &settings, &mut |_| {}).tokens
        };
        let expected = decoded(cpu, &Strategy::Autoregressive);
        for (shapes, model) in models {
            for strategy in &strategies {
                let found = decoded(model, strategy);
                ensure!(
                    found == expected,
                    "check: {shape}: {strategy:?} with {shapes} shapes behind {} tokens decodes {found:?}, not {expected:?}",
                    prompt.len()
                );
            }
        }
    }
    Ok(())
}
