//! Grouped-query attention with rotary positions, over the tokens of this pass or over KV caches.
//!
//! Legend: b batch, t new tokens, s keys, h key/value heads, g query heads per key/value head, d head width.

use jacobi_torch_ext::{FixedView, HeadShape, PassPlan, attend as attend_cached, rotate_and_store};
use tch::Tensor;

use crate::{
    AdaptedRows, Architecture, ModelError,
    cache::KvCache,
    linear::{Linear, LinearName},
    norm::RmsNorm,
    rope::Rope,
    weights::WeightPath,
};

mod training;

pub(crate) use training::AttentionCache;
pub use training::{LayerPass, TrainingRow};

/// RMSNorm over every query and every key head, before the rotation (Qwen3).
struct HeadNorms {
    query: RmsNorm,
    key: RmsNorm,
}

pub(crate) struct Attention {
    qkv: Linear,
    head_norms: Option<HeadNorms>,
    output: Linear,
    heads: HeadShape,
}

impl Attention {
    pub(crate) fn linears(&self) -> [&Linear; 2] {
        [&self.qkv, &self.output]
    }

    pub(crate) fn new(path: &mut WeightPath, shape: &Architecture, layer: usize) -> Result<Self, ModelError> {
        let (hidden, d) = (shape.hidden_size, shape.head_dim);
        let (q, kv) = (shape.num_attention_heads * d, shape.num_key_value_heads * d);
        let qkv = [("q_proj", q), ("k_proj", kv), ("v_proj", kv)];
        let qkv = Linear::new(path, (layer, LinearName::Qkv), &qkv, hidden, shape.qkv_bias)?;
        let norm = |path: &mut WeightPath| RmsNorm::new(path, d, shape.rms_norm_eps);
        let head_norms = match shape.qk_norm {
            true => Some(HeadNorms {
                query: norm(&mut path.child("q_norm"))?,
                key: norm(&mut path.child("k_norm"))?,
            }),
            false => None,
        };
        let output = [("o_proj", hidden)];
        let output = Linear::new(path, (layer, LinearName::Output), &output, q, shape.output_bias)?;
        Ok(Self { qkv, head_norms, output, heads: shape.heads() })
    }

    /// Under autograd: the tokens of `x` `[b, t, hidden]` attend to each other, causally or as `mask` says:
    /// additive, and repeated for the query heads of a group ([`crate::AttentionMask::folded`]).
    pub(crate) fn forward(
        &self,
        x: &Tensor,
        rope: &Rope,
        mask: Option<&Tensor>,
        adapted: Option<AdaptedRows>,
    ) -> Tensor {
        let (b, t, _) = x.size3().expect("x is [batch, tokens, hidden]");
        let (h, d) = (self.heads.keys as i64, self.heads.width as i64);
        let projected = self.qkv.parts(x, adapted);
        let heads_of = |part: usize| {
            let x_bthd = projected[part].view([b, t, -1, d]);
            let normed = match (&self.head_norms, part) {
                (Some(norms), 0) => norms.query.forward(&x_bthd),
                (Some(norms), 1) => norms.key.forward(&x_bthd),
                _ => x_bthd,
            };
            normed.transpose(1, 2)
        };
        let (q_bhtd, k_bhtd, v_bhtd) = (rope.rotate(&heads_of(0)), rope.rotate(&heads_of(1)), heads_of(2));
        let y_bhtd = match mask {
            None => attend(&q_bhtd, &self.repeat_heads(&k_bhtd), &self.repeat_heads(&v_bhtd), None, true),
            // The query heads of a group become query tokens, so keys and values need not be repeated.
            Some(_) => {
                let q = q_bhtd.reshape([b, h, self.group() * t, d]);
                attend(&q, &k_bhtd, &v_bhtd, mask, false).reshape([b, h * self.group(), t, d])
            }
        };
        self.output.parts(&y_bhtd.transpose(1, 2).reshape([b, t, -1]), adapted).remove(0)
    }

    /// Without gradients: the rows `x` `[t, hidden]` attend to each other and to the cached tokens of `past`.
    /// Their keys and values are written to the caches of layer `layer`.
    pub(crate) fn infer(
        &self,
        x: &Tensor,
        rope: &Rope,
        past: &Past,
        (layer, adapted): (usize, Option<AdaptedRows>),
    ) -> Tensor {
        let mut qkv = self.qkv.infer(x, adapted);
        if let Some(norms) = &self.head_norms {
            norms.apply_to_rows(&mut qkv, self.heads);
        }
        let (cos, sin) = rope.angles();
        let attended = match past {
            Past::AnyShape(plan, caches) => {
                let caches: Vec<[&Tensor; 2]> = caches.iter().map(|cache| cache.layer(layer)).collect();
                rotate_and_store(&mut qkv, cos, sin, plan, &caches);
                attend_cached(&qkv, plan, &caches)
            }
            Past::FixedShape(view, cache) => {
                view.rotate_and_store(&mut qkv, (cos, sin), self.heads, cache.layer(layer));
                view.attend(&qkv, self.heads, cache.layer(layer))
            }
        };
        self.output.infer(&attended, adapted)
    }

    fn group(&self) -> i64 {
        (self.heads.queries / self.heads.keys) as i64
    }

    fn repeat_heads(&self, x_bhsd: &Tensor) -> Tensor {
        if self.group() == 1 {
            return x_bhsd.shallow_clone();
        }
        let (b, h, s, d) = x_bhsd.size4().expect("keys are [batch, heads, tokens, width]");
        let g = self.group();
        x_bhsd.unsqueeze(2).expand([b, h, g, s, d], false).reshape([b, h * g, s, d])
    }
}

impl HeadNorms {
    /// Normalises the queries and keys of the projection's rows in place.
    fn apply_to_rows(&self, qkv: &mut Tensor, heads: HeadShape) {
        let [queries, keys, d] = [heads.queries, heads.keys, heads.width].map(|size| size as i64);
        for (norm, first, count) in [(&self.query, 0, queries), (&self.key, queries, keys)] {
            let mut part = qkv.narrow(1, first * d, count * d);
            let heads_thd = part.reshape([-1, count, d]).contiguous();
            part.copy_(&norm.forward(&heads_thd).view([-1, count * d]));
        }
    }
}

/// The cached tokens that the rows of a pass follow, and how the rows attend to them.
pub(crate) enum Past<'a> {
    /// Any rows of any number of sequences; the caches by the plan's cache numbers.
    AnyShape(&'a PassPlan, &'a [&'a KvCache]),
    /// Rows of fixed shape of one sequence.
    FixedShape(FixedView<'a>, &'a KvCache),
}

fn attend(q: &Tensor, k: &Tensor, v: &Tensor, mask: Option<&Tensor>, causal: bool) -> Tensor {
    Tensor::scaled_dot_product_attention(q, k, v, mask, 0.0, causal, None, false)
}
