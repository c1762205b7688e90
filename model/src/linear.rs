//! The linear layers of a decoder layer, y = x * weight^T + bias. Parameters that are multiplied with the same input are
//! stacked into one layer, for one product instead of several. Some rows can use an adapter in addition.
//!
//! Legend: n rows, i inputs, o outputs.

use jacobi_torch_ext::{linear, product, product_input_gradient};
use tch::Tensor;

use crate::{
    AdaptedRows, Adapter, Gradients, ModelError,
    adapter::LowRank,
    weights::{Stacked, WeightPath},
};

/// The linear layers of a decoder layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LinearName {
    Qkv,
    Output,
    GateUp,
    Down,
}

impl LinearName {
    pub(crate) const ALL: [Self; 4] = [Self::Qkv, Self::Output, Self::GateUp, Self::Down];
}

pub(crate) struct Linear {
    layer: usize,
    name: LinearName,
    weight: Stacked,
    bias: Option<Stacked>,
}

impl Linear {
    /// Of `parts`, each a child of `path` with its number of outputs.
    pub(crate) fn new(
        path: &mut WeightPath,
        (layer, name): (usize, LinearName),
        parts: &[(&str, i64)],
        inputs: i64,
        has_bias: bool,
    ) -> Result<Self, ModelError> {
        let weight = path.take_stacked(parts, "weight", &[inputs])?;
        let bias = has_bias.then(|| path.take_stacked(parts, "bias", &[])).transpose()?;
        Ok(Self { layer, name, weight, bias })
    }

    /// Every stack of parameters.
    pub(crate) fn stacks(&self) -> impl Iterator<Item = &Stacked> {
        std::iter::once(&self.weight).chain(&self.bias)
    }

    /// Under autograd: the outputs `[.., n, o]` of each part for `x` `[.., n, i]`. One product per parameter, so that each
    /// gets its gradient.
    pub(crate) fn parts(&self, x: &Tensor, adapted: Option<AdaptedRows>) -> Vec<Tensor> {
        let outputs = self.weight.parts.iter().enumerate().map(|(part, weight)| {
            let y = x.linear(weight, self.bias.as_ref().map(|bias| &bias.parts[part]));
            let Some((update, first)) = self.update(adapted) else { return y };
            let adapted = |of: &Tensor| of.narrow(-2, first, of.size()[of.dim() - 2] - first);
            match update.part(&adapted(x), part) {
                Some(update) => Tensor::cat(&[y.narrow(-2, 0, first), adapted(&y) + update], -2),
                None => y,
            }
        });
        outputs.collect()
    }

    /// Without gradients: `[n, o]` for `x` `[n, i]`. On a CPU a row's result does not depend on the other rows, bit for bit.
    pub(crate) fn infer(&self, x: &Tensor, adapted: Option<AdaptedRows>) -> Tensor {
        let y = linear(x, &self.weight.whole, self.bias.as_ref().map(|bias| &bias.whole));
        self.adapt(&y, x, adapted, |update, y, x| update.infer(y, &x));
        y
    }

    /// For training, with many rows: `[n, o]` for `x` `[n, i]`.
    pub(crate) fn product(&self, x: &Tensor, adapted: Option<AdaptedRows>) -> Tensor {
        let y = product(x, &self.weight.whole, self.bias.as_ref().map(|bias| &bias.whole));
        self.adapt(&y, x, adapted, |update, y, x| update.product(&y, &x));
        y
    }

    /// The gradient of `x` for the gradient `grad` `[n, o]` of the output; adds the gradients of what is trained: of
    /// `adapter`, which all rows use, or else of the parameters.
    pub(crate) fn backward(
        &self,
        x: &Tensor,
        grad: &Tensor,
        adapter: Option<&Adapter>,
        gradients: &Gradients,
    ) -> Tensor {
        if adapter.is_none() {
            gradients.add_product(&self.weight.whole, grad, x);
            if let Some(bias) = &self.bias {
                gradients.add_rows(&bias.whole, grad);
            }
        }
        let mut grad_x = product_input_gradient(grad, &self.weight.whole);
        if let Some(update) = adapter.and_then(|adapter| adapter.update(self.layer, self.name)) {
            update.backward(x, grad, &mut grad_x, gradients);
        }
        grad_x
    }

    /// The adapter's part for this layer, and the first row that uses it, if the pass has such rows.
    fn update<'a>(&self, adapted: Option<AdaptedRows<'a>>) -> Option<(&'a LowRank, i64)> {
        let AdaptedRows { adapter, first } = adapted?;
        Some((adapter.update(self.layer, self.name)?, first as i64))
    }

    /// Gives `add` the update, and the outputs and inputs of the rows that use it.
    fn adapt(
        &self,
        y: &Tensor,
        x: &Tensor,
        adapted: Option<AdaptedRows>,
        add: impl Fn(&LowRank, Tensor, Tensor),
    ) {
        if let Some((update, first)) = self.update(adapted) {
            let rows = |of: &Tensor| of.narrow(0, first, of.size()[0] - first);
            add(update, rows(y), rows(x));
        }
    }
}

#[cfg(test)]
mod tests;
