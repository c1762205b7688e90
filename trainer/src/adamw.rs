//! AdamW (arXiv 1711.05101) with fp32 master weights and moments, all of which can be saved: libtorch's own
//! optimizer exposes neither. Decay applies to matrices only.

use tch::{Kind, Tensor};

use jacobi_model::to_float32;

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
}

/// Master weights and moments of a list of parameters.
pub struct AdamW {
    config: AdamWConfig,
    slots: Vec<Slot>,
    /// Steps taken.
    pub step: usize,
}

struct Slot {
    name: String,
    /// What the forward pass reads.
    parameter: Tensor,
    /// fp32; the parameter itself when that is fp32.
    master: Tensor,
    first: Tensor,
    second: Tensor,
    /// fp32 gradient, summed over the micro-batches of a step.
    gradient: Tensor,
}

/// The names of what is kept per parameter, in the order of [`AdamW::state`].
const PARTS: [&str; 3] = ["master", "exp_avg", "exp_avg_sq"];

impl AdamW {
    /// Fresh moments for `parameters`, which are made to require gradients.
    pub fn new(parameters: &[(String, Tensor)], config: AdamWConfig) -> Self {
        let slot = |(name, parameter): &(String, Tensor)| {
            let parameter = parameter.shallow_clone().set_requires_grad(true);
            let master = to_float32(&parameter.detach());
            let zeros = || master.zeros_like();
            Slot { name: name.clone(), first: zeros(), second: zeros(), gradient: zeros(), parameter, master }
        };
        Self { config, slots: parameters.iter().map(slot).collect(), step: 0 }
    }

    /// Adds the gradients of the last backward pass to the step's sum and clears them.
    pub fn accumulate(&mut self) {
        tch::no_grad(|| {
            for slot in &mut self.slots {
                let mut gradient = slot.parameter.grad();
                if gradient.defined() {
                    let _ = slot.gradient.g_add_(&to_float32(&gradient));
                    let _ = gradient.zero_();
                }
            }
        });
    }

    /// L2 norm of the summed gradients.
    pub fn gradient_norm(&self) -> f64 {
        let squares: Vec<Tensor> = self.slots.iter().map(|s| s.gradient.square().sum(Kind::Float)).collect();
        Tensor::stack(&squares, 0).sum(Kind::Double).double_value(&[]).sqrt()
    }

    /// One update with the summed gradients times `scale`, then clears them.
    pub fn update(&mut self, learning_rate: f64, scale: f64) {
        self.step += 1;
        let c = self.config;
        let bias1 = 1.0 - c.beta1.powi(self.step as i32);
        let bias2 = 1.0 - c.beta2.powi(self.step as i32);
        tch::no_grad(|| {
            for slot in &mut self.slots {
                let gradient = &slot.gradient * scale;
                let _ = slot.first.g_mul_scalar_(c.beta1).g_add_(&(&gradient * (1.0 - c.beta1)));
                let _ = slot.second.g_mul_scalar_(c.beta2).g_add_(&(gradient.square() * (1.0 - c.beta2)));
                if slot.master.dim() > 1 && c.weight_decay > 0.0 {
                    let _ = slot.master.g_mul_scalar_(1.0 - learning_rate * c.weight_decay);
                }
                let denominator = slot.second.sqrt() / bias2.sqrt() + c.eps;
                let _ = slot.master.g_sub_(&(&slot.first / denominator * (learning_rate / bias1)));
                if slot.parameter.kind() != Kind::Float {
                    slot.parameter.copy_(&slot.master);
                }
                let _ = slot.gradient.zero_();
            }
        });
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
