//! Grouped-query attention with rotary positions, over an optional KV cache.
//!
//! Legend: b batch, t new tokens, s keys, h key/value heads, g query heads per key/value head, d head width.

use tch::Tensor;

use crate::{
    Architecture, ModelError, cache::KvCache, mask::AttentionMask, mlp::linear, rope::Rope,
    weights::WeightPath,
};

struct Projection {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Projection {
    fn new(path: &mut WeightPath, size: [i64; 2], bias: bool) -> Result<Self, ModelError> {
        let weight = path.take("weight", &size)?;
        Ok(Self { weight, bias: bias.then(|| path.take("bias", &size[..1])).transpose()? })
    }

    fn forward(&self, x: &Tensor) -> Tensor {
        x.linear(&self.weight, self.bias.as_ref())
    }
}

pub(crate) struct Attention {
    q_proj: Projection,
    k_proj: Projection,
    v_proj: Projection,
    o_proj: Projection,
    kv_heads: i64,
    group: i64,
    head_dim: i64,
}

impl Attention {
    pub(crate) fn new(path: &mut WeightPath, shape: &Architecture) -> Result<Self, ModelError> {
        let hidden = shape.hidden_size;
        let q_size = shape.num_attention_heads * shape.head_dim;
        let kv_size = shape.num_key_value_heads * shape.head_dim;
        Ok(Self {
            q_proj: Projection::new(&mut path.child("q_proj"), [q_size, hidden], shape.qkv_bias)?,
            k_proj: Projection::new(&mut path.child("k_proj"), [kv_size, hidden], shape.qkv_bias)?,
            v_proj: Projection::new(&mut path.child("v_proj"), [kv_size, hidden], shape.qkv_bias)?,
            o_proj: Projection::new(&mut path.child("o_proj"), [hidden, q_size], shape.output_bias)?,
            kv_heads: shape.num_key_value_heads,
            group: shape.group_size(),
            head_dim: shape.head_dim,
        })
    }

    /// `x` is `[b, t, hidden]`; `cache` is the cache and this layer's index in it.
    pub(crate) fn forward(
        &self,
        x: &Tensor,
        rope: &Rope,
        mask: &FoldedMask,
        cache: Option<(&mut KvCache, usize)>,
    ) -> Tensor {
        let (b, t, _) = x.size3().expect("x is [batch, tokens, hidden]");
        let heads = |y: Tensor, count: i64| y.view([b, t, count, self.head_dim]).transpose(1, 2);
        let q_bhtd = rope.rotate(&heads(self.q_proj.forward(x), self.kv_heads * self.group));
        let k_bhtd = rope.rotate(&heads(self.k_proj.forward(x), self.kv_heads));
        let v_bhtd = heads(self.v_proj.forward(x), self.kv_heads);
        let (k_bhsd, v_bhsd) = match cache {
            Some((cache, layer)) => cache.append(layer, &k_bhtd, &v_bhtd),
            None => (k_bhtd, v_bhtd),
        };
        let y_bhtd = match mask {
            FoldedMask::Causal => self.causal(&q_bhtd, &k_bhsd, &v_bhsd),
            FoldedMask::Rows(mask) => self.folded(&q_bhtd, &k_bhsd, &v_bhsd, mask.as_ref()),
        };
        let y = y_bhtd.transpose(1, 2).reshape([b, t, self.kv_heads * self.group * self.head_dim]);
        match &self.o_proj.bias {
            Some(_) => self.o_proj.forward(&y),
            None => linear(&y, &self.o_proj.weight),
        }
    }

    /// Keys and values repeated for their query heads; the kernel skips the masked half.
    fn causal(&self, q_bhtd: &Tensor, k_bhsd: &Tensor, v_bhsd: &Tensor) -> Tensor {
        let repeat = |x: &Tensor| if self.group == 1 { x.shallow_clone() } else { self.repeat_heads(x) };
        attend(q_bhtd, &repeat(k_bhsd), &repeat(v_bhsd), None, true)
    }

    fn repeat_heads(&self, x_bhsd: &Tensor) -> Tensor {
        let (b, h, s, d) = x_bhsd.size4().expect("keys are [batch, heads, tokens, width]");
        x_bhsd.unsqueeze(2).expand([b, h, self.group, s, d], false).reshape([b, h * self.group, s, d])
    }

    /// The query heads of a group become more query tokens of their key/value head, so that a cache is read in
    /// place and never repeated.
    fn folded(&self, q_bhtd: &Tensor, k_bhsd: &Tensor, v_bhsd: &Tensor, mask: Option<&Tensor>) -> Tensor {
        let (b, _, t, d) = q_bhtd.size4().expect("queries are [batch, heads, tokens, width]");
        let q = q_bhtd.reshape([b, self.kv_heads, self.group * t, d]);
        let y = attend(&q, k_bhsd, v_bhsd, mask, false);
        y.reshape([b, self.kv_heads * self.group, t, d])
    }
}

/// A mask made ready once per forward pass for every layer.
pub(crate) enum FoldedMask {
    Causal,
    Rows(Option<Tensor>),
}

impl FoldedMask {
    pub(crate) fn new(mask: &AttentionMask, group: i64) -> Self {
        match mask {
            AttentionMask::Causal => Self::Causal,
            other => Self::Rows(other.folded(group)),
        }
    }
}

fn attend(q: &Tensor, k: &Tensor, v: &Tensor, mask: Option<&Tensor>, causal: bool) -> Tensor {
    Tensor::scaled_dot_product_attention(q, k, v, mask, 0.0, causal, None, false)
}
