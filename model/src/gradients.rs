//! fp32 gradients of every parameter in one buffer: summed over the passes of a step, measured and cleared at once.
//!
//! Legend: n rows, i inputs, o outputs.

use std::collections::HashMap;

use jacobi_torch_ext::{accumulate, add_weight_gradient};
use tch::{Kind, Tensor};

/// One buffer, and where in it each parameter's gradient lies.
pub struct Gradients {
    flat: Tensor,
    /// By the address of the parameter's first element: parameters and stacks of neighbouring ones are views of one
    /// memory, and so are their gradients. A tied head has the address of the embedding.
    places: HashMap<usize, i64>,
}

impl Gradients {
    /// Zeros for `parameters`, in their order.
    pub fn new(parameters: &[(String, Tensor)]) -> Self {
        let mut places = HashMap::new();
        let mut size = 0;
        for (_, parameter) in parameters {
            places.insert(address(parameter), size);
            size += parameter.numel() as i64;
        }
        let device = parameters.first().map_or(tch::Device::Cpu, |(_, parameter)| parameter.device());
        Self { flat: Tensor::zeros([size], (Kind::Float, device)), places }
    }

    /// All of them, one parameter after the other.
    pub fn flat(&self) -> &Tensor {
        &self.flat
    }

    /// The gradient of a parameter, or of a stack of parameters, as a view.
    ///
    /// # Panics
    /// If it is none of those this was made for.
    pub fn of(&self, parameter: &Tensor) -> Tensor {
        let place = self.places.get(&address(parameter)).expect("a parameter of the model");
        self.flat.narrow(0, *place, parameter.numel() as i64).view(parameter.size().as_slice())
    }

    /// Adds to the gradient of a parameter.
    pub fn add(&self, parameter: &Tensor, gradient: &Tensor) {
        accumulate(&mut self.of(parameter), gradient);
    }

    /// Adds the gradient of `weight` `[o, i]` in x * weight^T, for `x` `[n, i]` and the gradient `grad` `[n, o]`.
    pub(crate) fn add_product(&self, weight: &Tensor, grad: &Tensor, x: &Tensor) {
        add_weight_gradient(&mut self.of(weight), grad, x);
    }

    /// Adds the gradient of a bias, for the gradient `grad` `[n, o]`.
    pub(crate) fn add_rows(&self, bias: &Tensor, grad: &Tensor) {
        self.add(bias, &grad.sum_dim_intlist([0i64].as_slice(), false, Kind::Float));
    }
}

fn address(parameter: &Tensor) -> usize {
    parameter.data_ptr() as usize
}
