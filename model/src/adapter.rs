//! LoRA adapters (arXiv 2106.09685) of the linear layers: y += alpha / rank * x * A^T * B^T. An adapter belongs to no model:
//! each pass says which of its rows use it ([`AdaptedRows`]). Files are those of PEFT (`files.rs`).
//!
//! Legend: n rows, i inputs, o outputs, r rank.

use std::ops::Range;

use jacobi_torch_ext::{LowRankUpdate, add_low_rank, add_product, product, product_input_gradient};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use crate::{Architecture, Gradients, linear::LinearName, precision::to_kind, weights::Stacked};

pub(crate) mod files;
mod merging;

/// What PEFT puts before the name of a parameter's module.
const PREFIX: &str = "base_model.model.";

/// A linear layer that an adapter can change, by its name in PEFT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say all")]
pub enum Target {
    QProj,
    KProj,
    VProj,
    OProj,
    GateProj,
    UpProj,
    DownProj,
}

impl Target {
    /// Every target, in the order of a layer's parameters.
    pub const ALL: [Self; 7] =
        [Self::QProj, Self::KProj, Self::VProj, Self::OProj, Self::GateProj, Self::UpProj, Self::DownProj];

    /// The targets that are stacked into one linear layer, in its order.
    pub(crate) fn of(linear: LinearName) -> &'static [Self] {
        match linear {
            LinearName::Qkv => &Self::ALL[..3],
            LinearName::Output => &Self::ALL[3..4],
            LinearName::GateUp => &Self::ALL[4..6],
            LinearName::Down => &Self::ALL[6..],
        }
    }

    /// The name in recipes and in `target_modules`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::QProj => "q_proj",
            Self::KProj => "k_proj",
            Self::VProj => "v_proj",
            Self::OProj => "o_proj",
            Self::GateProj => "gate_proj",
            Self::UpProj => "up_proj",
            Self::DownProj => "down_proj",
        }
    }

    /// The module within a decoder layer.
    fn module(self) -> &'static str {
        match self {
            Self::QProj | Self::KProj | Self::VProj | Self::OProj => "self_attn",
            Self::GateProj | Self::UpProj | Self::DownProj => "mlp",
        }
    }

    /// Numbers of inputs and outputs.
    fn shape(self, of: &Architecture) -> (i64, i64) {
        let (hidden, inner) = (of.hidden_size, of.intermediate_size);
        let (q, kv) = (of.num_attention_heads * of.head_dim, of.num_key_value_heads * of.head_dim);
        match self {
            Self::QProj => (hidden, q),
            Self::KProj | Self::VProj => (hidden, kv),
            Self::OProj => (q, hidden),
            Self::GateProj | Self::UpProj => (hidden, inner),
            Self::DownProj => (inner, hidden),
        }
    }
}

/// The size of an adapter.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterConfig {
    /// Rows of A and columns of B.
    pub rank: usize,
    /// The update is scaled by alpha / rank.
    pub alpha: f64,
    /// Which linear layers it changes, in ascending order.
    pub targets: Vec<Target>,
}

impl AdapterConfig {
    /// Number of parameters of a model's weights that such an adapter changes.
    pub fn changed_parameter_count(&self, of: &Architecture) -> usize {
        let sizes =
            self.targets.iter().map(|target| target.shape(of)).map(|(inputs, outputs)| inputs * outputs);
        (of.num_hidden_layers * sizes.sum::<i64>()) as usize
    }

    /// Number of parameters of such an adapter of a model.
    pub fn parameter_count(&self, of: &Architecture) -> usize {
        let each = self.targets.iter().map(|target| {
            let (inputs, outputs) = target.shape(of);
            self.rank * (inputs + outputs) as usize
        });
        of.num_hidden_layers as usize * each.sum::<usize>()
    }
}

/// A matrix of an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Matrix {
    A,
    B,
}

/// A LoRA adapter of every decoder layer of a model.
pub struct Adapter {
    config: AdapterConfig,
    /// By layer, then by [`LinearName`].
    layers: Vec<[Option<LowRank>; 4]>,
    parameters: Vec<(String, Tensor)>,
}

/// The rows of a pass that use an adapter: all from row `first` on.
#[derive(Clone, Copy)]
pub struct AdaptedRows<'a> {
    /// The adapter.
    pub adapter: &'a Adapter,
    /// The first of its rows.
    pub first: usize,
}

