//! The gated MLP of every supported family: down(silu(gate(x)) * up(x)).

use jacobi_torch_ext::{linear, product, product_input_gradient, silu_gated, silu_gated_backward};
use tch::Tensor;

use crate::{
    Architecture, Gradients, ModelError,
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

    /// Every stack of parameters.
    pub(crate) fn stacks(&self) -> impl Iterator<Item = &Stacked> {
        std::iter::once(&self.gate_up)
    }

    /// Under autograd: one product per parameter, so that each gets its gradient.
    pub(crate) fn forward(&self, x: &Tensor) -> Tensor {
        const NO_BIAS: Option<&Tensor> = None;
        let [gate, up] = &self.gate_up.parts[..] else { unreachable!("two parameters are stacked") };
        (x.linear(gate, NO_BIAS).silu() * x.linear(up, NO_BIAS)).linear(&self.down_proj, NO_BIAS)
    }

    /// Without gradients: one product for gate and up.
    pub(crate) fn infer(&self, x: &Tensor) -> Tensor {
        let gated = silu_gated(&linear(x, &self.gate_up.whole, None));
        linear(&gated, &self.down_proj, None)
    }

    /// For training: gate and up, `[n, 2 * inner]`.
    pub(crate) fn gate_up(&self, x: &Tensor) -> Tensor {
        product(x, &self.gate_up.whole, None)
    }

    /// For training: the output for [`Mlp::gate_up`].
    pub(crate) fn down(&self, gate_up: &Tensor) -> Tensor {
        product(&silu_gated(gate_up), &self.down_proj, None)
    }

    /// The gradient of `x` for the gradient `grad` of the output.
    pub(crate) fn backward(
        &self,
        x: &Tensor,
        gate_up: Tensor,
        grad: &Tensor,
        gradients: &Gradients,
    ) -> Tensor {
        gradients.add_product(&self.down_proj, grad, &silu_gated(&gate_up));
        let grad_gate_up = silu_gated_backward(&gate_up, &product_input_gradient(grad, &self.down_proj));
        drop(gate_up);
        gradients.add_product(&self.gate_up.whole, &grad_gate_up, x);
        product_input_gradient(&grad_gate_up, &self.gate_up.whole)
    }
}
