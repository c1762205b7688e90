//! AdamW (arXiv 1711.05101) with fp32 master weights and moments, all of which can be saved: libtorch's own
//! optimizer exposes neither. Each kind of value lies in one buffer; a step is one pass over memory. Decay applies to
//! matrices only.

use jacobi_model::{Gradients, to_float32};
use jacobi_torch_ext::{AdamWSlot, AdamWStep, adamw};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// The dtype moments are kept in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    /// What moments are kept in.
    pub moments: MomentsDtype,
}

/// Master weights, moments and gradients of a list of parameters.
pub struct AdamW {
    config: AdamWConfig,
    slots: Vec<Slot>,
    gradients: Gradients,
    /// Steps taken.
    pub step: usize,
}

/// One parameter; all but `parameter` are views of the buffers.
struct Slot {
    name: String,
    /// What the forward pass reads.
    parameter: Tensor,
    /// fp32; the parameter itself when that is fp32.
    master: Tensor,
    first: Tensor,
    second: Tensor,
    gradient: Tensor,
}

/// The names of what is kept per parameter, in the order of [`AdamW::state`].
const PARTS: [&str; 3] = ["master", "exp_avg", "exp_avg_sq"];

/// Gradients whose squares are summed in fp32 before they enter an f64.
const NORM_CHUNK: i64 = 1 << 16;

impl AdamW {
    /// Fresh moments for `parameters`.
    pub fn new(parameters: &[(String, Tensor)], config: AdamWConfig) -> Self {
        let gradients = Gradients::new(parameters);
        let count = gradients.flat().numel() as i64;
        let device = gradients.flat().device();
        let moments = match config.moments {
            MomentsDtype::Float32 => Kind::Float,
            MomentsDtype::Bfloat16 => Kind::BFloat16,
        };
        let [first, second] = [(); 2].map(|()| Tensor::zeros([count], (moments, device)));
        let rounded = parameters.iter().any(|(_, parameter)| parameter.kind() != Kind::Float);
        let masters = rounded.then(|| Tensor::empty([count], (Kind::Float, device)));
        let mut start = 0;
        let slot = |(name, parameter): &(String, Tensor)| {
            let (size, length) = (parameter.size(), parameter.numel() as i64);
            let view = |buffer: &Tensor| buffer.narrow(0, start, length).view(size.as_slice());
            let master = match &masters {
                Some(masters) => {
                    let mut master = view(masters);
                    master.copy_(&to_float32(&parameter.detach()));
                    master
                }
                None => parameter.detach(),
            };
            let (first, second) = (view(&first), view(&second));
            start += length;
            let gradient = gradients.of(parameter);
            Slot { name: name.clone(), parameter: parameter.detach(), master, first, second, gradient }
        };
        let slots = parameters.iter().map(slot).collect();
        Self { config, slots, gradients, step: 0 }
    }

    /// The gradients that the next update takes, summed over the passes of a step.
    pub fn gradients(&self) -> &Gradients {
        &self.gradients
    }

    /// L2 norm of the summed gradients.
    pub fn gradient_norm(&self) -> f64 {
        let flat = self.gradients.flat();
        let whole = flat.size()[0] / NORM_CHUNK * NORM_CHUNK;
        let squares = |part: &Tensor| part.square().sum_dim_intlist([-1i64].as_slice(), false, Kind::Float);
        let mut sum = 0.0;
        // In groups, so that the squares take little room.
        for rows in flat.narrow(0, 0, whole).view([-1, NORM_CHUNK]).split(64, 0) {
            sum += squares(&rows).sum(Kind::Double).double_value(&[]);
        }
        let rest = flat.narrow(0, whole, flat.size()[0] - whole);
        (sum + squares(&rest).to_kind(Kind::Double).double_value(&[])).sqrt()
    }

    /// One update with the summed gradients times `scale`, then clears them.
    pub fn update(&mut self, learning_rate: f64, scale: f64) {
        self.step += 1;
        let AdamWConfig { beta1, beta2, eps, weight_decay, .. } = self.config;
        let step = AdamWStep { beta1, beta2, eps, step: self.step, learning_rate, scale };
        for slot in &mut self.slots {
            let decay = if slot.master.dim() > 1 { weight_decay } else { 0.0 };
            let rounded = slot.parameter.kind() != Kind::Float;
            let slot = AdamWSlot {
                parameter: rounded.then_some(&mut slot.parameter),
                master: &mut slot.master,
                first: &mut slot.first,
                second: &mut slot.second,
                gradient: &mut slot.gradient,
                weight_decay: decay,
            };
            adamw(slot, &step);
        }
    }

    /// Everything a resumed run needs, as `master.NAME`, `exp_avg.NAME`, `exp_avg_sq.NAME`.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        let of = |slot: &Slot| {
            PARTS
                .iter()
                .zip([&slot.master, &slot.first, &slot.second])
                .map(|(part, tensor)| (format!("{part}.{}", slot.name), tensor.shallow_clone()))
                .collect::<Vec<_>>()
        };
        self.slots.iter().flat_map(of).collect()
    }

    /// Takes back what [`AdamW::state`] gave. `find` returns a stored tensor.
    ///
    /// # Errors
    /// The name of the first tensor that is missing or of another shape.
    pub fn restore(&mut self, step: usize, find: &dyn Fn(&str) -> Option<Tensor>) -> Result<(), String> {
        self.step = step;
        tch::no_grad(|| {
            for slot in &mut self.slots {
                for (part, target) in PARTS.iter().zip([&mut slot.master, &mut slot.first, &mut slot.second])
                {
                    let name = format!("{part}.{}", slot.name);
                    match find(&name) {
                        Some(stored) if stored.size() == target.size() => target.copy_(&stored),
                        _ => return Err(name),
                    }
                }
                slot.parameter.copy_(&slot.master);
            }
            Ok(())
        })
    }
}

/// The factor that brings a gradient of `norm` down to `max_norm`, as `clip_grad_norm_` of PyTorch computes it.
pub fn clip_factor(norm: f64, max_norm: f64) -> f64 {
    (max_norm / (norm + 1e-6)).min(1.0)
}
