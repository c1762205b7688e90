//! Attention masks of the plain forward pass. The caller builds them; this crate does not know their rules.
//! Training uses runs ([`crate::Run`]) instead of masks; tests compare them with a dense mask.
//!
//! Legend: b batch, t query tokens, s key tokens, g query heads per key/value head.

use tch::{Kind, Tensor};

/// The mask of one forward pass with nothing cached.
pub enum AttentionMask {
    /// Each token sees itself and all before it; t = s.
    Causal,
    /// Additive mask `[b or 1, 1, t, s]` of the compute dtype: 0 where seen, -inf where not.
    Dense(Tensor),
}

impl AttentionMask {
    /// From a boolean `[b, t, s]`, true where seen. Every query must see at least one key.
    pub fn from_bool(seen_bts: &Tensor, kind: Kind) -> Self {
        let (b, t, s) = seen_bts.size3().expect("seen_bts is [batch, queries, keys]");
        let mask = Tensor::zeros([b, t, s], (kind, seen_bts.device()));
        Self::Dense(mask.masked_fill(&seen_bts.logical_not(), f64::NEG_INFINITY).unsqueeze(1))
    }

    /// The dense mask for `g` query heads folded into the token axis, `[b or 1, 1, g * t, s]`; `None`: causal.
    pub(crate) fn folded(&self, g: i64) -> Option<Tensor> {
        match self {
            Self::Dense(mask) if g > 1 => Some(mask.repeat([1, 1, g, 1])),
            Self::Dense(mask) => Some(mask.shallow_clone()),
            Self::Causal => None,
        }
    }
}
