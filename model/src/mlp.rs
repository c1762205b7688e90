//! The gated MLP of every supported family: down(silu(gate(x)) * up(x)).

use tch::Tensor;

use crate::{
    Architecture, ModelError,
    weights::{Stacked, WeightPath},
};

pub(crate) struct Mlp {
    /// gate_proj, up_proj.
    gate_up: Stacked,
    down_proj: Tensor,
}

impl Mlp {
    pub(crate) fn new(path: &mut WeightPath, shape: &Architecture) -> Result<Self, ModelError> {
        let (hidden, inner) = (shape.hidden_size, shape.intermediate_size);
        let gate_up = [("gate_proj", inner), ("up_proj", inner)];
        Ok(Self {
            gate_up: path.take_stacked(&gate_up, "weight", &[hidden])?,
            down_proj: path.child("down_proj").take("weight", &[hidden, inner])?,
        })
    }

    /// For training: the parameters are multiplied one by one, so that each gets its gradient.
    pub(crate) fn forward(&self, x: &Tensor) -> Tensor {
        let [gate, up] = &self.gate_up.parts[..] else { unreachable!("two parameters are stacked") };
        linear(&(linear(x, gate).silu() * linear(x, up)), &self.down_proj)
    }

    /// Without gradients: one product for both.
    pub(crate) fn infer(&self, x: &Tensor) -> Tensor {
        let both = linear(x, &self.gate_up.whole);
        let inner = self.down_proj.size()[1];
        let mut gated = both.narrow(-1, 0, inner).silu();
        let _ = gated.g_mul_(&both.narrow(-1, inner, inner));
        linear(&gated, &self.down_proj)
    }
}

/// A projection without bias.
pub(crate) fn linear(x: &Tensor, weight: &Tensor) -> Tensor {
    x.linear(weight, None::<&Tensor>)
}
