//! The passes of training against plain autograd over a dense mask, and packing against one sample at a time.

use std::sync::atomic::AtomicBool;

use jacobi_datasets::{
    FinishReason, NoiseContext, NoiseScheduleConfig, PackConfig, PackedSample, Rng, ScheduleKind, State,
    Trajectory, pack,
};
use jacobi_model::{Dtype, Transformer, load};
use jacobi_trainer::{
    ActivationCheckpointing, LossConfig, PcNormalization, PcPositionWeight, PcTerms, Stepper, TrainConfig,
};
use tch::{Kind, Tensor};

use crate::{
    oracle,
    support::{golden, max_difference, scratch, tiny_model},
};

/// How a sample is laid out.
struct Shape {
    prompt: usize,
    response: usize,
    block: usize,
    window: usize,
    context: NoiseContext,
    finish: FinishReason,
    ar_prompt_tokens: bool,
}

fn shape(prompt: usize, response: usize, block: usize, window: usize) -> Shape {
    let (context, finish) = (NoiseContext::Window, FinishReason::Eos);
    Shape { prompt, response, block, window, context, finish, ar_prompt_tokens: false }
}

/// A sample with one state per block, converged up to a random position; the vocabulary is small, so that noise is
/// sometimes right. `states_of` may take other states than the recorded ones.
fn sample(shape: &Shape, seed: u64, states_of: &PackConfig) -> PackedSample {
    let mut rng = Rng::new(&[seed]);
    let mut ids =
        |count: usize| -> Vec<u32> { (0..count).map(|_| 5 + (rng.next_u64() % 4) as u32).collect() };
    let (prompt_tokens, response_tokens) = (ids(shape.prompt), ids(shape.response));
    let noise = ids(shape.response);
    let states = response_tokens.chunks(shape.block).zip(noise.chunks(shape.block)).enumerate();
    let states = states
        .map(|(block, (clean, noise))| {
            let converged = (noise.len() * (block % 3)).div_ceil(2).min(clean.len());
            State {
                block: block as u32,
                iteration: 0,
                converged: converged as u32,
                tail: noise[converged..].to_vec(),
            }
        })
        .collect();
    let trajectory = Trajectory {
        sample_id: format!("sample-{seed}"),
        prompt_tokens,
        response_tokens,
        finish_reason: shape.finish,
        states,
    };
    let noise = NoiseScheduleConfig { schedule: ScheduleKind::Linear, ..Default::default() };
    let config = PackConfig {
        window_size: shape.window,
        noise_context: shape.context,
        noise,
        ar_prompt_tokens: shape.ar_prompt_tokens,
        ..states_of.clone()
    };
    pack(&trajectory, shape.block, &config, 0).unwrap()
}

/// Block at 0, a single block, ragged last windows, w = 1, w > T, the ablation, several samples.
fn samples() -> Vec<PackedSample> {
    samples_of(&PackConfig::default())
}

pub fn samples_of(states: &PackConfig) -> Vec<PackedSample> {
    let shapes = [
        Shape { finish: FinishReason::Length, ..shape(0, 7, 4, 2) },
        shape(5, 3, 8, 4),
        Shape { ar_prompt_tokens: true, ..shape(9, 37, 4, 3) },
        shape(3, 20, 4, 1),
        Shape { finish: FinishReason::Length, ..shape(1, 18, 5, 9) },
        Shape { context: NoiseContext::Clean, ..shape(4, 19, 4, 3) },
        shape(6, 24, 1, 5),
    ];
    shapes.iter().zip(1..).map(|(shape, seed)| sample(shape, seed, states)).collect()
}

pub struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    pub fn new() -> Self {
        let dir = scratch();
        tiny_model(dir.path(), 1);
        tiny_model(&dir.path().join("other"), 2);
        Self { dir }
    }

    pub fn model(&self, dtype: Dtype) -> Transformer {
        load(self.dir.path(), dtype).unwrap().transformer
    }

    fn base(&self) -> Transformer {
        load(&self.dir.path().join("other"), Dtype::Float32).unwrap().transformer
    }
}

