//! Whether the device computes what the CPU computes in fp32: logits, decoders, loss, gradients and their step. On a CPU the
//! device's passes of fixed shape are compared with passes of any shape.

use std::{
    ops::ControlFlow,
    path::Path,
    sync::{OnceLock, atomic::AtomicBool},
};

use anyhow::{Context, anyhow, bail, ensure};
use jacobi_decoder::{
    Answer, BatchEvent, JacobiConfig, MultiBlockConfig, Request, Room, Settings, StopRules, Strategy,
    generate, generate_batch,
};
use jacobi_model::{
    AttentionMask, Compute, DecodingModel, Dtype, LanguageModel, Place, Rows, Transformer, Work, load,
    save_model, set_graphs, token_tensor,
};
use jacobi_trainer::{StepSettings, Stepper, TrainConfig};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use super::{
    shapes::{self, Shape, with},
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

/// A model on the CPU in fp32 and on the device.
struct Subject {
    name: &'static str,
    config: Value,
    dir: tempfile::TempDir,
    device: Device,
}

impl Subject {
    fn new(shape: &Shape, device: Device) -> anyhow::Result<Self> {
        let config = match shape.config.get("head_dim") {
            Some(_) => shape.config.clone(),
            // Heads of 128: together as wide as the hidden state.
            None => with(&shape.config, &[("num_attention_heads", 2), ("num_key_value_heads", 1)]),
        };
        let config = with(&config, &SIZES);
        let dir = shapes::directory(&config)?;
        let drawn = Transformer::random(dir.path(), Dtype::Float32, 3)?;
        let map = config.as_object().ok_or_else(|| anyhow!("a config.json is an object"))?;
        save_model(dir.path(), map, drawn.parameters(), Kind::Float, usize::MAX)?;
        Ok(Self { name: shape.name, config, dir, device })
    }

    fn on(&self, dtype: Dtype, device: Device) -> anyhow::Result<Transformer> {
        Ok(load(self.dir.path(), Compute { dtype, device })?.transformer)
    }

    fn cpu(&self) -> anyhow::Result<Transformer> {
        self.on(Dtype::Float32, Device::Cpu)
    }
}

type Check = fn(&Subject) -> anyhow::Result<String>;

/// The checks, one per code path, by name. Each returns what it found.
const CHECKS: [(&str, Check); 10] = [
    ("logits-fp32", |subject| logits_agree(subject, Dtype::Float32)),
    ("logits-bf16", |subject| logits_agree(subject, Dtype::Bfloat16)),
    ("training-fp32", |subject| training_agrees(subject, Dtype::Float32)),
    ("training-bf16", |subject| training_agrees(subject, Dtype::Bfloat16)),
    ("decoding", |subject| decoders_agree(subject, Passes::AnyShape)),
    ("decoding-fixed", |subject| decoders_agree(subject, Passes::Fixed { graphs: false })),
    ("decoding-graphs", |subject| decoders_agree(subject, Passes::Fixed { graphs: true })),
    ("graphs-recorded", all_recorded),
    ("graphs-bf16", recorded_passes_agree),
    ("batch", batch_agrees),
];

/// The names of the checks.
pub fn names() -> impl Iterator<Item = &'static str> {
    CHECKS.iter().map(|(name, _)| *name)
}

/// Runs the check `name` on every shape and returns what it found.
///
/// # Errors
/// A check that fails; an unknown name.
pub fn run(name: &str, device: Device) -> anyhow::Result<String> {
    let found = CHECKS.iter().find(|(other, _)| *other == name);
    let (_, check) = found.with_context(|| format!("--check {name}: --list-checks 1 lists the checks"))?;
    let mut results = Vec::new();
    for shape in shapes::all(false) {
        results.push(format!("{}: {}", shape.name, check(&Subject::new(&shape, device)?)?));
    }
    Ok(results.join("; "))
}

fn tolerated(dtype: Dtype) -> f64 {
    if dtype == Dtype::Float32 { 1e-3 } else { 0.08 }
}

fn logits_agree(subject: &Subject, dtype: Dtype) -> anyhow::Result<String> {
    let off = logits_apart(&subject.cpu()?, &subject.on(dtype, subject.device)?);
    ensure!(off < tolerated(dtype), "{}: logits are off by {off} of the largest", subject.name);
    Ok(format!("off by {off:.1e}"))
}

fn training_agrees(subject: &Subject, dtype: Dtype) -> anyhow::Result<String> {
    let (loss, step) = training_apart(subject.dir.path(), dtype, subject.device, &subject.config)?;
    let most = tolerated(dtype);
    ensure!(loss < most, "{}: the loss is off by {loss}", subject.name);
    ensure!(step < most, "{}: gradients are off by {step} of the largest", subject.name);
    Ok(format!("loss off by {loss:.1e}, gradients by {step:.1e}"))
}

/// Whether every pass was recorded: a warning says which was not.
fn all_recorded(subject: &Subject) -> anyhow::Result<String> {
    static FAILED: OnceLock<String> = OnceLock::new();
    set_graphs(true, |text| drop(FAILED.set(text.to_owned())));
    for dtype in [Dtype::Bfloat16, Dtype::Float32] {
        let model = subject.on(dtype, subject.device)?;
        let recording = DecodingModel::with_fixed_shapes(&model);
        // Behind a longer text attention has other parts.
        for capacity in [64, 2000] {
            drop(recording.session(1, capacity));
        }
    }
    match FAILED.get() {
        Some(text) => bail!("{}: {text}", subject.name),
        None if subject.device == Device::Cpu => Ok("a CPU records nothing".to_owned()),
        None => Ok("all widths".to_owned()),
    }
}

