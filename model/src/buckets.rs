//! Parameters in buckets, each with its own memory: when several processes train, a bucket is reduced,
//! gathered and released as a whole. The first holds the embedding, then there is one per layer, and the last
//! holds the final norm and an untied head. An adapter is one bucket.

use jacobi_torch_ext::Releasable;
use tch::{Device, Kind, Tensor};

use crate::{Adapter, Transformer, linear::Linear, weights::Stacked};

#[cfg(test)]
mod tests;

/// Parameters that share one memory.
pub struct Bucket {
    /// All of them, flattened and concatenated, padded with zeros.
    pub memory: Releasable,
    /// Their places in the memory.
    pub parameters: Vec<PlacedParameter>,
}

/// A parameter in its bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlacedParameter {
    /// Its Hugging Face name.
    pub name: String,
    /// The index of its first element in the bucket.
    pub start: i64,
    /// Its dimensions.
    pub size: Vec<i64>,
}

impl PlacedParameter {
    /// Number of elements.
    pub fn elements(&self) -> i64 {
        self.size.iter().product()
    }
}

impl Transformer {
    /// The bucket of the embedding and of a head tied to it.
    pub const EMBEDDING: usize = 0;

    /// The bucket of layer `layer`.
    pub fn bucket_of_layer(&self, layer: usize) -> usize {
        1 + layer
    }

    /// The buckets of the final norm and the head.
    pub fn buckets_of_head(&self) -> Vec<usize> {
        let last = 1 + self.layers.len();
        if self.architecture().tie_word_embeddings { vec![Self::EMBEDDING, last] } else { vec![last] }
    }

    /// Moves the parameters and the stacks of them into buckets, whose lengths are multiples of `multiple`.
    pub fn into_buckets(&mut self, multiple: usize) -> Vec<Bucket> {
        let starts = std::iter::once(&0).chain(&self.bucket_ends);
        let ranges = starts.zip(&self.bucket_ends).map(|(&start, &end)| start..end);
        tch::no_grad(|| ranges.map(|range| self.bucket(range, multiple as i64)).collect())
    }

    fn bucket(&self, range: std::ops::Range<usize>, multiple: i64) -> Bucket {
        let stacks = self.layers.iter().flat_map(|layer| layer.linears().flat_map(Linear::stacks));
        let parameters: Vec<&(String, Tensor)> = self.parameters()[range].iter().collect();
        Bucket::of(&parameters, &stacks.collect::<Vec<_>>(), (self.kind(), self.device()), multiple)
    }
}

impl Adapter {
    /// Moves the parameters and the stacks of them into one bucket, whose length is a multiple of `multiple`.
    pub fn into_bucket(&mut self, multiple: usize) -> Bucket {
        let parameters = self.parameters_by_stack();
        let options = (parameters[0].1.kind(), parameters[0].1.device());
        let stacks: Vec<&Stacked> = self.stacks().collect();
        tch::no_grad(|| Bucket::of(&parameters, &stacks, options, multiple as i64))
    }
}

impl Bucket {
    /// Moves `parameters` into a bucket. The parts of each of `stacks` follow each other among them, if they are there.
    fn of(
        parameters: &[&(String, Tensor)],
        stacks: &[&Stacked],
        options: (Kind, Device),
        multiple: i64,
    ) -> Self {
        let elements: i64 = parameters.iter().map(|(_, tensor)| tensor.numel() as i64).sum();
        let padded = (elements + multiple - 1) / multiple * multiple;
        let flat = Tensor::zeros([padded], options);
        let mut placed: Vec<PlacedParameter> = Vec::new();
        let mut start = 0;
        for (name, parameter) in parameters {
            let (size, length) = (parameter.size(), parameter.numel() as i64);
            flat.narrow(0, start, length).view(size.as_slice()).copy_(parameter);
            placed.push(PlacedParameter { name: name.clone(), start, size });
            start += length;
        }
        // After the loop above, which still reads the memory that a stack shares with its parts.
        for ((_, parameter), place) in parameters.iter().zip(&placed) {
            if let Some(stack) = stacks.iter().find(|stack| stack.parts[0].data_ptr() == parameter.data_ptr())
            {
                move_to(&stack.whole, &flat, place.start);
            }
            move_to(parameter, &flat, place.start);
        }
        Self { memory: Releasable::new(flat), parameters: placed }
    }
}

/// Makes `tensor` and all handles to it a view of `flat` from `start` on.
fn move_to(tensor: &Tensor, flat: &Tensor, start: i64) {
    let view = flat.narrow(0, start, tensor.numel() as i64).view(tensor.size().as_slice());
    tensor.shallow_clone().set_data(&view);
}