pub const LOSS: LossConfig = LossConfig {
    ar_weight: 0.7,
    pc_weight: 1.3,
    pc_terms: PcTerms { kl_div: 1.0, tv: 0.0, nla: 0.0 },
    temperature: 1.5,
    pc_normalization: PcNormalization::TokenMean,
    pc_position_weight: PcPositionWeight::Uniform,
    pc_decay: 0.8,
};

fn config(checkpointing: ActivationCheckpointing, tokens_per_row: usize) -> TrainConfig {
    TrainConfig { activation_checkpointing: checkpointing, tokens_per_row, ..TrainConfig::default() }
}

/// L_ar, L_pc, and the gradient of every parameter.
pub struct Learnt {
    pub ar: f64,
    pub pc: f64,
    pub gradients: Vec<(String, Tensor)>,
}

fn fast(
    model: Transformer,
    base: Option<Transformer>,
    samples: &[PackedSample],
    config: &TrainConfig,
    loss: &LossConfig,
) -> Learnt {
    learnt(&Stepper::new(model, base, config, 256), samples, loss)
}

/// The gradients of what `stepper` trains.
pub fn learnt(stepper: &Stepper, samples: &[PackedSample], loss: &LossConfig) -> Learnt {
    let report = stepper.accumulate(samples, loss, &AtomicBool::new(false)).unwrap();
    let trained = stepper.adapter.as_ref().map_or(stepper.model.parameters(), |adapter| adapter.parameters());
    let gradients =
        trained.iter().map(|(name, p)| (name.clone(), stepper.gradients().of(p).copy())).collect();
    Learnt { ar: report.loss_ar, pc: report.loss_pc, gradients }
}

/// Each sample in a pass of its own, under autograd.
fn plain(
    model: &Transformer,
    base: Option<&Transformer>,
    samples: &[PackedSample],
    loss: &LossConfig,
) -> Learnt {
    plain_of(model.parameters(), samples, loss, |sample, counts| {
        oracle::dual_loss((model, None), base, std::slice::from_ref(sample), loss, counts)
    })
}

/// The gradients of `parameters` under autograd of `loss_of`, which is called for one sample after the other.
pub fn plain_of(
    parameters: &[(String, Tensor)],
    samples: &[PackedSample],
    loss: &LossConfig,
    loss_of: impl Fn(&PackedSample, (f64, f64)) -> (Tensor, f64, f64),
) -> Learnt {
    for (_, parameter) in parameters {
        let _ = parameter.set_requires_grad(true);
    }
    let counts = oracle::counts(samples, loss);
    let (mut ar, mut pc) = (0.0, 0.0);
    for sample in samples {
        let (total, sample_ar, sample_pc) = loss_of(sample, counts);
        if total.requires_grad() {
            total.backward();
        }
        ar += sample_ar;
        pc += sample_pc;
    }
    let gradient = |p: &Tensor| match p.grad().defined() {
        true => p.grad().to_kind(Kind::Float),
        false => p.zeros_like(),
    };
    let gradients = parameters.iter().map(|(name, p)| (name.clone(), gradient(p)));
    Learnt { ar, pc, gradients: gradients.collect() }
}

pub fn assert_equal(found: &Learnt, expected: &Learnt, tolerance: f64, what: &str) {
    for (name, found, expected) in [("L_ar", found.ar, expected.ar), ("L_pc", found.pc, expected.pc)] {
        assert!(
            (found - expected).abs() <= tolerance * expected.max(1.0),
            "{what}: {name} {found} {expected}"
        );
    }
    for ((name, found), (_, expected)) in found.gradients.iter().zip(&expected.gradients) {
        let scale = expected.abs().max().double_value(&[]).max(1.0);
        let off = max_difference(found, expected);
        assert!(off <= tolerance * scale, "{what}: gradient of {name} off by {off} of {scale}");
    }
}

