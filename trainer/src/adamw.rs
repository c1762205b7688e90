//! AdamW (arXiv 1711.05101) with fp32 master weights and moments that can be saved: libtorch's own optimizer exposes
//! neither. Master weights, first and second moments have one buffer each, so that a step is one pass over memory. It
//! updates pieces of parameters, since a rank's share may hold a part of one. Decay applies to matrices only.

use jacobi_model::{Gradients, to_float32};
use jacobi_torch_ext::{AdamWSlot, AdamWStep, adamw};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// Dtype of AdamW's moments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MomentsDtype {
    /// 8 bytes per parameter.
    #[default]
    Float32,
    /// 4 bytes per parameter.
    Bfloat16,
}

/// Settings that stay fixed over a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWConfig {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled decay of matrices.
    pub weight_decay: f64,
    /// Dtype of the moments.
    pub moments: MomentsDtype,
}

/// A parameter, or the part of it that this process updates, flattened.
pub struct Piece {
    /// The parameter's name.
    pub name: String,
    /// Index of the first element within the parameter.
    pub start: i64,
    /// The values that the forward pass reads, in fp32 or rounded to the compute dtype.
    pub parameter: Tensor,
    /// In fp32, summed over the passes of a step; 0 after an update.
    pub gradient: Tensor,
    /// Whether the parameter is a matrix: only those decay.
    pub is_matrix: bool,
}

impl Piece {
    /// Whole parameters with their gradients.
    pub fn whole(parameters: &[(String, Tensor)], gradients: &Gradients) -> Vec<Self> {
        let piece = |(name, parameter): &(String, Tensor)| Self {
            name: name.clone(),
            start: 0,
            parameter: parameter.detach().view([-1]),
            gradient: gradients.of(parameter).view([-1]),
            is_matrix: parameter.dim() > 1,
        };
        parameters.iter().map(piece).collect()
    }
}

/// Master weights and moments of pieces of parameters.
pub struct AdamW {
    config: AdamWConfig,
    slots: Vec<Slot>,
    /// Steps taken.
    pub step: usize,
}

/// A piece with its state.
struct Slot {
    piece: Piece,
    /// Master weights in fp32; the parameter itself if that is fp32.
    master: Tensor,
    first: Tensor,
    second: Tensor,
}

/// One tensor of a piece's state, to be saved.
pub(crate) struct StatePart {
    /// `master`, `exp_avg` or `exp_avg_sq`.
    pub(crate) part: &'static str,
    /// The parameter's name.
    pub(crate) name: String,
    /// Index of the first element within the parameter.
    pub(crate) start: i64,
    /// Flat.
    pub(crate) tensor: Tensor,
}

/// The tensors of a piece's state.
pub(crate) const PARTS: [&str; 3] = ["master", "exp_avg", "exp_avg_sq"];

/// Number of squares that are summed in fp32 before the sum is added to an f64.
const NORM_CHUNK: i64 = 1 << 16;

impl AdamW {
    /// An optimizer of `pieces` with zero moments.
    pub fn new(pieces: Vec<Piece>, config: AdamWConfig) -> Self {
        let device = pieces.first().map_or(tch::Device::Cpu, |piece| piece.gradient.device());
        let count: i64 = pieces.iter().map(|piece| piece.parameter.numel() as i64).sum();
        let moments = match config.moments {
            MomentsDtype::Float32 => Kind::Float,
            MomentsDtype::Bfloat16 => Kind::BFloat16,
        };
        let [first, second] = [(); 2].map(|()| Tensor::zeros([count], (moments, device)));
        let rounded = pieces.iter().any(|piece| piece.parameter.kind() != Kind::Float);
        let masters = rounded.then(|| Tensor::empty([count], (Kind::Float, device)));
        let mut start = 0;
        let slot = |piece: Piece| {
            let length = piece.parameter.numel() as i64;
            let view = |buffer: &Tensor| buffer.narrow(0, start, length);
            let master = match &masters {
                Some(masters) => {
                    let mut master = view(masters);
                    master.copy_(&to_float32(&piece.parameter));
                    master
                }
                None => piece.parameter.shallow_clone(),
            };
            let (first, second) = (view(&first), view(&second));
            start += length;
            Slot { piece, master, first, second }
        };
        let slots = pieces.into_iter().map(slot).collect();
        Self { config, slots, step: 0 }
    }

