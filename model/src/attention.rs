//! Grouped-query attention with rotary positions, over the tokens of this pass or over KV caches.
//!
//! Legend: b batch, t new tokens, s keys, h key/value heads, g query heads per key/value head, d head width.

use jacobi_torch_ext::{FixedView, HeadShape, PassPlan, attend as attend_cached, linear, rotate_and_store};
use tch::Tensor;

use crate::{
    Architecture, ModelError,
    cache::KvCache,
    norm::RmsNorm,
    rope::Rope,
    weights::{Stacked, WeightPath},
};

mod training;

pub(crate) use training::AttentionCache;
pub use training::TrainingRow;

/// RMSNorm over every query and every key head, before the rotation (Qwen3).
struct HeadNorms {
    query: RmsNorm,
    key: RmsNorm,
}

pub(crate) struct Attention {
    qkv: Stacked,
    qkv_bias: Option<Stacked>,
    head_norms: Option<HeadNorms>,
    output: Tensor,
    output_bias: Option<Tensor>,
    heads: HeadShape,
}

impl Attention {
    /// Every stack of parameters.
    pub(crate) fn stacks(&self) -> impl Iterator<Item = &Stacked> {
        [Some(&self.qkv), self.qkv_bias.as_ref()].into_iter().flatten()
    }

    pub(crate) fn new(path: &mut WeightPath, shape: &Architecture) -> Result<Self, ModelError> {
        let (hidden, d) = (shape.hidden_size, shape.head_dim);
        let (q, kv) = (shape.num_attention_heads * d, shape.num_key_value_heads * d);
        let qkv = [("q_proj", q), ("k_proj", kv), ("v_proj", kv)];
        let weights = path.take_stacked(&qkv, "weight", &[hidden])?;
        let qkv_bias = shape.qkv_bias.then(|| path.take_stacked(&qkv, "bias", &[])).transpose()?;
        let norm = |path: &mut WeightPath| RmsNorm::new(path, d, shape.rms_norm_eps);
        let head_norms = match shape.qk_norm {
            true => Some(HeadNorms {
                query: norm(&mut path.child("q_norm"))?,
                key: norm(&mut path.child("k_norm"))?,
            }),
            false => None,
        };
        let mut output = path.child("o_proj");
        Ok(Self {
            qkv: weights,
            qkv_bias,
            head_norms,
            output: output.take("weight", &[hidden, q])?,
            output_bias: shape.output_bias.then(|| output.take("bias", &[hidden])).transpose()?,
            heads: shape.heads(),
        })
    }

    /// Under autograd: the tokens of `x` `[b, t, hidden]` attend to each other, causally or as `mask` says:
    /// additive, and repeated for the query heads of a group ([`crate::AttentionMask::folded`]).
    pub(crate) fn forward(&self, x: &Tensor, rope: &Rope, mask: Option<&Tensor>) -> Tensor {
        let (b, t, _) = x.size3().expect("x is [batch, tokens, hidden]");
        let (h, d) = (self.heads.keys as i64, self.heads.width as i64);
        let project = |part: usize| {
            let bias = self.qkv_bias.as_ref().map(|bias| &bias.parts[part]);
            let x_bthd = x.linear(&self.qkv.parts[part], bias).view([b, t, -1, d]);
            let normed = match (&self.head_norms, part) {
                (Some(norms), 0) => norms.query.forward(&x_bthd),
                (Some(norms), 1) => norms.key.forward(&x_bthd),
                _ => x_bthd,
            };
            normed.transpose(1, 2)
        };
        let (q_bhtd, k_bhtd, v_bhtd) = (rope.rotate(&project(0)), rope.rotate(&project(1)), project(2));
        let y_bhtd = match mask {
            None => attend(&q_bhtd, &self.repeat_heads(&k_bhtd), &self.repeat_heads(&v_bhtd), None, true),
            // The query heads of a group become query tokens, so keys and values need not be repeated.
            Some(_) => {
                let q = q_bhtd.reshape([b, h, self.group() * t, d]);
                attend(&q, &k_bhtd, &v_bhtd, mask, false).reshape([b, h * self.group(), t, d])
            }
        };
        y_bhtd.transpose(1, 2).reshape([b, t, -1]).linear(&self.output, self.output_bias.as_ref())
    }

    /// Without gradients: the rows `x` `[t, hidden]` attend to each other and to the cached tokens of `past`.
    /// Their keys and values are written to the caches of layer `layer`.
    pub(crate) fn infer(&self, x: &Tensor, rope: &Rope, past: &Past, layer: usize) -> Tensor {
        let mut qkv = linear(x, &self.qkv.whole, self.qkv_bias.as_ref().map(|bias| &bias.whole));
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
        linear(&attended, &self.output, self.output_bias.as_ref())
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
