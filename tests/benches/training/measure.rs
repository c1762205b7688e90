//! One way of training, measured in a process of its own so that its peak memory is its own.

use std::{sync::atomic::AtomicBool, time::Instant};

use anyhow::{Context, bail, ensure};
use jacobi_datasets::{
    NoisyRows, PackConfig, PackedRow, PackedSample, StateSource, States, fill_rows, row_len,
};
use jacobi_model::{Transformer, load};
use jacobi_torch_ext::{add_weight_gradient, product, product_input_gradient};
use jacobi_trainer::{
    ActivationCheckpointing, AdapterSettings, Footprint, NoStep, RowLoad, StepSettings, Stepper, TrainConfig,
    footprint,
};
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

use super::{options::Options, oracle, work};

/// The ways of training that are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Dense mask, one autograd graph.
    Oracle,
    /// Layers keep what they need.
    Fast,
    /// Layers keep their input.
    Recomputing,
    /// As `Fast`, and an adapter that drafts is trained instead of the model.
    Adapter,
    /// As `Adapter`, on states that it makes itself.
    OnPolicy,
}

impl Way {
    pub const ALL: [Self; 5] = [Self::Oracle, Self::Fast, Self::Recomputing, Self::Adapter, Self::OnPolicy];

    pub fn name(self) -> &'static str {
        match self {
            Self::Oracle => "oracle",
            Self::Fast => "fast",
            Self::Recomputing => "recomputing",
            Self::Adapter => "adapter",
            Self::OnPolicy => "on_policy",
        }
    }

    fn trains_adapter(self) -> bool {
        matches!(self, Self::Adapter | Self::OnPolicy)
    }

    pub fn parse(name: &str) -> anyhow::Result<Self> {
        Self::ALL
            .into_iter()
            .find(|way| way.name() == name)
            .with_context(|| format!("no way is called {name}"))
    }
}

/// What a child process prints: seconds of each step (and of its matrix products alone), bytes.
pub fn child(options: &Options, way: Way, tokens_per_row: usize) -> anyhow::Result<Value> {
    let model = load(&options.model, options.dtype)?.transformer;
    let kind = model.kind();
    let count = tokens_per_row.max(options.tokens) / work::SAMPLE_TOKENS;
    let samples = samples_of(way, count, model.architecture().vocab_size as u32)?;
    let defaults = TrainConfig::default();
    let states = match way {
        Way::OnPolicy => States::One(StateSource::OnPolicy),
        _ => States::default(),
    };
    let config = TrainConfig {
        tokens_per_row,
        adapter: way.trains_adapter().then(|| AdapterSettings { states, ..AdapterSettings::default() }),
        ar_weight: if way.trains_adapter() { 0.0.into() } else { defaults.ar_weight },
        activation_checkpointing: match way {
            Way::Recomputing => ActivationCheckpointing::Full,
            _ => ActivationCheckpointing::None,
        },
        ..defaults
    };
    let rows = packed_rows(&samples, tokens_per_row);
    let expected = predicted(&model, &rows, &config);
    let mut stepper = Stepper::new(model, None, &config, 1024);
    let settings = StepSettings { learning_rate: 1e-6, loss: config.loss_at(0, 1) };
    if way == Way::Oracle {
        // Its operations are libtorch's.
        tch::set_num_threads(i32::try_from(options.threads)?);
        for (_, parameter) in stepper.model.parameters() {
            let _ = parameter.set_requires_grad(true);
        }
    }
    let step = |stepper: &mut Stepper, samples: &[PackedSample]| -> anyhow::Result<f64> {
        let started = Instant::now();
        match way {
            Way::Oracle => oracle_step(stepper, samples, tokens_per_row, &settings),
            _ => match stepper.step(samples, &settings, &AtomicBool::new(false)) {
                Ok(_) => {}
                Err(NoStep::NotFinite(what)) => bail!("{what} is not finite"),
                Err(NoStep::Stopped) => bail!("stopped by nobody"),
                Err(NoStep::Ranks(failure)) => return Err(failure.into()),
            },
        }
        Ok(started.elapsed().as_secs_f64())
    };
    // Touches every buffer that outlives a step; what is taken beyond them is activations.
    tch::no_grad(|| stepper.optimizer.update(0.0, 1.0));
    let settled = memory("VmRSS")?;
    step(&mut stepper, &samples[..1])?;
    fs_err::write("/proc/self/clear_refs", "5")?;
    let (mut seconds, mut floor) = (vec![], vec![]);
    for _ in 0..options.rounds {
        seconds.push(step(&mut stepper, &samples)?);
    }
    let peak = memory("VmHWM")?;
    if way == Way::Fast {
        let mut products = Products::new(&stepper_shape(options)?, &rows, kind);
        for _ in 0..options.rounds {
            floor.push(products.run());
        }
    }
    Ok(json!({
        "seconds": seconds,
        "floor_seconds": floor,
        "tokens": count * work::SAMPLE_TOKENS,
        "computed_tokens": rows.iter().map(|row| row.tokens.len()).sum::<usize>(),
        "settled_bytes": settled,
        "peak_bytes": peak,
        "predicted_bytes": expected.total(),
        "predicted_activation_bytes": expected.activations,
    }))
}