/// The update of one linear layer.
pub(crate) struct LowRank {
    scale: f64,
    /// A of every target, `[r, i]` each.
    a: Stacked,
    updates: Vec<Update>,
}

/// The update of one target.
struct Update {
    /// Which part of the linear layer it is.
    part: usize,
    /// Its outputs.
    outputs: Range<i64>,
    /// `[o, r]`.
    b: Tensor,
}

impl Adapter {
    /// A new adapter, which changes nothing yet: A is uniform with mean 0 and variance 1 / i, B is 0. In fp32.
    pub fn new(of: &Architecture, config: AdapterConfig, seed: u64, device: Device) -> Self {
        let mut draws = Uniform(seed);
        let matrix = |_: &str, matrix, size: [i64; 2]| match matrix {
            Matrix::A => {
                let bound = (3.0 / size[1] as f32).sqrt();
                let values: Vec<f32> = (0..size[0] * size[1]).map(|_| bound * draws.next()).collect();
                Ok(Tensor::from_slice(&values).view(size).to_device(device))
            }
            Matrix::B => Ok(Tensor::zeros(size, (Kind::Float, device))),
        };
        let Ok(adapter) = Self::build::<std::convert::Infallible>(of, config, matrix);
        adapter
    }

    /// From the matrices that `matrix` gives for a name and a size.
    fn build<E>(
        of: &Architecture,
        config: AdapterConfig,
        mut matrix: impl FnMut(&str, Matrix, [i64; 2]) -> Result<Tensor, E>,
    ) -> Result<Self, E> {
        let mut parameters = Vec::new();
        let mut layers = Vec::new();
        for layer in 0..of.num_hidden_layers {
            let mut linears = [const { None }; 4];
            for (linear, update) in LinearName::ALL.into_iter().zip(&mut linears) {
                *update = LowRank::build(of, (&config, layer, linear), &mut parameters, &mut matrix)?;
            }
            layers.push(linears);
        }
        Ok(Self { config, layers, parameters })
    }

    /// A copy in this dtype on this device.
    pub fn to(&self, of: &Architecture, kind: Kind, device: Device) -> Self {
        let mut parameters = self.parameters.iter();
        let matrix = |_: &str, _, _| {
            let (_, parameter) = parameters.next().expect("the same parameters");
            Ok(to_kind(&parameter.detach(), kind).to_device(device).copy())
        };
        let Ok(adapter) = Self::build::<std::convert::Infallible>(of, self.config.clone(), matrix);
        adapter
    }

    /// Rank, alpha and targets.
    pub fn config(&self) -> &AdapterConfig {
        &self.config
    }

    /// Every matrix with its name in PEFT, in a fixed order. The tensors share the adapter's memory.
    pub fn parameters(&self) -> &[(String, Tensor)] {
        &self.parameters
    }

    /// Number of parameters.
    pub fn parameter_count(&self) -> usize {
        self.parameters.iter().map(|(_, tensor)| tensor.numel()).sum()
    }

    /// The stacks of parameters.
    pub(crate) fn stacks(&self) -> impl Iterator<Item = &Stacked> {
        self.layers.iter().flatten().flatten().map(|update| &update.a)
    }

    /// Every parameter, the parts of each stack one after the other.
    pub(crate) fn parameters_by_stack(&self) -> Vec<&(String, Tensor)> {
        let mut rest = &self.parameters[..];
        let mut ordered = Vec::with_capacity(rest.len());
        for stack in self.stacks() {
            // A and B of each part in turn.
            let (own, others) = rest.split_at(2 * stack.parts.len());
            ordered.extend(own.iter().step_by(2).chain(own.iter().skip(1).step_by(2)));
            rest = others;
        }
        ordered
    }

    /// The update of a linear layer, if one of its parts is a target.
    pub(crate) fn update(&self, layer: usize, linear: LinearName) -> Option<&LowRank> {
        self.layers[layer][linear as usize].as_ref()
    }
}

/// Random numbers that depend on their seed alone, unlike those of libtorch's generators, which a process shares: SplitMix64.
struct Uniform(u64);

impl Uniform {
    /// Between -1 and 1.
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let unit = ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 24) as f32;
        2.0 * unit - 1.0
    }
}

