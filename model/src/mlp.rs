//! The gated MLP of every supported family: down(silu(gate(x)) * up(x)).

use jacobi_torch_ext::{silu_gated, silu_gated_backward};
use tch::Tensor;

use crate::{
    AdaptedRows, Adapter, Architecture, Gradients, ModelError,
    linear::{Linear, LinearName},
    weights::WeightPath,
};

pub(crate) struct Mlp {
    /// gate_proj, up_proj.
    gate_up: Linear,
    down_proj: Linear,
}

impl Mlp {
    pub(crate) fn new(path: &mut WeightPath, shape: &Architecture, layer: usize) -> Result<Self, ModelError> {
        let (hidden, inner) = (shape.hidden_size, shape.intermediate_size);
        let gate_up = [("gate_proj", inner), ("up_proj", inner)];
        Ok(Self {
            gate_up: Linear::new(path, (layer, LinearName::GateUp), &gate_up, hidden, false)?,
            down_proj: Linear::new(path, (layer, LinearName::Down), &[("down_proj", hidden)], inner, false)?,
        })
    }

    pub(crate) fn linears(&self) -> [&Linear; 2] {
        [&self.gate_up, &self.down_proj]
    }

    /// Under autograd: one product per parameter, so that each gets its gradient.
    pub(crate) fn forward(&self, x: &Tensor, adapted: Option<AdaptedRows>) -> Tensor {
        let [gate, up] = &self.gate_up.parts(x, adapted)[..] else {
            unreachable!("two parameters are stacked")
        };
        self.down_proj.parts(&(gate.silu() * up), adapted).remove(0)
    }

    /// Without gradients: one product for gate and up.
    pub(crate) fn infer(&self, x: &Tensor, adapted: Option<AdaptedRows>) -> Tensor {
        self.down_proj.infer(&silu_gated(&self.gate_up.infer(x, adapted)), adapted)
    }

    /// For training: gate and up, `[n, 2 * inner]`.
    pub(crate) fn gate_up(&self, x: &Tensor, adapted: Option<AdaptedRows>) -> Tensor {
        self.gate_up.product(x, adapted)
    }

    /// For training: the output for [`Mlp::gate_up`].
    pub(crate) fn down(&self, gate_up: &Tensor, adapted: Option<AdaptedRows>) -> Tensor {
        self.down_proj.product(&silu_gated(gate_up), adapted)
    }

    /// The gradient of `x` for the gradient `grad` of the output.
    pub(crate) fn backward(
        &self,
        x: &Tensor,
        gate_up: Tensor,
        (grad, adapter): (&Tensor, Option<&Adapter>),
        gradients: &Gradients,
    ) -> Tensor {
        let grad_gated = self.down_proj.backward(&silu_gated(&gate_up), grad, adapter, gradients);
        let grad_gate_up = silu_gated_backward(&gate_up, &grad_gated);
        drop((gate_up, grad_gated));
        self.gate_up.backward(x, &grad_gate_up, adapter, gradients)
    }
}
