//! The forward and backward pass of training, layer by layer, without autograd. The caller decides what is
//! kept between the two and computes the losses.
//!
//! Legend: n rows, h hidden width, v vocabulary.

use jacobi_torch_ext::{product, product_input_gradient};
use tch::{Kind, Tensor};

use crate::{Gradients, LayerPass, TrainingRow, Transformer, layer::LayerCache};

impl Transformer {
    /// Number of layers.
    pub fn num_layers(&self) -> usize {
        self.layers.len()
    }

    /// The input of the first layer for tokens (int64) of any shape: `[.., h]`.
    pub fn embed(&self, tokens: &Tensor) -> Tensor {
        Tensor::embedding(&self.embed_tokens, tokens, -1, false, false)
    }

    /// The part of layer `layer` for the input `x_nh` whose results its backward pass needs.
    pub fn layer_cache(&self, layer: usize, x_nh: &Tensor, pass: &LayerPass) -> LayerCache {
        self.layers[layer].cache(x_nh, pass)
    }

    /// The output of layer `layer`.
    pub fn layer_output(&self, layer: usize, cache: &LayerCache, pass: &LayerPass) -> Tensor {
        self.layers[layer].output(cache, pass)
    }

    /// Keys and values `[n, h keys | h values]` of layer `layer`, as the context of a later pass.
    pub fn layer_keys_values(&self, layer: usize, cache: &LayerCache) -> Tensor {
        self.layers[layer].keys_values(cache)
    }

    /// The gradient of the layer's input for the gradient `grad_nh` of its output, which is overwritten.
    pub fn layer_backward(
        &self,
        layer: usize,
        cache: LayerCache,
        grad_nh: Tensor,
        pass: &LayerPass,
        gradients: &Gradients,
    ) -> Tensor {
        self.layers[layer].backward(cache, grad_nh, pass, gradients)
    }

    /// The last layer's output, `[n, h]`; keeps nothing for a backward pass.
    pub fn last_layer(&self, tokens_n: &Tensor, row: &TrainingRow) -> Tensor {
        let pass = LayerPass { row, adapter: None, context: None };
        self.layers.iter().fold(self.embed(tokens_n), |x, layer| layer.output(&layer.cache(&x, &pass), &pass))
    }

    /// Final norm and head over rows of the last layer's output: `[n, v]`.
    pub fn head(&self, x_nh: &Tensor) -> Tensor {
        product(&self.norm.forward(x_nh), &self.lm_head, None)
    }

    /// The gradient of the rows `x_nh` for the gradient of their logits. The head may be frozen.
    pub fn head_backward(&self, x_nh: &Tensor, grad_nv: &Tensor, gradients: &Gradients) -> Tensor {
        if gradients.includes(&self.lm_head) {
            gradients.add_product(&self.lm_head, grad_nv, &self.norm.forward(x_nh));
        }
        let mut grad_nh = x_nh.zeros_like();
        self.norm.backward(x_nh, &product_input_gradient(grad_nv, &self.lm_head), &mut grad_nh, gradients);
        grad_nh
    }

    /// Adds the gradient of the embedding, unless it is frozen, for the gradient `grad_nh` of the first layer's input.
    pub fn embed_backward(&self, tokens_n: &Tensor, grad_nh: &Tensor, gradients: &Gradients) {
        if !gradients.includes(&self.embed_tokens) {
            return;
        }
        let _ = gradients.of(&self.embed_tokens).index_add_(0, tokens_n, &grad_nh.to_kind(Kind::Float));
    }
}