    /// Sum of the squares of the gradients.
    pub fn gradient_squares(&self) -> f64 {
        self.slots.iter().map(|slot| squares(&slot.piece.gradient)).sum()
    }

    /// One update with the summed gradients times `scale`; clears the gradients.
    pub fn update(&mut self, learning_rate: f64, scale: f64) {
        self.step += 1;
        let AdamWConfig { beta1, beta2, eps, weight_decay, .. } = self.config;
        let step = AdamWStep { beta1, beta2, eps, step: self.step, learning_rate, scale };
        for slot in &mut self.slots {
            let Piece { parameter, gradient, is_matrix, .. } = &mut slot.piece;
            let rounded = parameter.kind() != Kind::Float;
            let slot = AdamWSlot {
                parameter: rounded.then_some(parameter),
                master: &mut slot.master,
                first: &mut slot.first,
                second: &mut slot.second,
                gradient,
                weight_decay: if *is_matrix { weight_decay } else { 0.0 },
            };
            adamw(slot, &step);
        }
    }

    /// The state that a resumed run needs.
    pub(crate) fn state(&self) -> Vec<StatePart> {
        let of = |slot: &Slot| {
            PARTS
                .iter()
                .zip([&slot.master, &slot.first, &slot.second])
                .map(|(part, tensor)| StatePart {
                    part,
                    name: slot.piece.name.clone(),
                    start: slot.piece.start,
                    tensor: tensor.shallow_clone(),
                })
                .collect::<Vec<_>>()
        };
        self.slots.iter().flat_map(of).collect()
    }

    /// The `master`, `exp_avg` or `exp_avg_sq` of a parameter, or of its first piece here.
    pub fn state_tensor(&self, part: &str, name: &str) -> Option<Tensor> {
        self.state()
            .into_iter()
            .find(|found| found.part == part && found.name == name)
            .map(|found| found.tensor)
    }

    /// Restores what [`AdamW::state`] returned: `fill` copies the stored values into a part's tensor.
    ///
    /// # Errors
    /// Those of `fill`.
    pub(crate) fn restore<E>(
        &mut self,
        step: usize,
        fill: &mut dyn FnMut(&mut StatePart) -> Result<(), E>,
    ) -> Result<(), E> {
        self.step = step;
        self.state().iter_mut().try_for_each(fill)?;
        for slot in &mut self.slots {
            tch::no_grad(|| slot.piece.parameter.copy_(&slot.master));
        }
        Ok(())
    }
}

fn squares(flat: &Tensor) -> f64 {
    let whole = flat.size()[0] / NORM_CHUNK * NORM_CHUNK;
    let squares = |part: &Tensor| part.square().sum_dim_intlist([-1i64].as_slice(), false, Kind::Float);
    let mut sum = 0.0;
    // In groups, to bound the memory of the squares.
    for rows in flat.narrow(0, 0, whole).view([-1, NORM_CHUNK]).split(64, 0) {
        sum += squares(&rows).sum(Kind::Double).double_value(&[]);
    }
    let rest = flat.narrow(0, whole, flat.size()[0] - whole);
    sum + squares(&rest).to_kind(Kind::Double).double_value(&[])
}

/// The factor that brings a gradient of `norm` down to `max_norm`, as `clip_grad_norm_` of PyTorch computes it.
pub fn clip_factor(norm: f64, max_norm: f64) -> f64 {
    (max_norm / (norm + 1e-6)).min(1.0)
}
