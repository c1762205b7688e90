//! fp32 gradients, summed over the passes of a step: one buffer for each storage that holds parameters, so
//! that a whole bucket is reduced at once.
//!
//! Legend: n rows, i inputs, o outputs.

use std::{cell::RefCell, collections::HashMap};

use jacobi_torch_ext::{accumulate, add_weight_gradient, storage_elements, storage_place};
use tch::{Device, Kind, Tensor};

/// The gradients of a model's parameters.
pub struct Gradients {
    buffers: RefCell<Vec<Buffer>>,
    /// Index of the buffer by the address of the storage, which stays the same while the memory is released.
    /// Parameters, stacks and a tied head are views of one storage, and their gradients are the same views of
    /// its buffer.
    buffer_of: HashMap<usize, usize>,
}

struct Buffer {
    elements: i64,
    device: Device,
    /// Allocated with the first gradient.
    tensor: Option<Tensor>,
}

impl Gradients {
    /// Zeros for `parameters`; the buffers are in the order of their first parameters.
    pub fn new(parameters: &[(String, Tensor)]) -> Self {
        let (mut buffer_of, mut buffers) = (HashMap::new(), Vec::new());
        for (_, parameter) in parameters {
            buffer_of.entry(storage_place(parameter).storage).or_insert_with(|| {
                let elements = storage_elements(parameter) as i64;
                buffers.push(Buffer { elements, device: parameter.device(), tensor: None });
                buffers.len() - 1
            });
        }
        Self { buffers: RefCell::new(buffers), buffer_of }
    }

    /// The gradient of a parameter, or of a stack of parameters, as a view.
    ///
    /// # Panics
    /// If it is not a parameter that [`Gradients::new`] was given.
    pub fn of(&self, parameter: &Tensor) -> Tensor {
        let place = storage_place(parameter);
        let buffer = *self.buffer_of.get(&place.storage).expect("a parameter of the model");
        let length = parameter.numel() as i64;
        self.buffer(buffer).narrow(0, place.offset, length).view(parameter.size().as_slice())
    }

    /// Whether `parameter` is trained, not frozen.
    pub fn includes(&self, parameter: &Tensor) -> bool {
        self.buffer_of.contains_key(&storage_place(parameter).storage)
    }

    /// Buffer `index`, flat; zeros where there is no gradient yet.
    pub fn buffer(&self, index: usize) -> Tensor {
        let Buffer { elements, device, tensor } = &mut self.buffers.borrow_mut()[index];
        tensor.get_or_insert_with(|| Tensor::zeros([*elements], (Kind::Float, *device))).shallow_clone()
    }

    /// Takes buffer `index` away; the next gradient starts from zeros in a new one.
    pub fn take(&self, index: usize) -> Tensor {
        let buffer = self.buffer(index);
        self.buffers.borrow_mut()[index].tensor = None;
        buffer
    }

    /// Adds to the gradient of a parameter.
    pub fn add(&self, parameter: &Tensor, gradient: &Tensor) {
        accumulate(&mut self.of(parameter), gradient);
    }

    /// Adds the gradient of `weight` `[o, i]` in y = x * weight^T, for `x` `[n, i]` and the gradient `grad`
    /// `[n, o]` of y.
    pub(crate) fn add_product(&self, weight: &Tensor, grad: &Tensor, x: &Tensor) {
        add_weight_gradient(&mut self.of(weight), grad, x);
    }

    /// Adds the gradient of a bias, for the gradient `grad` `[n, o]`.
    pub(crate) fn add_rows(&self, bias: &Tensor, grad: &Tensor) {
        self.add(bias, &grad.sum_dim_intlist([0i64].as_slice(), false, Kind::Float));
    }
}