fn samples_of(way: Way, count: usize, vocabulary: u32) -> anyhow::Result<Vec<PackedSample>> {
    if way == Way::OnPolicy {
        return work::packed(count, vocabulary, on_policy(vocabulary));
    }
    let mut samples = work::samples(count, vocabulary)?;
    if way == Way::Adapter {
        samples.iter_mut().for_each(|sample| sample.noisy_rows = NoisyRows::FromSecond);
    }
    Ok(samples)
}

/// Of samples with the states that a drafter makes itself.
fn on_policy(vocabulary: u32) -> PackConfig {
    let states = States::One(StateSource::OnPolicy);
    let noisy_rows = NoisyRows::FromSecond;
    PackConfig { window_size: 1, states, noisy_rows, vocabulary, ..PackConfig::default() }
}

fn packed_rows(samples: &[PackedSample], tokens_per_row: usize) -> Vec<PackedRow> {
    let lengths: Vec<usize> = samples.iter().map(row_len).collect();
    let rows = fill_rows(&lengths, tokens_per_row);
    rows.iter().map(|row| PackedRow::new(row.iter().map(|&at| &samples[at]))).collect()
}

fn predicted(model: &Transformer, rows: &[PackedRow], config: &TrainConfig) -> Footprint {
    let largest = rows.iter().map(RowLoad::of).max_by_key(|load| load.tokens).expect("rows to train on");
    footprint(model.architecture(), (model.kind(), model.device()), config, &largest)
}

/// As the samples of a step would be trained on under a dense mask: rows of as many whole samples as fit.
fn oracle_step(
    stepper: &mut Stepper,
    samples: &[PackedSample],
    tokens_per_row: usize,
    settings: &StepSettings,
) {
    let counts = oracle::counts(samples, &settings.loss);
    for row in samples.chunks((tokens_per_row / work::SAMPLE_TOKENS).max(1)) {
        let (total, ..) = oracle::dual_loss((&stepper.model, None), None, row, &settings.loss, counts);
        total.backward();
        drop(total);
        tch::no_grad(|| {
            for (_, parameter) in stepper.model.parameters() {
                let mut gradient = parameter.grad();
                stepper.gradients().add(parameter, &gradient);
                let _ = gradient.zero_();
            }
        });
    }
    tch::no_grad(|| stepper.optimizer.update(settings.learning_rate, 1.0));
}

/// Bytes of a line of /proc/self/status.
fn memory(name: &str) -> anyhow::Result<f64> {
    let status = fs_err::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()).context("no such line")?;
    Ok(kilobytes.parse::<f64>()? * 1024.0)
}

/// Widths of the model's projections: inputs and outputs, with how often each is applied.
struct Shape {
    layers: usize,
    projections: [(i64, i64); 4],
    head: (i64, i64),
}

fn stepper_shape(options: &Options) -> anyhow::Result<Shape> {
    let a = jacobi_model::Architecture::from_dir(&options.model)?;
    ensure!(a.num_hidden_layers > 0, "a model has layers");
    let (h, d) = (a.hidden_size, a.head_dim);
    let (q, kv) = (a.num_attention_heads * d, a.num_key_value_heads * d);
    Ok(Shape {
        layers: a.num_hidden_layers as usize,
        projections: [(h, q + 2 * kv), (q, h), (h, 2 * a.intermediate_size), (a.intermediate_size, h)],
        head: (h, a.vocab_size),
    })
}

/// The step's matrix products alone: each projection forward, and for the gradients of its input and its weight.
struct Products {
    /// Input, weight, gradient of the output, sum of the weight's; how often.
    sets: Vec<([Tensor; 4], usize)>,
}

impl Products {
    fn new(shape: &Shape, rows: &[PackedRow], kind: Kind) -> Self {
        let random = |a: i64, b: i64| Tensor::randn([a, b], (Kind::Float, Device::Cpu)).to_kind(kind);
        let set = |n: usize, (inputs, outputs): (i64, i64)| {
            let sum = Tensor::zeros([outputs, inputs], (Kind::Float, Device::Cpu));
            [random(n as i64, inputs), random(outputs, inputs), random(n as i64, outputs), sum]
        };
        let mut sets = Vec::new();
        for row in rows {
            sets.extend(shape.projections.iter().map(|&size| (set(row.tokens.len(), size), shape.layers)));
            let with_loss = RowLoad::of(row).logits;
            sets.push((set(with_loss, shape.head), 1));
        }
        Self { sets }
    }

    fn run(&mut self) -> f64 {
        let started = Instant::now();
        for ([x, weight, grad, sum], times) in &mut self.sets {
            for _ in 0..*times {
                drop(product(x, weight, None));
                drop(product_input_gradient(grad, weight));
                add_weight_gradient(sum, grad, x);
            }
        }
        started.elapsed().as_secs_f64()
    }
}
