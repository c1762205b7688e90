//! The dtypes of the computation.
//!
//! | what | dtype |
//! |---|---|
//! | parameters in the forward pass, activations, KV cache | the compute dtype: fp32 or bf16 |
//! | RMSNorm statistics, RoPE angles | fp32, result cast back |
//! | products and softmax | fp32 accumulation inside the kernel |
//! | logits in a loss | fp32 |
//! | gradients of parameters, summed over a step; their norm | fp32 |
//! | master weights, AdamW moments | fp32 (moments: bf16 as an option) |

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// The compute dtype a user asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// `"bfloat16"` when config.json says so, else `"float32"`.
    #[default]
    Auto,
    /// Decoding is exact.
    Float32,
    /// Half the memory traffic. Decoding is exact on a CPU; on a GPU two nearly equal logits may change places.
    Bfloat16,
}

impl Dtype {
    /// The dtype to compute in, given what config.json calls `torch_dtype`.
    pub fn resolve(self, stored: Option<&str>) -> Kind {
        match self {
            Self::Float32 => Kind::Float,
            Self::Bfloat16 => Kind::BFloat16,
            Self::Auto if stored == Some("bfloat16") => Kind::BFloat16,
            Self::Auto => Kind::Float,
        }
    }
}

/// Hugging Face's name of a compute dtype.
pub fn dtype_name(kind: Kind) -> &'static str {
    match kind {
        Kind::BFloat16 => "bfloat16",
        _ => "float32",
    }
}

/// Casts to fp32 for statistics and losses; no copy if it is fp32 already.
pub fn to_float32(x: &Tensor) -> Tensor {
    to_kind(x, Kind::Float)
}

/// Casts; no copy if the dtype is the same.
pub(crate) fn to_kind(x: &Tensor, kind: Kind) -> Tensor {
    if x.kind() == kind { x.shallow_clone() } else { x.to_kind(kind) }
}