impl LowRank {
    fn build<E>(
        of: &Architecture,
        (config, layer, linear): (&AdapterConfig, i64, LinearName),
        parameters: &mut Vec<(String, Tensor)>,
        matrix: &mut impl FnMut(&str, Matrix, [i64; 2]) -> Result<Tensor, E>,
    ) -> Result<Option<Self>, E> {
        let rank = config.rank as i64;
        let (mut names, mut a_parts, mut updates, mut first) = (vec![], vec![], vec![], 0);
        for (part, target) in Target::of(linear).iter().enumerate() {
            let (inputs, outputs) = target.shape(of);
            if config.targets.contains(target) {
                let module = format!("{PREFIX}model.layers.{layer}.{}.{}", target.module(), target.as_str());
                let [a, b] = ["lora_A", "lora_B"].map(|matrix| format!("{module}.{matrix}.weight"));
                a_parts.push(matrix(&a, Matrix::A, [rank, inputs])?);
                let b_matrix = matrix(&b, Matrix::B, [outputs, rank])?;
                updates.push(Update { part, outputs: first..first + outputs, b: b_matrix });
                names.push([a, b]);
            }
            first += outputs;
        }
        if updates.is_empty() {
            return Ok(None);
        }
        let a = Stacked::new(&a_parts);
        for ((names, a), update) in names.into_iter().zip(&a.parts).zip(&updates) {
            parameters.extend(names.into_iter().zip([a.shallow_clone(), update.b.shallow_clone()]));
        }
        Ok(Some(Self { scale: config.alpha / config.rank as f64, a, updates }))
    }

    /// Without gradients: adds the update for `x` `[n, i]` to the outputs `y` `[n, o]`. On a CPU a row's result does not depend
    /// on the other rows, bit for bit.
    pub(crate) fn infer<'a>(&'a self, mut y: Tensor, x: &Tensor) {
        let of_target =
            |Update { outputs, b, .. }: &'a Update| LowRankUpdate { first: outputs.start as usize, b };
        let updates: Vec<LowRankUpdate> = self.updates.iter().map(of_target).collect();
        add_low_rank(&mut y, x, &self.a.whole, &updates, self.scale);
    }

    /// For training, with many rows: the same.
    pub(crate) fn product(&self, y: &Tensor, x: &Tensor) {
        let inner = product(x, &self.a.whole, None) * self.scale;
        for (update, inner) in self.updates.iter().zip(self.by_target(&inner)) {
            add_product(&mut update.of(y), &inner, &update.b);
        }
    }

    /// Under autograd: the update of part `part` of the outputs for `x` `[.., n, i]`, if it is a target.
    pub(crate) fn part(&self, x: &Tensor, part: usize) -> Option<Tensor> {
        const NO_BIAS: Option<&Tensor> = None;
        let at = self.updates.iter().position(|update| update.part == part)?;
        Some((x.linear(&self.a.parts[at], NO_BIAS) * self.scale).linear(&self.updates[at].b, NO_BIAS))
    }

    /// Adds the gradients of A and B for the gradient `grad` `[n, o]`, and the update's part of that of `x` to `grad_x`.
    pub(crate) fn backward(&self, x: &Tensor, grad: &Tensor, grad_x: &mut Tensor, gradients: &Gradients) {
        let inner = product(x, &self.a.whole, None) * self.scale;
        let of_target = |(update, inner): (&Update, Tensor)| {
            let grad = update.of(grad);
            gradients.add_product(&update.b, &grad, &inner);
            product_input_gradient(&grad, &update.b)
        };
        let inner = self.by_target(&inner);
        let grads: Vec<Tensor> = self.updates.iter().zip(inner).map(of_target).collect();
        let grad_inner = Tensor::cat(&grads, 1) * self.scale;
        gradients.add_product(&self.a.whole, &grad_inner, x);
        add_product(grad_x, &grad_inner, &self.a.whole.tr());
    }

    /// The columns `[n, r]` of each target.
    fn by_target(&self, inner: &Tensor) -> Vec<Tensor> {
        let parts = inner.chunk(self.updates.len() as i64, 1);
        parts.iter().map(Tensor::contiguous).collect()
    }
}

impl Update {
    /// Its columns of `y` `[n, o]`.
    fn of(&self, y: &Tensor) -> Tensor {
        y.narrow(1, self.outputs.start, self.outputs.end - self.outputs.start)
    }
}
