//! One decoder layer: attention and MLP, each with a norm before it and a residual around it. The backward
//! pass of training is written out: its caller decides what is kept and what is recomputed, and gradients go
//! straight into their buffer. The tests compare it with the pass under autograd.
//!
//! Legend: n rows, h hidden width.

use tch::Tensor;

use crate::{
    AdaptedRows, Architecture, Gradients, ModelError,
    attention::{Attention, AttentionCache, LayerPass},
    linear::Linear,
    mlp::Mlp,
    norm::RmsNorm,
    rope::Rope,
    weights::WeightPath,
};

pub(crate) struct DecoderLayer {
    pub(crate) input_layernorm: RmsNorm,
    pub(crate) self_attn: Attention,
    pub(crate) post_attention_layernorm: RmsNorm,
    pub(crate) mlp: Mlp,
}

/// The results of a layer's forward pass that its backward pass needs.
pub struct LayerCache {
    input_nh: Tensor,
    attention: AttentionCache,
    /// After attention and its residual.
    middle_nh: Tensor,
    gate_up: Tensor,
}

impl DecoderLayer {
    pub(crate) fn new(path: &mut WeightPath, shape: &Architecture, layer: usize) -> Result<Self, ModelError> {
        let norm = |path: &mut WeightPath| RmsNorm::new(path, shape.hidden_size, shape.rms_norm_eps);
        Ok(Self {
            input_layernorm: norm(&mut path.child("input_layernorm"))?,
            self_attn: Attention::new(&mut path.child("self_attn"), shape, layer)?,
            post_attention_layernorm: norm(&mut path.child("post_attention_layernorm"))?,
            mlp: Mlp::new(&mut path.child("mlp"), shape, layer)?,
        })
    }

    pub(crate) fn linears(&self) -> impl Iterator<Item = &Linear> {
        self.self_attn.linears().into_iter().chain(self.mlp.linears())
    }

    /// Under autograd.
    pub(crate) fn forward(
        &self,
        x: &Tensor,
        rope: &Rope,
        mask: Option<&Tensor>,
        adapted: Option<AdaptedRows>,
    ) -> Tensor {
        let x = x + self.self_attn.forward(&self.input_layernorm.forward(x), rope, mask, adapted);
        &x + self.mlp.forward(&self.post_attention_layernorm.forward(&x), adapted)
    }

    /// The part of the forward pass whose results the backward pass needs.
    pub(crate) fn cache(&self, x_nh: &Tensor, pass: &LayerPass) -> LayerCache {
        let attention = self.self_attn.cache(&self.input_layernorm.forward(x_nh), pass);
        let mut middle_nh = self.self_attn.project(&attention, pass);
        let _ = middle_nh.g_add_(x_nh);
        let normed = self.post_attention_layernorm.forward(&middle_nh);
        let gate_up = self.mlp.gate_up(&normed, pass.adapted());
        LayerCache { input_nh: x_nh.shallow_clone(), attention, middle_nh, gate_up }
    }

    /// Keys and values of the rows.
    pub(crate) fn keys_values(&self, cache: &LayerCache) -> Tensor {
        self.self_attn.keys_values(&cache.attention)
    }

    /// The rest of the forward pass.
    pub(crate) fn output(&self, cache: &LayerCache, pass: &LayerPass) -> Tensor {
        let mut output_nh = self.mlp.down(&cache.gate_up, pass.adapted());
        let _ = output_nh.g_add_(&cache.middle_nh);
        output_nh
    }

    /// The gradient of the input for the gradient `grad_nh` of the output, which is overwritten. Adds the
    /// gradients of the parameters to `gradients`.
    pub(crate) fn backward(
        &self,
        cache: LayerCache,
        mut grad_nh: Tensor,
        pass: &LayerPass,
        gradients: &Gradients,
    ) -> Tensor {
        let LayerCache { input_nh, attention, middle_nh, gate_up } = cache;
        let norm = &self.post_attention_layernorm;
        let of_mlp = (&grad_nh, pass.adapter);
        let grad = self.mlp.backward(&norm.forward(&middle_nh), gate_up, of_mlp, gradients);
        norm.backward(&middle_nh, &grad, &mut grad_nh, gradients);
        let norm = &self.input_layernorm;
        let grad = self.self_attn.backward(&norm.forward(&input_nh), attention, (&grad_nh, pass), gradients);
        norm.backward(&input_nh, &grad, &mut grad_nh, gradients);
        grad_nh
    }
}
