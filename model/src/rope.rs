//! Rotary position embedding (arXiv 2104.09864) and its scalings.
//!
//! Legend: t tokens, d head width, h heads.

use tch::{Device, Kind, Tensor};

/// How frequencies are changed for a longer context than the model was first trained on.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum RopeScaling {
    None,
    /// All are divided by `factor`.
    Linear {
        factor: f64,
    },
    /// Llama 3.1: frequencies with wavelengths above `original_context / low_freq_factor` are divided by
    /// `factor`, those below `original_context / high_freq_factor` are kept, those between are interpolated.
    Llama3 {
        factor: f64,
        low_freq_factor: f64,
        high_freq_factor: f64,
        original_context: f64,
    },
}

/// The rotary embedding of one model.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RopeConfig {
    /// Base of the frequencies: `rope_theta`.
    pub(crate) theta: f64,
    pub(crate) scaling: RopeScaling,
    pub(crate) head_dim: i64,
}

impl RopeConfig {
    /// Inverse frequencies, fp32 `[d/2]`. In fp32 throughout, as transformers computes them: rounding once
    /// from f64 moves the logits of long texts.
    fn inverse_frequencies(&self, device: Device) -> Tensor {
        let exponents = Tensor::arange_start_step(0, self.head_dim, 2, (Kind::Float, device));
        let exponents = exponents / self.head_dim as f64;
        self.scaling.apply(&Tensor::pow_scalar(self.theta, &exponents).reciprocal())
    }
}

impl RopeScaling {
    fn apply(&self, frequencies: &Tensor) -> Tensor {
        match *self {
            Self::None => frequencies.shallow_clone(),
            Self::Linear { factor } => frequencies / factor,
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                let wavelengths = frequencies.reciprocal() * (2.0 * std::f64::consts::PI);
                let divided = frequencies / factor;
                let smooth = (wavelengths.reciprocal() * original_context - low_freq_factor)
                    / (high_freq_factor - low_freq_factor);
                let between = (1.0 - &smooth) * &divided + &smooth * frequencies;
                let short = wavelengths.lt(original_context / high_freq_factor);
                let long = wavelengths.gt(original_context / low_freq_factor);
                frequencies.where_self(&short, &divided.where_self(&long, &between))
            }
        }
    }
}

/// Cosines and sines for positions `0..length`, each `[length, d]` in the compute dtype.
pub struct RopeTable {
    cos: Tensor,
    sin: Tensor,
}

/// The rows of a table that one forward pass uses, each `[t, d]` or `[b, t, d]`.
pub struct Rope {
    cos: Tensor,
    sin: Tensor,
}

impl RopeTable {
    /// Angles are computed in fp32 and stored in `kind`, as transformers does.
    pub(crate) fn new(config: &RopeConfig, length: i64, kind: Kind, device: Device) -> Self {
        let frequencies = config.inverse_frequencies(device);
        let positions = Tensor::arange(length, (Kind::Float, device));
        let angles_td = positions.unsqueeze(1) * frequencies.unsqueeze(0);
        let angles_td = Tensor::cat(&[&angles_td, &angles_td], 1);
        Self { cos: angles_td.cos().to_kind(kind), sin: angles_td.sin().to_kind(kind) }
    }

    /// Number of positions.
    pub(crate) fn len(&self) -> i64 {
        self.cos.size()[0]
    }

    /// Positions `start..start + count`.
    pub fn range(&self, start: i64, count: i64) -> Rope {
        Rope { cos: self.cos.narrow(0, start, count), sin: self.sin.narrow(0, start, count) }
    }

    /// Any positions, int64 of any shape; the angles have that shape and a last dimension `d`.
    pub fn at(&self, positions: &Tensor) -> Rope {
        let shape = [positions.size(), vec![-1]].concat();
        let flat = positions.reshape([-1]);
        let pick = |table: &Tensor| table.index_select(0, &flat).view(shape.as_slice());
        Rope { cos: pick(&self.cos), sin: pick(&self.sin) }
    }
}

impl Rope {
    /// Cosines and sines.
    pub(crate) fn angles(&self) -> (&Tensor, &Tensor) {
        (&self.cos, &self.sin)
    }

    /// Rotates `x_bhtd`. Element i is paired with i + d/2, as in the Hugging Face layout of q and k.
    pub fn rotate(&self, x_bhtd: &Tensor) -> Tensor {
        let half = x_bhtd.size()[3] / 2;
        let (cos, sin) = (self.cos.unsqueeze(-3), self.sin.unsqueeze(-3));
        let rotated_half = Tensor::cat(&[x_bhtd.narrow(3, half, half).neg(), x_bhtd.narrow(3, 0, half)], 3);
        x_bhtd * cos + rotated_half * sin
    }
}
