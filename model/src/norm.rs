//! RMSNorm (arXiv 1910.07467): x / rms(x) * weight, statistics in fp32.

use jacobi_torch_ext::{add_rms_norm, rms_norm, rms_norm_backward};
use tch::{Kind, Tensor};

use crate::{Gradients, ModelError, weights::WeightPath};

/// One RMSNorm over the last dimension.
pub(crate) struct RmsNorm {
    weight: Tensor,
    eps: f64,
}

impl RmsNorm {
    pub(crate) fn new(path: &mut WeightPath, size: i64, eps: f64) -> Result<Self, ModelError> {
        Ok(Self { weight: path.take("weight", &[size])?, eps })
    }

    pub(crate) fn forward(&self, x: &Tensor) -> Tensor {
        rms_norm(x, &self.weight, self.eps)
    }

    /// Adds `delta` to `x` in place and returns the norm of the sum.
    pub(crate) fn forward_added(&self, x: &mut Tensor, delta: &Tensor) -> Tensor {
        add_rms_norm(x, delta, &self.weight, self.eps)
    }

    /// Adds the gradient of `x`, for the gradient `grad` of the output, to `grad_x`; and that of the weight, unless it is
    /// frozen.
    pub(crate) fn backward(&self, x: &Tensor, grad: &Tensor, grad_x: &mut Tensor, gradients: &Gradients) {
        let mut of_weight = match gradients.includes(&self.weight) {
            true => gradients.of(&self.weight),
            false => self.weight.zeros_like().to_kind(Kind::Float),
        };
        rms_norm_backward(x, &self.weight, self.eps, grad, grad_x, &mut of_weight);
    }
}
