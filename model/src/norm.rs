//! RMSNorm (arXiv 1910.07467): x / rms(x) * weight, statistics in fp32.

use tch::{Kind, Tensor};

use crate::{
    ModelError,
    precision::{to_float32, to_kind},
    weights::WeightPath,
};

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
        let x32 = to_float32(x);
        let mean_square = x32.square().mean_dim([-1i64].as_slice(), true, Kind::Float);
        let normed = &x32 * (mean_square + self.eps).rsqrt();
        to_kind(&normed, x.kind()) * &self.weight
    }
}