#[test]
fn the_passes_of_training_equal_autograd_over_a_dense_mask() {
    let bench = Bench::new();
    let samples = samples();
    let losses = [
        LOSS,
        LossConfig { pc_position_weight: PcPositionWeight::Decay, ..LOSS },
        LossConfig { pc_position_weight: PcPositionWeight::Acceptance, ..LOSS },
        LossConfig { pc_normalization: PcNormalization::Reference, ar_weight: 0.0, ..LOSS },
        LossConfig { pc_weight: 0.0, ..LOSS },
    ];
    for loss in losses {
        let expected = plain(&bench.model(Dtype::Float32), None, &samples, &loss);
        for checkpointing in [ActivationCheckpointing::None, ActivationCheckpointing::Full] {
            let config = config(checkpointing, 90);
            let found = fast(bench.model(Dtype::Float32), None, &samples, &config, &loss);
            assert_equal(&found, &expected, 1e-4, &format!("{checkpointing:?}, {loss:?}"));
        }
    }
    for family in ["tiny_qwen2", "tiny_qwen3", "tiny_llama_llama3", "tiny_qwen3_yarn"] {
        let model = || load(&golden(&format!("models/{family}")), Dtype::Float32).unwrap().transformer;
        let expected = plain(&model(), None, &samples, &LOSS);
        let config = config(ActivationCheckpointing::Full, 90);
        assert_equal(&fast(model(), None, &samples, &config, &LOSS), &expected, 1e-4, family);
    }
    let (base, model) = (bench.base(), bench.model(Dtype::Float32));
    let expected = plain(&model, Some(&base), &samples, &LOSS);
    let config = config(ActivationCheckpointing::Full, 90);
    let found = fast(bench.model(Dtype::Float32), Some(base), &samples, &config, &LOSS);
    assert_equal(&found, &expected, 1e-4, "another teacher");
}

#[test]
fn packing_leaks_nothing() {
    let bench = Bench::new();
    let samples = samples();
    let learn = |tokens_per_row| {
        let config = config(ActivationCheckpointing::None, tokens_per_row);
        fast(bench.model(Dtype::Float32), None, &samples, &config, &LOSS)
    };
    let alone = learn(1);
    for tokens_per_row in [60, 100, 1000] {
        assert_equal(&learn(tokens_per_row), &alone, 1e-5, &format!("rows of {tokens_per_row}"));
    }
}

/// The error of `found`, as a share of the norm of all gradients.
fn share_off(found: &Learnt, exact: &Learnt) -> f64 {
    let each = found.gradients.iter().zip(&exact.gradients);
    let (off, size) = each.fold((0.0, 0.0), |(off, size), ((_, found), (_, exact))| {
        let square = |x: Tensor| x.square().sum(Kind::Double).double_value(&[]);
        (off + square(found - exact), size + square(exact.shallow_clone()))
    });
    (off / size).sqrt()
}

/// Over several draws of the weights: in a single one either may be off by a third more than the other.
#[test]
fn in_bf16_gradients_are_closer_to_fp32_than_those_of_autograd() {
    const DRAWS: u64 = 8;
    let samples = samples();
    let config = config(ActivationCheckpointing::Full, 100);
    let mut ratios = vec![];
    for draw in 0..DRAWS {
        let dir = scratch();
        tiny_model(dir.path(), 10 + draw);
        let model = |dtype| load(dir.path(), dtype).unwrap().transformer;
        let exact = plain(&model(Dtype::Float32), None, &samples, &LOSS);
        let ours = share_off(&fast(model(Dtype::Bfloat16), None, &samples, &config, &LOSS), &exact);
        let theirs = share_off(&plain(&model(Dtype::Bfloat16), None, &samples, &LOSS), &exact);
        ratios.push(ours / theirs);
    }
    let mean = ratios.iter().sum::<f64>() / DRAWS as f64;
    assert!(mean < 1.0, "{mean} of autograd's distance on average: {ratios:?}");
}
