//! Attention in a training pass, with its backward pass written out.
//!
//! Legend: n rows.

use jacobi_torch_ext::{Attended, HeadShape, Runs, attend_runs, attend_runs_backward, rotate_in_place};
use tch::Tensor;

use super::{Attention, HeadNorms};
use crate::{AdaptedRows, Adapter, Gradients, rope::Rope};

/// The rows of one training pass: several samples one after the other.
pub struct TrainingRow {
    /// The angles of each row's position.
    pub rope: Rope,
    /// Which rows attend to which.
    pub runs: Runs,
}

/// A pass over the rows of one layer.
#[derive(Clone, Copy)]
pub struct LayerPass<'a> {
    /// The rows.
    pub row: &'a TrainingRow,
    /// The adapter of all rows. It is what is trained: everything else is frozen.
    pub adapter: Option<&'a Adapter>,
    /// Keys and values `[m, h keys | h values]` of this layer that the prefixes of the runs refer to, if they are those of
    /// an earlier pass ([`crate::Transformer::layer_keys_values`]). They have no gradient.
    pub context: Option<&'a Tensor>,
}

/// The results of the forward pass that the backward pass needs.
pub(crate) struct AttentionCache {
    /// Queries and keys before the head norms, if there are any.
    unnormed: Option<Tensor>,
    /// After the rotation.
    qkv: Tensor,
    attended: Attended,
}

impl<'a> LayerPass<'a> {
    pub(crate) fn adapted(&self) -> Option<AdaptedRows<'a>> {
        self.adapter.map(|adapter| AdaptedRows { adapter, first: 0 })
    }
}

impl Attention {
    /// Attention of the rows `x`, without the output projection ([`Attention::project`]).
    pub(crate) fn cache(&self, x: &Tensor, pass: &LayerPass) -> AttentionCache {
        let mut qkv = self.qkv.product(x, pass.adapted());
        let unnormed = self.head_norms.as_ref().map(|norms| {
            let width = (self.heads.queries + self.heads.keys) * self.heads.width;
            let unnormed = qkv.narrow(1, 0, width as i64).copy();
            norms.apply_to_rows(&mut qkv, self.heads);
            unnormed
        });
        let (cos, sin) = pass.row.rope.angles();
        rotate_in_place(&mut qkv, cos, sin, self.heads, false);
        let attended = attend_runs(&qkv, pass.context, self.heads, &pass.row.runs);
        AttentionCache { unnormed, qkv, attended }
    }

    pub(crate) fn project(&self, cache: &AttentionCache, pass: &LayerPass) -> Tensor {
        self.output.product(&cache.attended.out, pass.adapted())
    }

    /// Keys and values of all rows, `[n, h keys | h values]`.
    pub(crate) fn keys_values(&self, cache: &AttentionCache) -> Tensor {
        let [queries, keys, d] =
            [self.heads.queries, self.heads.keys, self.heads.width].map(|size| size as i64);
        cache.qkv.narrow(1, queries * d, 2 * keys * d).contiguous()
    }

    /// The gradient of `x` for the gradient `grad` of the projected output.
    pub(crate) fn backward(
        &self,
        x: &Tensor,
        cache: AttentionCache,
        (grad, pass): (&Tensor, &LayerPass),
        gradients: &Gradients,
    ) -> Tensor {
        let AttentionCache { unnormed, qkv, attended } = cache;
        let LayerPass { row, adapter, context } = *pass;
        let grad_out = self.output.backward(&attended.out, grad, adapter, gradients);
        let mut grad_qkv = attend_runs_backward(&qkv, context, self.heads, &row.runs, (&attended, &grad_out));
        let (cos, sin) = row.rope.angles();
        rotate_in_place(&mut grad_qkv, cos, sin, self.heads, true);
        if let (Some(norms), Some(unnormed)) = (&self.head_norms, &unnormed) {
            norms.backward(unnormed, &grad_qkv, self.heads, gradients);
        }
        self.qkv.backward(x, &grad_qkv, adapter, gradients)
    }
}

impl HeadNorms {
    /// Replaces `grad_qkv`, the gradient after the norms, by the gradient before them.
    fn backward(&self, unnormed: &Tensor, grad_qkv: &Tensor, heads: HeadShape, gradients: &Gradients) {
        let [queries, keys, d] = [heads.queries, heads.keys, heads.width].map(|size| size as i64);
        for (norm, first, count) in [(&self.query, 0, queries), (&self.key, queries, keys)] {
            let part = |of: &Tensor| of.narrow(1, first * d, count * d).reshape([-1, count, d]).contiguous();
            let (x, grad) = (part(unnormed), part(grad_qkv));
            let mut grad_x = x.zeros_like();
            norm.backward(&x, &grad, &mut grad_x, gradients);
            grad_qkv.narrow(1, first * d, count * d).copy_(&grad_x.view([-1, count * d]));
        }
    }
}
