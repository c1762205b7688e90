//! Rotary position embedding (arXiv 2104.09864) with the scalings that config.json can ask for.
//!
//! Legend: t tokens, d head width, h heads.

use std::path::Path;

use serde_json::{Map, Value};
use tch::{Device, Kind, Tensor};

use crate::ModelError;

/// How frequencies are stretched beyond the trained context.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// As trained.
    None,
    /// Positions divided by the factor.
    Linear {
        /// How many times longer the context is.
        factor: f64,
    },
    /// Llama 3.1: long wavelengths divided by `factor`, short ones kept, those between interpolated.
    Llama3 {
        /// Division of the long wavelengths.
        factor: f64,
        /// Context / this = the wavelength from which all is divided.
        low_freq_factor: f64,
        /// Context / this = the wavelength up to which all is kept.
        high_freq_factor: f64,
        /// The trained context.
        original_context: f64,
    },
}

/// Base frequency and scaling of one model.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeConfig {
    /// `rope_theta`.
    pub theta: f64,
    /// Stretching.
    pub scaling: RopeScaling,
    /// Width of a head.
    pub head_dim: i64,
}

impl RopeConfig {
    pub(crate) fn from_json(
        json: &Map<String, Value>,
        path: &Path,
        head_dim: i64,
        context: i64,
    ) -> Result<Self, ModelError> {
        // transformers 5 writes `rope_parameters`, older ones `rope_theta` and `rope_scaling`.
        let object = |name: &str| json.get(name).and_then(Value::as_object);
        let (name, table) = match (object("rope_parameters"), object("rope_scaling")) {
            (Some(table), _) => ("rope_parameters", Some(table)),
            (None, table) => ("rope_scaling", table),
        };
        let theta = table
            .and_then(|t| t.get("rope_theta"))
            .or_else(|| json.get("rope_theta"))
            .map_or(Some(10_000.0), Value::as_f64);
        let theta = theta.ok_or_else(|| ModelError::MissingField {
            path: path.to_path_buf(),
            field: "rope_theta".into(),
            expected: "a number",
        })?;
        let scaling = match table {
            None => RopeScaling::None,
            Some(table) => scaling_from_json(table, path, name, context)?,
        };
        Ok(Self { theta, scaling, head_dim })
    }

    /// Inverse frequencies, fp32 `[d/2]`. In fp32 throughout, as transformers computes them: rounding once from f64
    /// moves the logits of long texts.
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

fn scaling_from_json(
    table: &Map<String, Value>,
    path: &Path,
    name: &str,
    context: i64,
) -> Result<RopeScaling, ModelError> {
    let number = |field: &str| {
        table.get(field).and_then(Value::as_f64).ok_or_else(|| ModelError::MissingField {
            path: path.to_path_buf(),
            field: format!("{name}.{field}"),
            expected: "a number",
        })
    };
    let kind = table.get("rope_type").or_else(|| table.get("type")).and_then(Value::as_str);
    match kind.unwrap_or("default") {
        // "Dynamic NTK" changes the angles of texts longer than max_position_embeddings only; none is computed.
        "default" | "dynamic" => Ok(RopeScaling::None),
        "linear" => Ok(RopeScaling::Linear { factor: number("factor")? }),
        "llama3" => Ok(RopeScaling::Llama3 {
            factor: number("factor")?,
            low_freq_factor: number("low_freq_factor")?,
            high_freq_factor: number("high_freq_factor")?,
            original_context: number("original_max_position_embeddings").unwrap_or(context as f64),
        }),
        other => Err(ModelError::UnsupportedValue {
            path: path.to_path_buf(),
            field: format!("{name}.rope_type"),
            value: other.to_owned(),
            supported: "supported: default, linear, dynamic, llama3".into(),
        }),
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
    /// Angles in fp32, stored in `kind`, as transformers does.
    pub fn new(config: &RopeConfig, length: i64, kind: Kind, device: Device) -> Self {
        let frequencies = config.inverse_frequencies(device);
        let positions = Tensor::arange(length, (Kind::Float, device));
        let angles_td = positions.unsqueeze(1) * frequencies.unsqueeze(0);
        let angles_td = Tensor::cat(&[&angles_td, &angles_td], 1);
        Self { cos: angles_td.cos().to_kind(kind), sin: angles_td.sin().to_kind(kind) }
    }

    /// Positions there are.
    pub(crate) fn len(&self) -> i64 {
        self.cos.size()[0]
    }

    /// Positions `start..start + count`.
    pub fn range(&self, start: i64, count: i64) -> Rope {
        Rope { cos: self.cos.narrow(0, start, count), sin: self.sin.narrow(0, start, count) }
    }

    /// Any positions, int64 of any shape: the angles have that shape and `d`.
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

    /// Rotates `x_bhtd`: halves are paired, as in the Hugging Face layout of q and k.
    pub fn rotate(&self, x_bhtd: &Tensor) -> Tensor {
        let half = x_bhtd.size()[3] / 2;
        let (cos, sin) = (self.cos.unsqueeze(-3), self.sin.unsqueeze(-3));
        let turned = Tensor::cat(&[x_bhtd.narrow(3, half, half).neg(), x_bhtd.narrow(3, 0, half)], 3);
        x_bhtd * cos + turned * sin
    }
}
