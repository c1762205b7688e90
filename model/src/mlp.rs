//! The gated MLP of every supported family: down(silu(gate(x)) * up(x)).

use tch::Tensor;

use crate::{Architecture, ModelError, weights::WeightPath};

pub(crate) struct Mlp {
    gate_proj: Tensor,
    up_proj: Tensor,
    down_proj: Tensor,
}

impl Mlp {
    pub(crate) fn new(path: &mut WeightPath, shape: &Architecture) -> Result<Self, ModelError> {
        let (hidden, inner) = (shape.hidden_size, shape.intermediate_size);
        Ok(Self {
            gate_proj: path.child("gate_proj").take("weight", &[inner, hidden])?,
            up_proj: path.child("up_proj").take("weight", &[inner, hidden])?,
            down_proj: path.child("down_proj").take("weight", &[hidden, inner])?,
        })
    }

    pub(crate) fn forward(&self, x: &Tensor) -> Tensor {
        let gated = linear(x, &self.gate_proj).silu() * linear(x, &self.up_proj);
        linear(&gated, &self.down_proj)
    }
}

/// A projection without bias.
pub(crate) fn linear(x: &Tensor, weight: &Tensor) -> Tensor {
    x.linear(weight, None::<&Tensor>)
}
