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
    Yarn(Yarn),
}

/// YaRN (arXiv 2309.00071): frequencies that turn at least `beta_fast` times within `original_context` are kept,
/// those that turn at most `beta_slow` times are divided by `factor`, and those between are interpolated. Queries and
/// keys are multiplied by `attention_factor`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Yarn {
    pub(crate) factor: f64,
    pub(crate) original_context: f64,
    pub(crate) beta_fast: f64,
    pub(crate) beta_slow: f64,
    pub(crate) attention_factor: f64,
    /// Whether the bounds of the interpolation are rounded to whole frequencies.
    pub(crate) truncate: bool,
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
        let periods = Tensor::pow_scalar(self.theta, &exponents);
        self.scaling.apply(&periods, self)
    }

    /// What cosines and sines are multiplied by.
    pub(crate) fn attention_factor(&self) -> f64 {
        match &self.scaling {
            RopeScaling::Yarn(yarn) => yarn.attention_factor,
            _ => 1.0,
        }
    }

    /// Longest context, in tokens. Under YaRN it is at least `factor` times the original one: the usual setting for
    /// long contexts adds the scaling to config.json and leaves `max_position_embeddings` as it was.
    pub(crate) fn context(&self, max_position_embeddings: i64) -> i64 {
        match &self.scaling {
            RopeScaling::Yarn(yarn) => {
                max_position_embeddings.max((yarn.factor * yarn.original_context).floor() as i64)
            }
            _ => max_position_embeddings,
        }
    }
}

impl RopeScaling {
    /// Scaled frequencies. `periods` are the reciprocals of the unscaled ones, `[d/2]`.
    fn apply(&self, periods: &Tensor, config: &RopeConfig) -> Tensor {
        let frequencies = &periods.reciprocal();
        match *self {
            Self::None => frequencies.shallow_clone(),
            Self::Linear { factor } => frequencies / factor,
            Self::Yarn(ref yarn) => yarn.apply(periods, config),
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

impl Yarn {
    /// The factor of attention for a context that is `scale` times as long.
    pub(crate) fn scale(scale: f64, mscale: f64) -> f64 {
        if scale <= 1.0 { 1.0 } else { 0.1 * mscale * scale.ln() + 1.0 }
    }

    /// As [`RopeScaling::apply`].
    fn apply(&self, periods: &Tensor, config: &RopeConfig) -> Tensor {
        let d = config.head_dim as f64;
        // The index, as a real number, of the frequency that turns this many times within the original context.
        let index = |turns: f64| {
            d * (self.original_context / (turns * 2.0 * std::f64::consts::PI)).ln()
                / (2.0 * config.theta.ln())
        };
        let (mut low, mut high) = (index(self.beta_fast), index(self.beta_slow));
        if self.truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        (low, high) = (low.max(0.0), high.min(d - 1.0));
        if low == high {
            high += 0.001; // as transformers does, against a division by zero
        }
        let indices = Tensor::arange(periods.size()[0], (Kind::Float, periods.device()));
        let kept = 1.0 - ((indices - low) / (high - low)).clamp(0.0, 1.0);
        (periods * self.factor).reciprocal() * (1.0 - &kept) + periods.reciprocal() * &kept
    }
}

/// Cosines and sines for positions `0..length`, times the attention factor, each `[length, d]` in the compute dtype.
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
        let factor = config.attention_factor();
        Self { cos: (angles_td.cos() * factor).to_kind(kind), sin: (angles_td.sin() * factor).to_kind(kind) }
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

#[cfg(test)]
mod tests;