/// Recorded passes in bf16 behind a text so long that its keys are split, a chain and a tree.
fn recorded_passes_agree(subject: &Subject) -> anyhow::Result<String> {
    let (cpu, model) = (subject.cpu()?, subject.on(Dtype::Bfloat16, subject.device)?);
    set_graphs(true, |_| {});
    let recorded = DecodingModel::with_fixed_shapes(&model);
    let text: Vec<u32> = (0..1500).map(|at| at * 13 % 1000).collect();
    let chain = Rows::chain(&text[..16]);
    let mut tree = Rows::default();
    for (row, &token) in text[..16].iter().enumerate() {
        tree.push(token, row.checked_sub(1).map(|before| before / 2));
    }
    let mut most = 0.0f64;
    for rows in [&chain, &tree] {
        let logits = |model: &dyn LanguageModel| {
            let mut session = model.session(1, 2000);
            let prompt = Rows::chain(&text);
            let all = |rows| Work { slot: 0, place: Place::End, rows, first_output: 0 };
            drop(session.forward(&[all(&prompt)]));
            session.keep(0, &(0..text.len()).collect::<Vec<_>>());
            let predictions = session.forward(&[all(rows)]);
            let rows: Vec<f32> = (0..rows.len()).flat_map(|row| predictions.logits(row)).collect();
            Tensor::from_slice(&rows)
        };
        most = most.max(apart(&logits(&recorded), &logits(&cpu)));
    }
    ensure!(most < tolerated(Dtype::Bfloat16), "{}: logits are off by {most} of the largest", subject.name);
    Ok(format!("off by {most:.1e}"))
}

fn batch_agrees(subject: &Subject) -> anyhow::Result<String> {
    let (cpu, model) = (subject.cpu()?, subject.on(Dtype::Float32, subject.device)?);
    let stop = StopRules { max_new_tokens: 40, eos_token_ids: vec![] };
    let prompts: Vec<Vec<u32>> = (1..=5).map(|at| (0..at * 9).map(|id| id * 31 % 1000).collect()).collect();
    let settings = Settings::greedy(Strategy::Jacobi(JacobiConfig { block_size: 16, seed: 0 }), stop.clone());
    let mut requests =
        prompts.iter().map(|prompt| Request::new(prompt.clone(), settings.clone())).enumerate();
    let mut found = vec![Vec::new(); prompts.len()];
    let room = Room { slots: 3, capacity: 45 + 40 + 16, rows: 64 };
    generate_batch(&model, &mut requests, room, &mut |event| {
        if let BatchEvent::Done(at, Answer::Response(response)) = event {
            found[at] = response.generation.tokens;
        }
        ControlFlow::Continue(())
    });
    for (prompt, found) in prompts.iter().zip(found) {
        let alone = Settings::greedy(Strategy::Autoregressive, stop.clone());
        let expected = generate(&cpu, prompt, &alone, &mut |_| {}).tokens;
        ensure!(
            found == expected,
            "{}: behind {} tokens {found:?}, not {expected:?}",
            subject.name,
            prompt.len()
        );
    }
    Ok(format!("{} prompts", prompts.len()))
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

/// The passes of a decoder.
#[derive(Clone, Copy, PartialEq)]
enum Passes {
    AnyShape,
    Fixed { graphs: bool },
}

fn decoders_agree(subject: &Subject, passes: Passes) -> anyhow::Result<String> {
    let (cpu, model) = (subject.cpu()?, subject.on(Dtype::Float32, subject.device)?);
    set_graphs(passes == Passes::Fixed { graphs: true }, |_| {});
    let multi_block = |tree_budget| MultiBlockConfig { tree_budget, ..MultiBlockConfig::default() };
    let strategies = [
        Strategy::Autoregressive,
        Strategy::Jacobi(JacobiConfig { block_size: 16, seed: 0 }),
        Strategy::MultiBlock(multi_block(0)),
        Strategy::MultiBlock(multi_block(32)),
    ];
    let stop = StopRules { max_new_tokens: 80, eos_token_ids: vec![] };
    let fixed = DecodingModel::with_fixed_shapes(&model);
    let decoder: &dyn LanguageModel = if passes == Passes::AnyShape { &model } else { &fixed };
    for prompt in [vec![3], (0..70).map(|at| at * 13 % 1000).collect::<Vec<u32>>()] {
        let decoded = |model: &dyn LanguageModel, strategy: &Strategy| {
            let settings = Settings::greedy(strategy.clone(), stop.clone());
            generate(model, &prompt, &settings, &mut |_| {}).tokens
        };
        let expected = decoded(&cpu, &Strategy::Autoregressive);
        for strategy in &strategies {
            let found = decoded(decoder, strategy);
            ensure!(
                found == expected,
                "{}: {strategy:?} behind {} tokens decodes {found:?}, not {expected:?}",
                subject.name,
                prompt.len()
            );
        }
    }
    Ok(format!("{} decoders", strategies.len()))
}
