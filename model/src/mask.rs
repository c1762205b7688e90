//! Who attends to whom, as the attention kernel needs it. The mechanism only: which rule a mask stands for is the
//! caller's business.
//!
//! Legend: b batch, t query tokens, s key tokens, g query heads per key/value head.

use tch::{Device, Kind, Tensor};

/// The mask of one forward pass.
pub enum AttentionMask {
    /// Ordinary causal attention with nothing cached: t = s.
    Causal,
    /// Every query sees every key: one new token behind a cache.
    Full,
    /// Additive mask `[b or 1, 1, t, s]` of the compute dtype: 0 where seen, -inf where not.
    Dense(Tensor),
}

impl AttentionMask {
    /// Causal attention of `t` new tokens behind `cached` ones, bottom-right aligned.
    pub fn causal(t: i64, cached: i64, kind: Kind, device: Device) -> Self {
        match (t, cached) {
            (1, _) => Self::Full,
            (_, 0) => Self::Causal,
            _ => {
                let mask_ts = Tensor::full([t, cached + t], f64::NEG_INFINITY, (kind, device));
                Self::Dense(mask_ts.triu(cached + 1).view([1, 1, t, cached + t]))
            }
        }
    }

    /// From a boolean `[b, t, s]`, true where seen. Every row must see something.
    pub fn from_bool(seen_bts: &Tensor, kind: Kind) -> Self {
        let (b, t, s) = seen_bts.size3().expect("seen_bts is [batch, queries, keys]");
        let mask = Tensor::zeros([b, t, s], (kind, seen_bts.device()));
        Self::Dense(mask.masked_fill(&seen_bts.logical_not(), f64::NEG_INFINITY).unsqueeze(1))
    }

    /// The dense mask repeated for `g` query heads folded into the token axis: `[b or 1, 1, g * t, s]`.
    pub(crate) fn folded(&self, g: i64) -> Option<Tensor> {
        match self {
            Self::Dense(mask) if g > 1 => Some(mask.repeat([1, 1, g, 1])),
            Self::Dense(mask) => Some(mask.shallow_clone()),
            Self::Causal | Self::Full => None,
        }
    }
}
